"""From requests to frames, and from frames to answers or typed errors. No I/O: both clients use it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

import msgspec

from loracore.control import (
    MAX_REQUEST,
    VERSION,
    Answer,
    Answered,
    Asked,
    DuplicateSet,
    Group,
    Planned,
    Refusal,
    Request,
    Told,
)
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


def decode_event(frame: bytes) -> Told:
    """The same for an event."""
    return _decode(_TOLD, frame)


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


def names_of(path: str | bytes | os.PathLike[str]) -> list[bytes]:
    """What the daemon may know a file as: its absolute path, and that without symbolic links in its folder."""
    absolute = os.path.abspath(os.fsencode(path))
    folder, name = os.path.split(absolute)
    return list(dict.fromkeys([absolute, os.path.join(os.path.realpath(folder), name)]))


class Whole(Generic[T]):
    """Joins what one page ends with to what the next page begins with, where that is one group or set."""

    def __init__(self, join: Callable[[T, T], T | None]) -> None:
        self._join = join
        self._last: T | None = None

    def add(self, items: Iterable[T]) -> Iterator[T]:
        """The items that are known to be whole."""
        for item in items:
            joined = None if self._last is None else self._join(self._last, item)
            if joined is None and self._last is not None:
                yield self._last
            self._last = item if joined is None else joined

    def end(self) -> Iterator[T]:
        if self._last is not None:
            yield self._last


def join_groups(one: Group, other: Group) -> Group | None:
    """One group out of two parts; None where they are two groups."""
    if one.signature != other.signature:
        return None
    return Group(one.signature, one.paths + other.paths)


def join_sets(one: DuplicateSet, other: DuplicateSet) -> DuplicateSet | None:
    if one.kept != other.kept:
        return None
    wasted = one.wasted_bytes + other.wasted_bytes
    return DuplicateSet(one.kept, one.others + other.others, wasted, one.differing + other.differing)


def join_plans(pages: Sequence[Planned]) -> Planned:
    """One plan out of its pages."""
    return msgspec.structs.replace(
        pages[-1],
        steps=[step for page in pages for step in page.steps],
        skipped=[file for page in pages for file in page.skipped],
        bytes=sum(page.bytes for page in pages),
    )
