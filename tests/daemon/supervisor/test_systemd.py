"""What systemd is told, on real sockets."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lorad.supervisor.systemd import Notifier


@pytest.fixture(autouse=True)
def _no_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(params=["path", "abstract"])
def systemd(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """The receiving end, as systemd has it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        if request.param == "path":
            name = str(tmp_path / "notify")
            end.bind(name)
        else:
            name = f"@lorad-test-{os.getpid()}"
            end.bind(f"\0{name[1:]}")
        end.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield end


@pytest.fixture
def notifier(systemd: socket.socket) -> Iterator[Notifier]:
    with contextlib.closing(Notifier()) as made:
        yield made


def test_each_message_is_one_datagram(systemd: socket.socket, notifier: Notifier) -> None:
    """As sd_notify(3) has them."""
    assert notifier.ready()
    assert systemd.recv(4096) == b"READY=1"
    assert notifier.status("27 files")
    assert systemd.recv(4096) == b"STATUS=27 files"
    assert notifier.watchdog()
    assert systemd.recv(4096) == b"WATCHDOG=1"
    assert notifier.stopping()
    assert systemd.recv(4096) == b"STOPPING=1"
    notifier.close()
    assert not notifier.ready()


def test_a_reload_carries_the_time_that_systemd_compares(systemd: socket.socket, notifier: Notifier) -> None:
    """RELOADING=1 together with CLOCK_MONOTONIC in microseconds."""
    before = time.monotonic_ns() // 1000
    notifier.reloading()
    first, second = systemd.recv(4096).decode().split("\n")
    assert first == "RELOADING=1"
    name, _, value = second.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(value) <= time.monotonic_ns() // 1000


@pytest.mark.parametrize("text", ["a\nREADY=1", "a\udcff\nb", "\ud800\n", "x" * 100_000])
def test_a_file_name_in_the_status_cannot_say_more(systemd: socket.socket, notifier: Notifier, text: str) -> None:
    """Line breaks, bytes that are not UTF-8 and length are harmless."""
    assert notifier.status(text)
    message = systemd.recv(1 << 20)
    assert message.startswith(b"STATUS=")
    assert b"\n" not in message
    assert len(message) < 1000


def test_children_do_not_inherit_the_socket(systemd: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that systemd gave to the daemon reaches a child's environment or descriptors."""
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    notifier = Notifier()
    lines = """
import os
print([name for name in os.environ if "NOTIFY" in name or "WATCHDOG" in name])
links = [f"/proc/self/fd/{fd}" for fd in range(100)]
print([link for link in links if os.path.islink(link) and os.readlink(link).startswith("socket:")])
"""
    said = subprocess.run(
        [sys.executable, "-c", lines], check=True, capture_output=True, text=True, close_fds=False
    )
    assert said.stdout.split() == ["[]", "[]"]
    assert notifier.ready()
    notifier.close()


@pytest.mark.parametrize("name", [None, "", "/nowhere/notify", "vsock:2:1234", "@", "/" + "x" * 300, "/a\udcff"])
def test_without_systemd_nothing_happens(name: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """No name, a name of another kind, or nobody there: False, and no error."""
    if name is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", name)
    notifier = Notifier()
    assert not any((notifier.ready(), notifier.status("x"), notifier.reloading(), notifier.watchdog()))
    notifier.close()
    notifier.close()


def test_a_systemd_that_does_not_listen_is_not_waited_for(notifier: Notifier) -> None:
    """When its queue is full, messages are lost and the daemon goes on."""
    started = time.monotonic()
    while notifier.watchdog():
        assert time.monotonic() - started < 5
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("microseconds", "pid", "interval"),
    [
        ("30000000", None, 15.0),
        ("30000000", "own", 15.0),
        ("30000000", "1", None),
        ("0", None, None),
        ("soon", None, None),
        (None, None, None),
    ],
)
def test_watchdog_interval(
    microseconds: str | None, pid: str | None, interval: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of what systemd waits for, if it means this process."""
    if microseconds is not None:
        monkeypatch.setenv("WATCHDOG_USEC", microseconds)
    if pid is not None:
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "own" else pid)
    assert Notifier().watchdog_interval == interval
    assert "WATCHDOG_USEC" not in os.environ
