"""The Prometheus endpoint, asked over real connections."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from loracore.control import ChildState, Root, Status
from loracore.errors import UsageError
from lorad.supervisor.metrics import MAX_CONNECTIONS, MAX_HEAD, SECONDS, MetricsServer

STATUS = Status(
    version="1.2",
    pid=7,
    state="reading",
    uptime_seconds=60.5,
    state_dir=b"/s",
    generation=12,
    published=10,
    files={"unique": 3, "duplicate": 2},
    files_total=5,
    files_processed=4,
    bytes_total=1000,
    bytes_read=300,
    duplicate_files=1,
    queues={"settle": 1, "header": 0},
    children=[
        ChildState("loader-0", 8, "ready", 2, 50.0, 1 << 20, 0.5),
        ChildState("hasher", 9, "waiting", 0, 0.0, 0, 4.0),
    ],
    hasher="cpu",
    watch="degraded",
    roots=[
        Root(b"/m/\xff\n\"x\"\\", "degraded", "why", 4),
        Root(b"/n", "watching", "", 1),
        Root(b"/n", "watching", "", 1),
    ],
    files_per_second=1.5,
    bytes_per_second=2e6,
    rss_bytes=1 << 28,
    cpu_percent=150.0,
    errors=[],
)  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def serving(status: Status | None = STATUS, *, seconds: float = SECONDS) -> Iterator[tuple[MetricsServer, int]]:
    port = free_port()
    server = MetricsServer(f"127.0.0.1:{port}", lambda: status, seconds=seconds)
    server.start()
    try:
        yield server, port
    finally:
        server.stop()


def get(port: int, target: str = "/metrics", method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with contextlib.closing(connection):
        connection.request(method, target)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_figures_are_those_of_the_status() -> None:
    """Files, bytes, queues, children, generations, the watch, and the process."""
    with serving() as (server, port):
        server.observe(0.003)
        status, text = get(port)
    assert status == 200
    found = samples(text)
    for name, labels, value in [
        ("lorad_files", {"status": "duplicate"}, 2),
        ("lorad_library_bytes", {}, 1000),
        ("lorad_read_bytes_total", {}, 300),
        ("lorad_queue_length", {"queue": "settle"}, 1),
        ("lorad_child_up", {"child": "loader-0"}, 1),
        ("lorad_child_up", {"child": "hasher"}, 0),
        ("lorad_child_restarts_total", {"child": "loader-0"}, 2),
        ("lorad_child_resident_memory_bytes", {"child": "loader-0"}, 1 << 20),
        ("lorad_child_cpu_ratio", {"child": "loader-0"}, 0.5),
        ("lorad_generation", {}, 12),
        ("lorad_published_generation", {}, 10),
        ("lorad_publish_lag_generations", {}, 2),
        ("lorad_state", {"state": "reading"}, 1),
        ("lorad_state", {"state": "idle"}, 0),
        ("lorad_info", {"hasher": "cpu", "version": "1.2"}, 1),
        ("lorad_root_health", {"health": "watching", "root": "/n"}, 1),
        ("lorad_request_seconds_count", {}, 1),
        ("lorad_request_seconds_bucket", {"le": "0.005"}, 1),
        ("lorad_request_seconds_bucket", {"le": "0.0025"}, 0),
    ]:
        assert found[name, tuple(sorted(labels.items()))] == value, name
    assert found["process_resident_memory_bytes", ()] > 0


def test_a_root_of_any_name_is_one_label() -> None:
    """Line breaks, quotes and bytes that are not UTF-8 do not break the format."""
    with serving() as (_, port):
        _, text = get(port)
    roots = {dict(labels)["root"] for name, labels in samples(text) if name == "lorad_root_folders"}
    assert roots == {'/m/\\xff\\n"x"\\', "/n"}


def test_before_there_is_a_status_only_the_process_is_shown() -> None:
    """An answer all the same: the daemon is up."""
    with serving(None) as (_, port):
        status, text = get(port)
    assert status == 200
    assert "process_resident_memory_bytes" in text
    assert "lorad_files" not in text


@pytest.mark.parametrize(
    ("target", "method", "expected"),
    [("/", "GET", 404), ("/metrics/", "GET", 404), ("/metrics", "POST", 405), ("/metrics?name=x", "GET", 200)],
)
def test_there_is_one_page(target: str, method: str, expected: int) -> None:
    """And one way to ask for it."""
    with serving() as (_, port):
        assert get(port, target, method)[0] == expected


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\r\n\r\n",
        b"\x00" * 100 + b"\r\n\r\n",
        b"\x16\x03\x01",
        b"GET /metrics\r\n\r\n",
        b"GET" + b" /metrics" * 500,
        b"a" * (MAX_HEAD * 40),
        b"GET /metrics HTTP/1.1\r\n" + b"a: b\r\n" * 50_000,
    ],
)
def test_garbage_costs_its_sender_alone(garbage: bytes) -> None:
    """It is answered with an error, or with nothing, and the next one is served."""
    with serving() as (_, port):
        answer = said(port, garbage)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
        assert get(port)[0] == 200


def said(port: int, request: bytes) -> bytes:
    """All that comes back until the connection ends, whichever way."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection, contextlib.suppress(OSError):
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        while piece := connection.recv(65536):
            answer += piece
    return answer


def test_who_sends_nothing_is_dropped() -> None:
    """A connection has a few seconds; more than a few at once are turned away; then all is as before."""
    with serving(seconds=1.0) as (_, port), contextlib.ExitStack() as stack:
        idle = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            for _ in range(MAX_CONNECTIONS)
        ]
        # A byte now and then does not buy more time.
        stop = threading.Event()
        dribble = threading.Thread(target=_dribble, args=(idle[0], stop))
        dribble.start()
        with pytest.raises((OSError, http.client.HTTPException)):
            get(port)
        started = time.monotonic()
        for connection in idle:
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(1) == b""
        assert time.monotonic() - started < 5
        stop.set()
        dribble.join()
        assert get(port)[0] == 200


def _dribble(connection: socket.socket, stop: threading.Event) -> None:
    with contextlib.suppress(OSError):
        while not stop.wait(0.1):
            connection.send(b"x")


def test_it_stops_cleanly_and_starts_again() -> None:
    """Also with somebody connected; the port is free and no thread is left."""
    with serving() as (server, port):
        with socket.create_connection(("127.0.0.1", port), timeout=10):
            get(port)
            server.stop()
        assert "metrics" not in [thread.name for thread in threading.enumerate()]
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", port), timeout=10)
        server.start()
        assert get(port)[0] == 200
    server.stop()


def test_a_port_in_use_is_named() -> None:
    """Before the daemon goes on without its metrics."""
    with (
        serving() as (_, port),
        pytest.raises(UsageError, match=rf"\[metrics\] listen: 127.0.0.1:{port}: .* in use"),
    ):
        MetricsServer(f"127.0.0.1:{port}", lambda: None).start()
