"""A control server over a library that was really scanned, and a client without manners to test it with."""

from __future__ import annotations

import contextlib
import os
import queue
import socket
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import msgspec
import pytest
import zmq

from loracore import config
from loracore.control import Answer, Answered, Asked, ChildState, Error, Request, Root, Status, Wait, Waited
from lorad.control.dedupe_handlers import Deduper
from lorad.control.handlers import Command
from lorad.control.server import ControlServer
from lorad.control.zmtp import Reader, greeting, message
from tests.builders import architectures
from tests.builders.weights import random_weights
from tests.builders.write import library_order, write_safetensors
from tests.integration.scanning import scan

SPECS = architectures.sd15(4, width=4, every=12)
#: A name that is not UTF-8.
ODD = b"odd \xff.safetensors"
SECONDS = 20

STATUS = Status(
    version="0.1", pid=1, state="idle", uptime_seconds=5.0, state_dir=b"/state", generation=3, published=3,
    files={"unique": 2, "duplicate": 3, "failed": 1}, files_total=6, files_processed=6, bytes_total=600,
    bytes_read=100, duplicate_files=2, queues={"settle": 0}, hasher="cpu", watch="watching",
    children=[ChildState("loader-0", 12, "ready", 0, 1.5, 30 << 20, 0.25)],
    roots=[Root(b"/loras", "watching", "", 4)], files_per_second=0.0, bytes_per_second=0.0, rss_bytes=40 << 20,
    cpu_percent=2.0, errors=[Error("2026-11-21T00:00:00Z", "it broke", b"/loras/x")],
)  # fmt: skip


class Library(NamedTuple):
    folder: Path
    state: Path


def make_library(place: Path) -> Library:
    """Files of every kind: duplicates of each level, unique, failed, ignored, oddly named."""
    folder, state = place / "loras", place / "state"
    folder.mkdir()
    layers = random_weights(SPECS, 1)
    names = library_order(layers)
    first = write_safetensors(str(folder / "a.safetensors"), layers)
    os.utime(first, ns=(0, 0))
    (folder / "b.safetensors").write_bytes(Path(first).read_bytes())
    write_safetensors(str(folder / "c.safetensors"), layers, order=names[::-1])
    other = write_safetensors(str(folder / "d.safetensors"), random_weights(SPECS, 2))
    os.link(other, folder / "e.safetensors")
    write_safetensors(str(folder / "f.safetensors"), {"one": layers[names[0]]})
    with open(os.path.join(os.fsencode(folder), ODD), "wb") as file:
        file.write(Path(first).read_bytes())
    (folder / "bad.safetensors").write_bytes(b"x" * 100)
    (folder / "notes.txt").write_text("hello")
    assert scan(folder, state).report["failed"] == 1
    return Library(folder, state)


class Served:
    """A running server. Its core answers `wait` at once, unless `held` collects the commands."""

    def __init__(
        self, library: Library, runtime: Path, settings: config.Control, deduper: Deduper | None = None
    ) -> None:
        self.library = library
        self.runtime = runtime
        self.socket = str(runtime / "control.sock")
        self.held: queue.Queue[Command] | None = None
        self.server = ControlServer(str(runtime), str(library.state), settings, self._post, deduper=deduper)

    def _post(self, command: Command) -> None:
        if self.held is not None:
            self.held.put(command)
        elif isinstance(command.request, Wait):
            command.reply(Waited(7))
        else:
            self.server.handlers.audit(
                config.Watch(roots=(str(self.library.folder),)), lambda path: None, command.reply
            )


@contextlib.contextmanager
def serving(
    library: Library, runtime: Path, settings: config.Control | None = None, deduper: Deduper | None = None
) -> Iterator[Served]:
    served = Served(library, runtime, settings or config.Control(), deduper)
    served.server.start()
    served.server.handlers.set_status(STATUS)
    try:
        yield served
    finally:
        served.server.stop()


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return make_library(tmp_path_factory.mktemp("library"))


@pytest.fixture
def served(library: Library, tmp_path: Path) -> Iterator[Served]:
    with serving(library, tmp_path / "run") as running:
        yield running


class Line:
    """A connection that sends what it is told to, right or wrong."""

    def __init__(self, served: Served) -> None:
        self.context: zmq.Context[zmq.SyncSocket] = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.set(zmq.LINGER, 0)
        self.socket.set(zmq.RCVTIMEO, 1000 * SECONDS)
        descriptor = self._folder = os.open(served.runtime, os.O_PATH)
        self.socket.connect(f"ipc:///proc/self/fd/{descriptor}/control.sock")
        self.number = 0

    def send(self, *frames: bytes) -> None:
        self.socket.send_multipart(frames)

    def receive(self) -> Answered:
        return msgspec.msgpack.decode(self.socket.recv_multipart()[-1], type=Answered)

    def ask(self, request: Request) -> Answer:
        self.number += 1
        self.send(msgspec.msgpack.encode(Asked(self.number, request)))
        answered = self.receive()
        assert answered.id == self.number
        return answered.answer

    def __enter__(self) -> Line:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.context.destroy(linger=0)
        os.close(self._folder)


class Raw:
    """A plain connection to one of the sockets, for what libzmq would not send."""

    def __init__(self, runtime: Path, name: str, *, kind: bytes = b"", timeout: float = SECONDS) -> None:
        """With a `kind`, it says all that a ZeroMQ socket of that kind says first."""
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(timeout)
        self._reader = Reader(1 << 26)
        folder = os.open(runtime, os.O_PATH)
        self.socket.connect(f"/proc/self/fd/{folder}/{name}")
        os.close(folder)
        if kind:
            self.socket.sendall(greeting(kind))

    def send(self, *frames: bytes) -> None:
        self.socket.sendall(message(frames))

    def receive(self) -> list[bytes] | None:
        """The next message; None where the connection has ended."""
        while (found := self._reader.next()) is None:
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                return None
            self._reader.feed(data)
        assert isinstance(found, list)
        return found

    def ended(self) -> bool:
        """Whether the connection ends; what comes before that is passed over."""
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionResetError:
            pass
        except TimeoutError:
            return False
        return True

    def __enter__(self) -> Raw:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()
