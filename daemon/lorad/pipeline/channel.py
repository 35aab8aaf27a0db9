"""Messages over a connected pair of sockets, framed as `loracore.framing` says.

A pair has no name: nobody else can connect to it, and nobody can remove it.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Iterator

from loracore.framing import HEAD, head_of, length_in
from lorad.pipeline.protocol import MAX_MESSAGE

_READ = 1 << 20
#: Pieces that are sent by one call.
_PIECES = 64


class Channel:
    """One end of a pair. Nothing waits: what the other end does not take yet is kept, and sent by `flush`."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._in = bytearray()
        self._out: deque[bytes | memoryview] = deque()
        #: Whether nothing more will come, and whether the other end takes nothing more.
        self.ended = self._deaf = False

    def fileno(self) -> int:
        return self._socket.fileno()

    def put(self, message: bytes) -> None:
        """Send a message, now or by `flush`; nothing where the other end is gone."""
        if not self._deaf:
            self._out += (head_of(message), message)
            self.flush()

    def flush(self) -> bool:
        """Send what there is to send; whether that was all."""
        while self._out:
            pieces = [self._out[place] for place in range(min(_PIECES, len(self._out)))]
            try:
                sent = self._socket.sendmsg(pieces)
            except BlockingIOError:
                return False
            except OSError:
                # What it said before can still be read.
                self._deaf = True
                self._out.clear()
                break
            while self._out and sent >= len(self._out[0]):
                sent -= len(self._out.popleft())
            if sent:
                self._out[0] = memoryview(self._out[0])[sent:]
        return True

    def take(self) -> Iterator[bytes]:
        """All messages that have come."""
        while not self.ended:
            try:
                data = self._socket.recv(_READ)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            self.ended = not data
            self._in += data
            yield from self._messages()

    def close(self) -> None:
        self._socket.close()

    def _messages(self) -> Iterator[bytes]:
        while len(self._in) >= HEAD:
            end = HEAD + length_in(self._in[:HEAD])
            if end > HEAD + MAX_MESSAGE:
                # No process of ours says so much: it is out of step, and its successor will not be.
                self.ended = True
                return
            if len(self._in) < end:
                return
            message = bytes(self._in[HEAD:end])
            del self._in[:end]
            yield message
