"""The daemon under strace does nothing that its unit's sandbox would refuse.

A container has no systemd to start the unit with; this compares what the daemon and its children do, from
start through work and reload to stop, with what the unit allows. Not covered: act, GPU, TCP.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from tests.builders.architectures import sd15
from tests.builders.weights import random_weights
from tests.builders.write import save_checkpoint, write_safetensors
from tests.systemd.units import SERVICE, allowed_calls, needs_analyze, value


@functools.cache
def _can_trace() -> bool:
    tracer = shutil.which("strace")
    return (
        tracer is not None
        and subprocess.run([tracer, "-f", "-o", os.devnull, "true"], check=False).returncode == 0
    )


needs_strace = pytest.mark.skipif(not _can_trace(), reason="strace is not installed, or may not trace here")
pytestmark = [needs_strace, pytest.mark.timeout(240)]


class Call(NamedTuple):
    """A system call as strace shows it, its arguments as one text."""

    name: str
    arguments: str

    def path(self, folder: str = "/") -> str:
        """The path that it names, after the folder that it is relative to: a descriptor's, or `folder`."""
        found = re.match(r'(?:AT_FDCWD)?(?:\d+)?(?:<([^>]*)>, )?"([^"]*)"', self.arguments)
        assert found is not None, self
        return os.path.normpath(os.path.join(found[1] or folder, found[2]))


class Traced(NamedTuple):
    calls: list[Call]
    own_folders: tuple[str, ...]


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Traced:
    """What a daemon does that finds duplicates, sees a file come, reads its configuration again, and stops."""
    folder = tmp_path_factory.mktemp("sandbox")
    models, state, runtime = (folder / name for name in ("models", "state", "run"))
    for each in (models, state, runtime):
        each.mkdir()
    layers = random_weights(sd15(4, width=16, every=8), 1)
    write_safetensors(str(models / "a.safetensors"), layers)
    save_checkpoint(str(models / "b.pt"), layers)
    config = folder / "lorad.toml"
    config.write_text(f'[watch]\nroots = ["{models}"]\nsettle_seconds = 0.1\n')
    trace = folder / "trace"
    with _systemd(folder / "notify") as messages:
        environ = {
            **os.environ,
            "NOTIFY_SOCKET": str(folder / "notify"),
            "WATCHDOG_USEC": "2000000",
            "STATE_DIRECTORY": str(state),
            "RUNTIME_DIRECTORY": str(runtime),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        command = ["strace", "-f", "-y", "-qq", "-o", str(trace), sys.executable, "-P", "-m", "lorad"]
        process = subprocess.Popen([*command, "--config", str(config)], env=environ, stderr=subprocess.DEVNULL)
        try:
            _until(messages, "READY=1")
            (daemon,) = psutil.Process(process.pid).children()
            write_safetensors(str(models / "c.safetensors"), layers, metadata={"a": "b"})
            _until(messages, "WATCHDOG=1")
            _wait_for_duplicates(state)
            daemon.send_signal(signal.SIGHUP)
            _until(messages, "RELOADING=1")
            _until(messages, "READY=1")
            daemon.send_signal(signal.SIGTERM)
            _until(messages, "STOPPING=1")
            assert process.wait(60) == 0
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
            process.wait(60)
    found = (re.match(r"\d+ +(\w+)\((.*)", line) for line in trace.read_text(errors="replace").splitlines())
    return Traced([Call(each[1], each[2]) for each in found if each], (str(state), str(runtime)))


@contextlib.contextmanager
def _systemd(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as messages:
        messages.bind(str(path))
        messages.settimeout(60)
        yield messages


def _until(messages: socket.socket, wanted: str) -> None:
    while wanted not in messages.recv(4096).decode().split("\n"):
        pass


def _wait_for_duplicates(state: Path) -> None:
    """Until the file that came, and the checkpoint, stand in the view."""
    environ = {**os.environ, "PYTHONPATH": ""}
    code = (
        "import json, sys, time\n"
        "while True:\n"
        "    try: found = json.load(open(sys.argv[1]))['duplicates']\n"
        "    except FileNotFoundError: found = {}\n"
        "    if sum(map(len, found.values())) == 2: break\n"
        "    time.sleep(0.1)"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(state / "duplicates.json")], env=environ, check=True, timeout=90
    )


@needs_analyze
def test_every_system_call_is_allowed(traced: Traced) -> None:
    """`SystemCallFilter=` lets everything through that the daemon and its children ask for."""
    used = {call.name for call in traced.calls}
    assert len(used) > 50
    # Root's SQLite gives new files to the owner of the database; the service's user is not root.
    by_root = {"fchown"} if os.geteuid() == 0 else set()
    assert used - allowed_calls() - by_root == set()


def test_no_memory_is_written_and_executed(traced: Traced) -> None:
    """`MemoryDenyWriteExecute=`: also ctypes and libzmq do without."""
    assert value(SERVICE, "MemoryDenyWriteExecute") == "true"
    for call in traced.calls:
        if call.name in {"mmap", "mprotect", "pkey_mprotect"}:
            assert not ("PROT_EXEC" in call.arguments and "PROT_WRITE" in call.arguments), call
            assert not (call.name != "mmap" and "PROT_EXEC" in call.arguments), call


def test_all_sockets_are_local(traced: Traced) -> None:
    """`RestrictAddressFamilies=AF_UNIX`."""
    assert value(SERVICE, "RestrictAddressFamilies") == "AF_UNIX"
    families = {call.arguments.split(",")[0] for call in traced.calls if call.name in {"socket", "socketpair"}}
    assert families == {"AF_UNIX"}


def test_only_its_own_folders_are_written(traced: Traced) -> None:
    """`ProtectSystem=strict`: models, programs and configuration are read-only."""
    # PrivateTmp= and PrivateDevices= give it a /tmp and a /dev/shm of its own.
    own = (*traced.own_folders, "/dev/null", "/dev/shm/", "/tmp/", "/proc/self/")
    changing = {"mkdir", "mkdirat", "rename", "renameat", "renameat2", "unlink", "unlinkat", "chmod", "fchmodat"}
    written = set()
    for call in traced.calls:
        opened = call.name in {"open", "openat"} and re.search(r"O_(WRONLY|RDWR|CREAT)", call.arguments)
        if opened or call.name in changing:
            # The daemon works in its runtime folder.
            written.add(call.path(traced.own_folders[1]))
    assert any(path.startswith(traced.own_folders) for path in written)
    models = os.path.join(os.path.dirname(traced.own_folders[0]), "models")
    assert {path for path in written if path.startswith(models) or not path.startswith(own)} == set()


def test_no_device_is_opened(traced: Traced) -> None:
    """`PrivateDevices=` leaves null, zero, random and the like."""
    devices = {
        call.path() for call in traced.calls if call.name in {"open", "openat"} and '"/dev/' in call.arguments
    }
    assert devices <= {"/dev/null", "/dev/urandom", "/dev/random", "/dev/zero"}
