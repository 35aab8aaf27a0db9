"""Answers that are given later, by another thread: each once, not too many at a time, and none left out."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

import msgspec

from loracore.control import Answer, Refusal, Reply, Request

_LOG = logging.getLogger(__name__)

#: Requests that wait for the core, for actions or for jobs.
_HANDED_ON = 256
#: Characters of a request that a failure is logged with.
_DESCRIBED = 300
BUSY = Refusal("busy", "too much is asked at once; ask again in a moment")

_T = TypeVar("_T")
#: Takes an answer, which may be encoded already.
Give = Callable[[Answer | msgspec.Raw], None]


class Replies:
    """Those that are still to be given. From any thread."""

    def __init__(self) -> None:
        self._waiting = 0
        self._lock = threading.Lock()

    def hand_on(self, request: Request, later: Give, to: Callable[[Reply], None]) -> Answer | None:
        """Have `to` reply later, without blocking; the answer where too many replies are awaited already."""
        with self._lock:
            if self._waiting >= _HANDED_ON:
                return BUSY
            self._waiting += 1
        replied = False

        def reply(answer: Answer) -> None:
            nonlocal replied
            with self._lock:
                if replied:
                    return
                replied = True
                self._waiting -= 1
            later(answer)

        take(request, lambda: to(reply), reply)
        return None


def failed(error: Exception) -> Refusal:
    """The answer after a mistake in lorad."""
    return Refusal("failed", ascii(f"{type(error).__name__}: {error}")[1:-1][:500])


def described(request: Request | None) -> str:
    """A request for the log; None is a plan for newcomers."""
    return ascii(request)[:_DESCRIBED] if request is not None else "a plan for newcomers"


def done(request: Request | None, job: Callable[[], _T]) -> _T | Refusal:
    """What a job gives; a Refusal where it fails."""
    try:
        return job()
    except Exception as error:
        # A mistake costs one request its answer, not the thread.
        _LOG.exception("a request failed: %s", described(request))
        return failed(error)


def take(request: Request, hand_on: Callable[[], None], reply: Reply) -> None:
    """Hand a request on; what goes wrong is replied."""
    try:
        hand_on()
    except Exception as error:
        # A mistake costs one request its answer, not the thread.
        _LOG.exception("a request was not taken: %s", described(request))
        reply(failed(error))
