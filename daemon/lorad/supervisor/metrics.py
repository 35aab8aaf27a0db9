"""`[metrics]`: serves `GET /metrics` from a thread of its own, with figures of one `Status` each time.

A request is read to the end of its head, within limits of size and time, and each connection is answered once and
closed. More connections than a few are turned away, so that the port cannot be used to hold the daemon's memory or
time. Imported only where `[metrics] listen` is set: prometheus-client takes 40 ms.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from loracore.control import ChildState, Root, Status
from loracore.errors import UsageError
from loracore.paths import shown
from loracore.settings import host_port

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MAX_CONNECTIONS = 4
MAX_HEAD = 8192
#: For a whole connection, from its first byte to the last of the answer.
SECONDS = 5.0


class MetricsServer:
    """Listens on `listen` (`host:port`) from `start` to `stop`.

    `status` is called in the server's thread; it returns the newest status known (None before there is one),
    without waiting.
    """

    def __init__(self, listen: str, status: Callable[[], Status | None], *, seconds: float = SECONDS) -> None:
        self.listen = listen
        self._seconds = seconds
        self._figures = Figures(status)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stop = asyncio.Event()
        self._open = 0

    def start(self) -> None:
        """Listen from now on. Raises UsageError where that cannot be."""
        listening = _listening(self.listen)
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(
            target=self._run, args=(self._loop, listening), name="metrics", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop listening, drop who is connected, and end the thread."""
        if self._loop is not None and self._thread is not None:
            if self._thread.is_alive():
                self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
            self._loop = self._thread = None

    def observe(self, seconds: float) -> None:
        """Count a request on the control socket that was answered after so many seconds. From any thread."""
        self._figures.observe(seconds)

    def _run(self, loop: asyncio.AbstractEventLoop, listening: socket.socket) -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(self._serve(listening))

    async def _serve(self, listening: socket.socket) -> None:
        server = await asyncio.start_server(self._connected, sock=listening, limit=MAX_HEAD)
        await self._stop.wait()
        # Who is still connected is cancelled by the runner when this returns.
        server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= MAX_CONNECTIONS:
                async with asyncio.timeout(self._seconds):
                    writer.write(await self._answer(reader))
                    await writer.drain()
                    writer.close()
                    await writer.wait_closed()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.CancelledError):
            # Who asked is gone, or slow, or the daemon ends.
            pass
        finally:
            self._open -= 1
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return _response("431 Request Header Fields Too Large", b"The request is too large.\n")
        method, _, rest = head.split(b"\r\n", 1)[0].partition(b" ")
        target, _, version = rest.partition(b" ")
        if not version.startswith(b"HTTP/1."):
            return _response("400 Bad Request", b"This is not HTTP/1.\n")
        if target.partition(b"?")[0] != b"/metrics":
            return _response("404 Not Found", b"There is /metrics only.\n")
        if method != b"GET":
            return _response("405 Method Not Allowed", b"Only GET.\n", "Allow: GET\r\n")
        return _response("200 OK", self._figures.render())


def _response(status: str, body: bytes, more: str = "") -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\n"
        f"{more}Connection: close\r\n\r\n"
    )
    return head.encode() + body


def _listening(listen: str) -> socket.socket:
    try:
        host, port = host_port(listen)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=MAX_CONNECTIONS)
    except ValueError:
        raise UsageError(f"[metrics] listen: {listen} is not host:port, such as 127.0.0.1:9570") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"[metrics] listen: {listen}: {reason}; free the port or choose another one") from None


_HEALTHS = ("watching", "polling", "degraded", "missing")
_STATES = ("loading", "scanning", "reading", "idle")
#: Seconds; a status is promised in milliseconds.
_LATENCIES = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)


class Figures:
    """All figures. `status` returns the newest one known, without waiting."""

    def __init__(self, status: Callable[[], Status | None]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_StatusCollector(status))
        ProcessCollector(registry=self._registry)
        self._latency = Histogram(
            "lorad_request_seconds",
            "Time from a request on the control socket to its answer.",
            buckets=_LATENCIES,
            registry=self._registry,
        )

    def observe(self, seconds: float) -> None:
        """Count a request that was answered after so many seconds."""
        self._latency.observe(seconds)

    def render(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self._registry)


