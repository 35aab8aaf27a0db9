"""All requests, answers and events, and what each travels in."""

from __future__ import annotations

from collections.abc import Callable

from loracore.control.dedupe import DedupeAnswer, DedupeRequest
from loracore.control.edits import EditAnswer, EditRequest
from loracore.control.events import Event
from loracore.control.frame import VERSION, Struct
from loracore.control.health import HealthAnswer, HealthRequest
from loracore.control.jobs import JobAnswer, JobRequest
from loracore.control.library import LibraryAnswer, LibraryRequest
from loracore.control.status import StatusAnswer, StatusRequest
from loracore.control.tags import TagAnswer, TagRequest

Request = StatusRequest | LibraryRequest | TagRequest | HealthRequest | DedupeRequest | JobRequest | EditRequest


class Asked(Struct, frozen=True):
    """A request. `id` grows with each request of a connection; one that does not is refused as replayed."""

    id: int
    request: Request
    version: int = VERSION


class Refusal(Struct, frozen=True, tag="refused"):
    """`code`: `malformed too-large unknown-request version replayed not-found busy loading failed`, or these.

    `read-only`: it would change files, and the configuration or this daemon is not set up to.
    `unknown-job`: the daemon has no job of this name, or runs none.
    """

    code: str
    text: str


Answer = StatusAnswer | LibraryAnswer | TagAnswer | HealthAnswer | DedupeAnswer | JobAnswer | EditAnswer | Refusal


#: Takes the answer to a request.
Reply = Callable[[Answer], None]


class Answered(Struct, frozen=True):
    """`id` is that of the request; 0 where it could not be read."""

    id: int
    answer: Answer
    version: int = VERSION


class Told(Struct, frozen=True):
    """An event. `number` counts all events of this daemon, so that a reader sees whether it missed some."""

    number: int
    time: str
    event: Event
    version: int = VERSION
