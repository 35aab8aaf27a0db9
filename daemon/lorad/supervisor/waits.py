"""Clients that wait until all that was on disk when they asked is in the JSON files."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import NamedTuple

from loracore.control import Answer, Refusal, Waited

Reply = Callable[[Answer], None]


class _Waiter(NamedTuple):
    reply: Reply
    names: set[bytes]


class Waits:
    """First the watch has to catch up (`sync`), then names settle, then the engine is done and has published."""

    def __init__(self, sync: Callable[[int], None]) -> None:
        self._sync = sync
        self._tokens: dict[int, Reply] = {}
        self._next = 1
        self._waiters: list[_Waiter] = []

    def __len__(self) -> int:
        return len(self._tokens) + len(self._waiters)

    def ask(self, reply: Reply) -> None:
        """A client waits from now on."""
        self._tokens[self._next] = reply
        self._sync(self._next)
        self._next += 1

    def synced(self, token: int, settling: set[bytes]) -> None:
        """The watch has told of all that happened before; these names have still to settle."""
        reply = self._tokens.pop(token, None)
        if reply is not None:
            self._waiters.append(_Waiter(reply, settling))

    def deferred(self, path: bytes) -> None:
        """A sweep met a name that has to settle: it was there before, for all we know."""
        for waiter in self._waiters:
            waiter.names.add(path)

    def check(self, settling: Container[bytes], *, finished: bool, generation: int, trouble: str) -> None:
        """Answer those whose time has come."""
        left = []
        for waiter in self._waiters:
            waiter.names.difference_update([name for name in waiter.names if name not in settling])
            if trouble:
                waiter.reply(Refusal("failed", trouble))
            elif finished and not waiter.names:
                waiter.reply(Waited(generation))
            else:
                left.append(waiter)
        self._waiters = left
