"""Requests as frames, and frames as answers and events or typed errors. No I/O: both clients use it."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import TypeVar

import msgspec

from loracore.control import MAX_REQUEST, VERSION, Answer, Answered, Asked, Refusal, Request, Told
from loracore.errors import LoraError, RefusedError

#: A longer answer is not accepted.
MAX_ANSWER = 64 << 20
_ANSWERED = msgspec.msgpack.Decoder(Answered)
_TOLD = msgspec.msgpack.Decoder(Told)

A = TypeVar("A", bound=Answer)
T = TypeVar("T")


class _Envelope(msgspec.Struct):
    version: int


_ENVELOPE = msgspec.msgpack.Decoder(_Envelope)


def encode(number: int, request: Request) -> bytes:
    """A request's frame. Raises RefusedError for one that no daemon reads."""
    frame = msgspec.msgpack.encode(Asked(number, request))
    if len(frame) > MAX_REQUEST:
        raise RefusedError(f"the request has {len(frame)} bytes, {MAX_REQUEST} are allowed", "too-large")
    return frame


def decode_answer(frame: bytes) -> Answered:
    """Raises RefusedError for an answer of another version, LoraError for what is none."""
    return _decode(_ANSWERED, frame)


def _decode(decoder: msgspec.msgpack.Decoder[T], frame: bytes) -> T:
    try:
        version = _ENVELOPE.decode(frame).version
        if version != VERSION:
            text = f"the daemon speaks version {version} of the protocol, this client {VERSION}"
            raise RefusedError(f"{text}; install the same version of both", "version")
        return decoder.decode(frame)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise LoraError(f"the daemon sent what is no answer: {error}; is it a lorad?") from error


def expect(answer: Answer, kind: type[A]) -> A:
    """An answer of the right kind. Raises RefusedError."""
    if isinstance(answer, Refusal):
        raise RefusedError(answer.text, answer.code)
    if not isinstance(answer, kind):
        raise LoraError(f"the daemon answered with {type(answer).__name__}, not {kind.__name__}; is it a lorad?")
    return answer


class Subscription:
    """Which events are asked for, and when the daemon is known to send them.

    The last of `topics` is our own: the daemon sends a word on it when all of them are in force.
    """

    def __init__(self, kinds: Collection[str] | None) -> None:
        self._ready = b"!" + os.urandom(8).hex().encode()
        self.topics = [*(kind.encode() for kind in (kinds if kinds is not None else [""])), self._ready]
        self.in_force = False
        #: Events that were received before.
        self.early: list[Told] = []

    def read(self, message: list[bytes]) -> Told | None:
        """The event in a message; None for a word on a topic such as ours. Raises as `decode_answer`."""
        if message[0].startswith(b"!"):
            self.in_force |= message[0] == self._ready
            return None
        return _decode(_TOLD, message[-1])

    def read_early(self, message: list[bytes]) -> None:
        """The same for a message that is received while `in_force` is waited for."""
        told = self.read(message)
        if told is not None:
            self.early.append(told)
