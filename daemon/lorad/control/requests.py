"""From a frame to a request, or to the typed refusal that its sender gets. No I/O.

Whatever the bytes are, the cost is bounded by their length, and nothing of them is ever run.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

import msgspec

from loracore.control import MAX_REQUEST, VERSION, Asked, Refusal, Request

#: Connections whose newest number is remembered.
_CONNECTIONS = 4096
_LARGEST_ID = 2**63


class _Envelope(msgspec.Struct):
    id: int
    request: msgspec.Raw
    version: int = VERSION


class _Tag(msgspec.Struct):
    type: str


_ENVELOPE = msgspec.msgpack.Decoder(_Envelope)
_TAG = msgspec.msgpack.Decoder(_Tag)
_REQUEST: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_KNOWN = frozenset(str(kind.__struct_config__.tag) for kind in Request.__args__)
#: What msgspec raises for bytes that are not what was asked for; the second for those nested too deeply.
_WRONG = (msgspec.MsgspecError, RecursionError, ValueError)


class RefusedRequest(Exception):
    """A frame that is no request to be answered. `id` is 0 where none could be read."""

    def __init__(self, number: int, code: str, text: str) -> None:
        super().__init__(text)
        self.id = number
        self.refusal = Refusal(code, text)


class Requests:
    """Reads frames. Remembers the newest number of each connection, so that none is answered twice."""

    def __init__(self) -> None:
        self._newest: OrderedDict[Hashable, int] = OrderedDict()

    def read(self, connection: Hashable, frames: list[bytes]) -> Asked:
        """The request in a message. Raises RefusedRequest."""
        if len(frames) != 1:
            raise RefusedRequest(0, "malformed", f"a request is one frame, this message has {len(frames)}")
        (frame,) = frames
        if len(frame) > MAX_REQUEST:
            raise RefusedRequest(0, "too-large", f"the request has {len(frame)} bytes; {MAX_REQUEST} are allowed")
        try:
            envelope = _ENVELOPE.decode(frame)
        except _WRONG as error:
            raise RefusedRequest(0, "malformed", f"not a request: {_said(error)}") from error
        number = envelope.id
        if not 0 < number < _LARGEST_ID:
            raise RefusedRequest(0, "malformed", f"the id {number} is not from 1 to 2^63 - 1")
        if envelope.version != VERSION:
            text = f"this daemon speaks version {VERSION} of the protocol, not {envelope.version}"
            raise RefusedRequest(number, "version", f"{text}; use the loractl that was installed with it")
        self._count(connection, number)
        return Asked(number, _decode(number, envelope.request))

    def forget(self, connection: Hashable) -> None:
        """It has ended."""
        self._newest.pop(connection, None)

    def _count(self, connection: Hashable, number: int) -> None:
        newest = self._newest.pop(connection, 0)
        self._newest[connection] = max(newest, number)
        if len(self._newest) > _CONNECTIONS:
            self._newest.popitem(last=False)
        if number <= newest:
            text = f"the id {number} is not above {newest}, the last one of this connection"
            raise RefusedRequest(number, "replayed", text)


def _decode(number: int, request: msgspec.Raw) -> Request:
    try:
        tag = _TAG.decode(request).type
        if tag in _KNOWN:
            return _REQUEST.decode(request)
    except _WRONG as error:
        raise RefusedRequest(number, "malformed", f"not a request: {_said(error)}") from error
    raise RefusedRequest(number, "unknown-request", f"this daemon knows no request {tag[:40]!a}")


def _said(error: Exception) -> str:
    """Why, in words of bounded length that can be sent."""
    return ascii(str(error) or type(error).__name__)[1:-1][:200]
