"""However many connect, and whatever they send, the daemon goes on and answers others (SPEC section 11)."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import zmq

from loractl import Client
from tests.integration.running import Running

_RAW, _ZMQ = 1500, 600
_SECONDS = 60
#: What a daemon may have grown by, in bytes, after all of this.
_GROWTH = 80 << 20


@pytest.fixture(autouse=True)
def many_descriptors() -> Iterator[None]:
    """For our ends."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2 * (_RAW + _ZMQ):
        pytest.skip(f"only {hard} files may be open here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def loractl(daemon: Running) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loractl.cli", "status", "--socket", str(daemon.runtime)]
    return subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)


@pytest.mark.parametrize("limit", [128, 4096])
def test_idle_connections_leave_room_for_others(tmp_path: Path, limit: int) -> None:
    """Plain ones that say nothing, and ZeroMQ's, which come back again and again when they are closed."""
    shell = ["sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh"]
    with Running(tmp_path, [], through=shell) as daemon, contextlib.ExitStack() as stack:
        for number in range(_RAW):
            line = stack.enter_context(socket.socket(socket.AF_UNIX))
            line.settimeout(_SECONDS)
            line.connect(str(daemon.runtime / ("control.sock", "events.sock")[number % 2]))
        assert loractl(daemon).returncode == 0
        context: zmq.Context[zmq.SyncSocket] = zmq.Context()
        stack.callback(context.destroy, linger=0)
        peers = []
        for number in range(_ZMQ):
            kind, name = ((zmq.DEALER, "control.sock"), (zmq.SUB, "events.sock"))[number % 2]
            peer = context.socket(kind)
            if kind == zmq.SUB:
                peer.subscribe(b"")
            peer.connect(f"ipc://{daemon.runtime}/{name}")
            peers.append(peer)
        found = loractl(daemon)
        assert found.returncode == 0, found.stderr
        assert psutil.Process(daemon.pid).num_fds() <= limit
        with daemon.client() as client:
            assert client.status().pid == daemon.pid


def test_topics_take_no_memory(tmp_path: Path) -> None:
    """Nor does it silence others who wants too many, or ends what it never asked for."""
    with Running(tmp_path, []) as daemon, daemon.client() as client, client.events(["watch"]) as events:
        core = psutil.Process(daemon.pid)
        before = core.memory_info().rss
        context: zmq.Context[zmq.SyncSocket] = zmq.Context()
        all_greedy = [context.socket(zmq.SUB) for _ in range(4)]
        for greedy in all_greedy:
            for number in range(8_100):
                greedy.subscribe(b"topic %d " % number + os.urandom(4) * 30)
            greedy.connect(f"ipc://{daemon.runtime}/events.sock")
        other = context.socket(zmq.XSUB)
        other.connect(f"ipc://{daemon.runtime}/events.sock")
        for _ in range(100):
            other.send(b"\x00watch")
        for _ in range(20):
            assert client.status().pid == daemon.pid
        (tmp_path / "library").mkdir()
        daemon.configure([tmp_path / "library"])
        os.kill(daemon.pid, 1)
        assert events.next(_SECONDS).event.root == os.fsencode(tmp_path / "library")
        assert core.memory_info().rss - before < _GROWTH
        context.destroy(linger=0)


def test_a_flood_of_requests_is_endured(tmp_path: Path) -> None:
    """Of tiny ones that are none, whose answers are not read, by several at once."""
    with Running(tmp_path, []) as daemon:
        core = psutil.Process(daemon.pid)
        before = core.memory_info().rss
        context: zmq.Context[zmq.SyncSocket] = zmq.Context()
        lines = [context.socket(zmq.DEALER) for _ in range(4)]
        for line in lines:
            line.connect(f"ipc://{daemon.runtime}/control.sock")
        for _ in range(20_000):
            for line in lines:
                with contextlib.suppress(zmq.Again):
                    line.send(b"x", zmq.NOBLOCK)
        with Client(str(daemon.runtime), timeout=_SECONDS) as client:
            assert client.status().pid == daemon.pid
        assert core.memory_info().rss - before < _GROWTH
        context.destroy(linger=0)
