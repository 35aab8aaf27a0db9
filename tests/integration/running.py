"""A real `lorad` in the foreground, as systemd would run it, and the real client."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from loracore.errors import NoDaemonError, RefusedError
from loractl import Client

_PATIENCE = 30.0


class Notices:
    """The socket on which a service tells systemd how it is."""

    def __init__(self, path: Path) -> None:
        self.address = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)

    def wait_for(self, line: str, timeout: float = _PATIENCE) -> float:
        """Read notices until one says `line`; the seconds that it took."""
        started = time.monotonic()
        while (left := started + timeout - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                lines = self._socket.recv(65536).decode().splitlines()
            except TimeoutError:
                break
            if line in lines:
                return time.monotonic() - started
        raise AssertionError(f"no {line} within {timeout} s")

    def forget(self) -> None:
        """Drop what was said so far."""
        self._socket.setblocking(False)
        with suppress(BlockingIOError):
            while self._socket.recv(65536):
                pass

    def close(self) -> None:
        self._socket.close()


class Running:
    """A daemon on a state folder. The roots are in its configuration file, written by `configure`.

    `tables` are further ones of the file; `environment` is added to ours; `through` is a command that runs it.
    """

    def __init__(
        self,
        folder: Path,
        roots: Sequence[Path],
        *,
        tables: str = "",
        environment: Mapping[str, str] | None = None,
        through: Sequence[str] = (),
        **watch: object,
    ) -> None:
        self.state = folder / "state"
        # A socket's path is short; that of a test's folder need not be.
        self.runtime = Path(tempfile.mkdtemp(prefix="lorad-"))
        self.config = folder / "lorad.toml"
        self.log = folder / "log"
        self.watch = {"settle_seconds": 0.2, "quiet_seconds": 1.0, "poll_seconds": 1.0, **watch}
        self.notices = Notices(self.runtime / "notify")
        self.tables = tables
        self.through = through
        self.environment = {**os.environ, **(environment or {}), "NOTIFY_SOCKET": self.notices.address}
        self.process: subprocess.Popen[bytes] | None = None
        self.configure(roots)

    def configure(self, roots: Sequence[Path]) -> None:
        lines = [f"{key} = {value}" for key, value in self.watch.items()]
        self.config.write_text(
            "\n".join(["[watch]", f"roots = {[str(root) for root in roots]!r}", *lines, self.tables, ""])
        )

    def start(self, *, ready: bool = True) -> float:
        """Start it; seconds until it said that it is ready."""
        self.notices.forget()
        folders = ("--state-dir", str(self.state), "--runtime-dir", str(self.runtime))
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *self.through,
                    sys.executable,
                    "-m",
                    "lorad",
                    "--config",
                    str(self.config),
                    *folders,
                    "--log-format",
                    "json",
                ],
                env=self.environment,
                stderr=log,
            )
        return self.notices.wait_for("READY=1") if ready else 0.0

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def client(self) -> Client:
        return Client(str(self.runtime / "control.sock"))

    def settle(self, timeout: float = 60) -> int:
        """Wait until the JSON files say all that is on disk; their generation."""
        with self.client() as client:
            return client.wait(timeout).generation

    def children(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def child(self, module: str) -> psutil.Process:
        """The first child that runs a module."""
        return next(child for child in self.children() if module in child.cmdline())

    def ended(self) -> bool:
        """Whether it has ended by itself."""
        return self.process is None or self.process.poll() is not None

    def wait(self) -> int:
        """Its exit status, once it has ended."""
        assert self.process is not None
        status = self.process.wait(_PATIENCE)
        self.process = None
        return status

    def revive(self) -> None:
        """Start it again if it has ended, as systemd would; wait until requests are answered."""
        if self.ended():
            self.start()
        while True:
            try:
                with self.client() as client:
                    client.status()
            except NoDaemonError:
                # It is on its way up, or down.
                assert self.process is not None
                with suppress(subprocess.TimeoutExpired):
                    self.process.wait(0.2)
                    self.start()
            else:
                return

    def settle_when_it_can(self) -> None:
        """Like `settle`, for a daemon that is in trouble and will be out of it."""
        while True:
            try:
                self.settle()
            except RefusedError:
                continue
            return

    def settle_at_last(self) -> None:
        """Like `settle`, for a daemon that may be about to give up because its children were killed too often."""
        while True:
            self.revive()
            try:
                self.settle()
            except NoDaemonError:
                self.wait()
            else:
                return

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to end, see that all its children do, and clean its socket folder; the exit status."""
        assert self.process is not None
        children = self.children()
        self.process.send_signal(number)
        status = self.process.wait(_PATIENCE)
        _, alive = psutil.wait_procs(children, timeout=20)
        assert not alive, f"children outlived the daemon: {alive}"
        self.process = None
        return status

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is not None:
            self.stop(signal.SIGKILL if kind else signal.SIGTERM)
        self.notices.close()
        if kind:
            sys.stderr.write(self.log.read_text(errors="replace")[-5000:])
        shutil.rmtree(self.runtime)


@contextmanager
def running(folder: Path, *roots: Path, **watch: object) -> Iterator[Running]:
    """A daemon that is ready, and has looked through its roots."""
    folder.mkdir(exist_ok=True)
    with Running(folder, roots, **watch) as daemon:
        daemon.settle()
        yield daemon
