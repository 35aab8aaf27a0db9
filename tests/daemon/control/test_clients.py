"""What clients can make the daemon hold is bounded, and a client that is gone is noticed (SPEC section 11)."""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from loracore.control import Answered, Asked, GetStatus, PublishedEvent, Refusal, Status, Wait
from lorad.control import clients, server
from lorad.control.zmtp import greeting, message
from tests.daemon.control.serving import SECONDS, Library, Line, Raw, Served, serving

encode = msgspec.msgpack.encode


@pytest.fixture
def few(library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """A server with room for eight clients."""
    monkeypatch.setattr(server, "for_clients", lambda: 8)
    with serving(library, tmp_path / "run") as served:
        yield served


def honest(served: Served) -> None:
    with Line(served) as line:
        assert isinstance(line.ask(GetStatus()), Status)


def ask(line: Raw, number: int, request: GetStatus | Wait) -> None:
    line.send(encode(Asked(number, request)))


def answered(line: Raw) -> Answered:
    frames = line.receive()
    assert frames is not None
    return msgspec.msgpack.decode(frames[-1], type=Answered)


@pytest.mark.parametrize("kind", [b"", b"DEALER"], ids=["silent", "idle"])
def test_where_there_is_no_room_idle_clients_make_some(few: Served, kind: bytes) -> None:
    """However many there are, a stranger is answered; who waits for an answer keeps its connection."""
    few.held = queue.Queue()
    with contextlib.ExitStack() as stack:
        waiting = stack.enter_context(Raw(few.runtime, "control.sock", kind=b"DEALER"))
        ask(waiting, 1, Wait())
        command = few.held.get(timeout=SECONDS)
        lines = [stack.enter_context(Raw(few.runtime, "control.sock", kind=kind)) for _ in range(40)]
        honest(few)
        assert sum(line.ended() for line in lines[:30]) == 30
        command.reply(Refusal("failed", "the wait is over"))
        assert answered(waiting).answer == Refusal("failed", "the wait is over")
    honest(few)


def test_where_all_wait_the_one_that_waits_for_longest_goes(few: Served) -> None:
    few.held = queue.Queue()
    with contextlib.ExitStack() as stack:
        lines = [stack.enter_context(Raw(few.runtime, "control.sock", kind=b"DEALER")) for _ in range(8)]
        for line in lines:
            ask(line, 1, Wait())
            few.held.get(timeout=SECONDS)
        honest(few)
        assert lines[0].ended()


@pytest.mark.parametrize(
    "data",
    [
        b"\x01\x01x" * 20_000,
        b"\x01\x00" * 20_000,
        b"\x02" + (1 << 62).to_bytes(8, "big"),
        b"\x00" * 10 + b"\xff",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
    ids=["parts", "empty parts", "huge", "flags", "HTTP"],
)
@pytest.mark.parametrize("name", ["control.sock", "events.sock"])
def test_a_message_without_an_end_ends_its_connection(served: Served, name: str, data: bytes) -> None:
    """In any number of parts; nothing of it is kept."""
    with Raw(served.runtime, name, kind=b"" if data.startswith(b"GET") else b"DEALER") as line:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(100):
                line.socket.sendall(data)
        assert line.ended()
    honest(served)


def test_incomplete_messages_are_bounded_in_all(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "_HELD", 1 << 20)
    begun = b"\x02" + (1 << 19).to_bytes(8, "big") + bytes(400_000)
    with contextlib.ExitStack() as stack:
        lines = [stack.enter_context(Raw(served.runtime, "control.sock", kind=b"DEALER")) for _ in range(3)]
        for line in lines:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                line.socket.sendall(begun)
        assert lines[-1].ended()
        honest(served)


def test_who_reads_no_answers_is_let_go(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it does not wait for one that was dropped; others do not notice."""
    monkeypatch.setattr(clients, "MESSAGES", 100)
    with Raw(served.runtime, "control.sock", kind=b"DEALER") as line:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for number in range(1, 20_000):
                ask(line, number, GetStatus())
        assert line.ended()
    honest(served)


def test_what_waits_to_be_read_is_bounded_in_all(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection that has not read for longest goes."""
    monkeypatch.setattr(clients, "_WAITING", 1 << 20)
    with contextlib.ExitStack() as stack:
        lines = [stack.enter_context(Raw(served.runtime, "control.sock", kind=b"DEALER")) for _ in range(4)]
        for line in lines:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for number in range(1, 2_000):
                    ask(line, number, GetStatus())
        honest(served)
        assert lines[0].ended()


def test_pings_are_answered(served: Served) -> None:
    """Of libraries that send them, with the bytes that they sent."""
    with Raw(served.runtime, "control.sock", kind=b"DEALER") as line:
        line.socket.sendall(b"\x04\x0b\x04PING\x00\x64abcd")
        seen = b""
        while not seen.endswith(b"\x04\x09\x04PONGabcd"):
            seen += line.socket.recv(1000)


def test_a_message_may_come_byte_by_byte(served: Served) -> None:
    with Raw(served.runtime, "control.sock") as line:
        for byte in greeting(b"DEALER") + message([encode(Asked(1, GetStatus()))]):
            line.socket.sendall(bytes([byte]))
        assert isinstance(answered(line).answer, Status)


def _unlinked(served: Served) -> None:
    for name in os.listdir(served.runtime):
        os.unlink(served.runtime / name)


def _folder_removed(served: Served) -> None:
    shutil.rmtree(served.runtime)


@pytest.mark.parametrize("remove", [_unlinked, _folder_removed])
def test_sockets_that_somebody_removed_are_made_anew(served: Served, remove: Callable[[Served], None]) -> None:
    """With their folder if need be, as wide as before; who is connected does not notice (SPEC section 4)."""
    before = os.umask(0)
    try:
        with Line(served) as line, Raw(served.runtime, "events.sock", kind=b"SUB") as listener:
            assert isinstance(line.ask(GetStatus()), Status)
            listener.send(b"\x01")
            remove(served)
            for name in ("control.sock", "events.sock"):
                _until_there(served.runtime / name)
            honest(served)
            assert isinstance(line.ask(GetStatus()), Status)
            served.server.tell(PublishedEvent(1))
            assert (listener.receive() or [b""])[0] == b"published"
        assert stat.S_IMODE(os.stat(served.runtime).st_mode) == 0o750
        assert {stat.S_IMODE(path.stat().st_mode) for path in served.runtime.glob("*.sock")} == {0o660}
        assert not any(path.is_dir() for path in served.runtime.iterdir())
    finally:
        os.umask(before)


def _until_there(path: Path) -> None:
    """A socket that takes connections."""
    while True:
        with (
            socket.socket(socket.AF_UNIX) as trial,
            contextlib.suppress(FileNotFoundError, ConnectionRefusedError),
        ):
            folder = os.open(path.parent, os.O_PATH)
            try:
                trial.connect(f"/proc/self/fd/{folder}/{path.name}")
            finally:
                os.close(folder)
            return
