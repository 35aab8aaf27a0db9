"""What ZeroMQ's clients send and get, from bytes and back: ZMTP 3.0 without keys. No I/O.

https://rfc.zeromq.org/spec/23/. libzmq is not used where clients connect: it ends the process when descriptors run
out, keeps any number of topics for a subscriber and any number of parts of a message, and does not tell that a
client is gone.
"""

from __future__ import annotations

from collections.abc import Sequence

_GREETING = 64
_MORE, _LONG, _COMMAND = 1, 2, 4
_READY, _PING, _PONG = b"\x05READY", b"\x04PING", b"\x04PONG"
#: Frames of a message, which take more than their bytes. A request is one.
_PARTS = 10_000
#: A ping's own bytes: the name and a time to live; what follows comes back with the pong.
_PING_HEAD = len(_PING) + 2


class Unacceptable(Exception):
    """What the peer sent ends its connection; the text says why."""


def greeting(socket_type: bytes) -> bytes:
    """All that is said before the peer's own greeting and READY are awaited."""
    name = b"Socket-Type"
    ready = _READY + bytes([len(name)]) + name + len(socket_type).to_bytes(4, "big") + socket_type
    return b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32) + _frame(ready, _COMMAND)


def message(frames: Sequence[bytes]) -> bytes:
    """A message as it is sent."""
    last = len(frames) - 1
    return b"".join(_frame(body, _MORE if place < last else 0) for place, body in enumerate(frames))


def _frame(body: bytes, flags: int) -> bytes:
    if len(body) < 256:
        return bytes([flags, len(body)]) + body
    return bytes([flags | _LONG]) + len(body).to_bytes(8, "big") + body


class Reader:
    """Messages out of a peer's bytes, in whatever pieces they come. `largest`: of one, with its frames' heads."""

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._buffer = bytearray()
        self._parts: list[bytes] = []
        self._size = 0
        self._greeted = False
        #: Whether the peer has said all that comes before messages.
        self.ready = False

    @property
    def held(self) -> int:
        """Bytes that are kept until their message is complete."""
        return len(self._buffer) + self._size

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next(self) -> list[bytes] | bytes | None:
        """A message, or bytes to be sent back at once; None until there are more. Raises Unacceptable."""
        if not self._greeted and not self._greet():
            return None
        while (frame := self._frame()) is not None:
            flags, body = frame
            if flags & _COMMAND:
                if body.startswith(_READY):
                    self.ready = True
                elif body.startswith(_PING):
                    return _frame(_PONG + body[_PING_HEAD : _PING_HEAD + 16], _COMMAND)
                continue
            if not self.ready:
                raise Unacceptable("a message before the end of the handshake")
            self._parts.append(body)
            if len(self._parts) > _PARTS:
                raise Unacceptable(f"a message of more than {_PARTS} frames")
            if not flags & _MORE:
                parts, self._parts, self._size = self._parts, [], 0
                return parts
        return None

    def _greet(self) -> bool:
        """Whether the greeting is complete. One that is wrong is refused as soon as that is seen."""
        start = bytes(self._buffer[:_GREETING])
        wrong = start[:1] not in (b"", b"\xff") or (len(start) > 9 and not start[9] & 1)
        if wrong or (len(start) > 10 and start[10] < 3):
            raise Unacceptable("no ZMTP 3")
        if len(start) < _GREETING:
            return False
        if start[12:32].rstrip(b"\0") != b"NULL":
            raise Unacceptable("another security mechanism")
        del self._buffer[:_GREETING]
        self._greeted = True
        return True

    def _frame(self) -> tuple[int, bytes] | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        flags = buffer[0]
        head = 9 if flags & _LONG else 2
        if len(buffer) < head:
            return None
        size = int.from_bytes(buffer[1:head], "big")
        if flags > 7 or self._size + head + size > self._largest:
            raise Unacceptable(f"a message of more than {self._largest} bytes" if flags <= 7 else "no ZMTP frame")
        if len(buffer) < head + size:
            return None
        body = bytes(buffer[head : head + size])
        del buffer[: head + size]
        if not flags & _COMMAND:
            self._size += head + size
        return flags, body