class _StatusCollector(Collector):
    def __init__(self, status: Callable[[], Status | None]) -> None:
        self._status = status

    def describe(self) -> Iterable[Metric]:
        """Nothing: otherwise the registry would ask for a status to learn the names."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All figures of the status; none before there is one."""
        status = self._status()
        if status is None:
            return
        yield _info("lorad", "What runs.", {"version": status.version, "hasher": status.hasher})
        yield _one_of("lorad_state", "What the daemon is at.", "state", status.state, _STATES)
        yield _gauge("lorad_uptime_seconds", "Since the start.", status.uptime_seconds)
        yield from _library(status)
        yield from _generations(status)
        yield from _children(status.children)
        yield from _watch(status.roots)
        yield _gauge("lorad_resident_memory_bytes", "Of the daemon and its children.", status.rss_bytes)
        yield _gauge("lorad_cpu_ratio", "Cores used by the daemon and its children.", status.cpu_percent / 100)


def _library(status: Status) -> Iterator[Metric]:
    yield _by("lorad_files", "Files by their status in processed.json.", "status", status.files)
    yield _gauge("lorad_files_processed", "Files that need no more reading.", status.files_processed)
    yield _gauge("lorad_duplicate_files", "Files that hold the weights of another one.", status.duplicate_files)
    yield _gauge("lorad_library_bytes", "Size of all files.", status.bytes_total)
    yield _counter("lorad_read_bytes", "Read of the files.", status.bytes_read)
    yield _gauge("lorad_files_per_second", "Files done, over the last seconds.", status.files_per_second)
    yield _gauge("lorad_bytes_per_second", "Bytes read, over the last seconds.", status.bytes_per_second)
    yield _by("lorad_queue_length", "Files that wait, by what for.", "queue", status.queues)


def _generations(status: Status) -> Iterator[Metric]:
    yield _gauge("lorad_generation", "The catalogue's newest generation.", status.generation)
    yield _gauge("lorad_published_generation", "The generation of the JSON files.", status.published)
    lag = max(0, status.generation - status.published)
    yield _gauge("lorad_publish_lag_generations", "Generations not yet in the JSON files.", lag)


def _children(children: list[ChildState]) -> Iterator[Metric]:
    up = {child.name: float(child.state in {"ready", "paused"}) for child in children}
    yield _by("lorad_child_up", "Whether a child process works, or could.", "child", up)
    restarts = CounterMetricFamily("lorad_child_restarts", "Starts after the first one.", labels=["child"])
    for child in children:
        restarts.add_metric([_label(child.name)], child.restarts)
    yield restarts
    memory = {child.name: child.rss_bytes for child in children}
    yield _by("lorad_child_resident_memory_bytes", "The shared arena counts for each child.", "child", memory)
    cpu = {child.name: child.cpu_percent / 100 for child in children}
    yield _by("lorad_child_cpu_ratio", "Cores used by a child.", "child", cpu)
    silent = {child.name: child.silent_seconds for child in children}
    yield _by("lorad_child_silent_seconds", "Since a child's last sign of life.", "child", silent)


def _watch(roots: list[Root]) -> Iterator[Metric]:
    health = GaugeMetricFamily(
        "lorad_root_health", "1 for the health of a watched folder, 0 for the others.", labels=["root", "health"]
    )
    folders = GaugeMetricFamily("lorad_root_folders", "Folders watched in it, itself included.", labels=["root"])
    # Two names that look alike once escaped would make the whole answer invalid: the last one stands.
    for name, root in {shown(root.path): root for root in roots}.items():
        for each in dict.fromkeys((*_HEALTHS, root.health)):
            health.add_metric([name, _label(each)], float(each == root.health))
        folders.add_metric([name], root.folders)
    yield health
    yield folders


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)


def _info(name: str, text: str, value: dict[str, str]) -> Metric:
    return InfoMetricFamily(name, text, value={key: _label(each) for key, each in value.items()})


def _by(name: str, text: str, label: str, values: dict[str, float] | dict[str, int]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([_label(key)], value)
    return family


def _one_of(name: str, text: str, label: str, value: str, known: tuple[str, ...]) -> Metric:
    return _by(name, text, label, {each: float(each == value) for each in dict.fromkeys((*known, value))})


def _label(value: str) -> str:
    return shown(value)
