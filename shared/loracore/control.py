"""The control protocol: what clients ask a running daemon, what it answers, and the events that it sends.

A request is one MessagePack frame on a DEALER socket, `Asked`; its answer one frame, `Answered`, with the same
`id`. Events are two frames on a SUB socket: the kind, to subscribe by, and `Told`. Paths are bytes on the wire.

Sizes: a request is at most `MAX_REQUEST` bytes, an answer about `PAGE_BYTES`: longer lists come in pages, and
`cursor` of one page asks for the next.
"""

from __future__ import annotations

import msgspec

#: The version of this protocol. A daemon refuses other ones, and says which it speaks.
VERSION = 1
MAX_REQUEST = 64 << 10
PAGE_BYTES = 1 << 20


class Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=False):
    """A part of a message. Fields that a later version adds are ignored."""


# Requests


class GetStatus(Struct, tag="status"):
    pass


class Wait(Struct, tag="wait"):
    """Answered, by `Waited`, when everything that was on disk before is reflected in the JSON files."""


class ListGroups(Struct, tag="groups"):
    cursor: str = ""


class ListDuplicates(Struct, tag="duplicates"):
    level: str = ""
    cursor: str = ""


class ListFailed(Struct, tag="failed"):
    cursor: str = ""


class Show(Struct, tag="show"):
    path: bytes


class Find(Struct, tag="find"):
    """`prefix`: the beginning of a hash, in hex digits."""

    prefix: str
    cursor: str = ""


class Audit(Struct, tag="audit"):
    """Compare the disk with the catalogue and the JSON files; answered by `Audited`."""


class Doctor(Struct, tag="doctor"):
    """What the daemon sees of its machine, answered by `Examined`."""


Request = GetStatus | Wait | ListGroups | ListDuplicates | ListFailed | Show | Find | Audit | Doctor


class Asked(Struct):
    """A request. `id` grows with each request of a connection; one that does not is refused as replayed."""

    id: int
    request: Request
    version: int = VERSION


# Answers


class Root(Struct):
    """A watched folder. `health`: `watching`, `polling`, `degraded` or `missing`; `reason` says why."""

    path: bytes
    health: str
    reason: str = ""
    folders: int = 0


class ChildState(Struct):
    """A child process. `state`: `starting`, `ready`, `paused`, or `waiting` to be started again."""

    name: str
    pid: int
    state: str
    restarts: int
    cpu_percent: float
    rss_bytes: int
    #: Seconds since its last sign of life.
    silent_seconds: float


class Error(Struct):
    """A recent error, for `status`."""

    time: str
    text: str
    path: bytes = b""


class Status(Struct, tag="status"):
    """`state`: `loading`, `scanning`, `reading` or `idle`. Rates are over the last seconds."""

    version: str
    pid: int
    state: str
    uptime_seconds: float
    state_dir: bytes
    generation: int
    published: int
    #: Files by their status in `processed.json`.
    files: dict[str, int]
    files_total: int
    files_processed: int
    bytes_total: int
    bytes_read: int
    duplicate_files: int
    #: Names waiting: to settle, for their header, for their digests, to be looked at.
    queues: dict[str, int]
    children: list[ChildState]
    hasher: str
    #: `watching`, or the worst of the roots' health.
    watch: str
    roots: list[Root]
    files_per_second: float
    bytes_per_second: float
    rss_bytes: int
    cpu_percent: float
    errors: list[Error]


class Waited(Struct, tag="waited"):
    generation: int


class Group(Struct):
    """Files of one layout (`signature`: its layout signature)."""

    signature: bytes
    paths: list[bytes]


class Groups(Struct, tag="groups"):
    generation: int
    groups: list[Group]
    cursor: str = ""


class DuplicateSet(Struct):
    """Files that hold the same weights as `kept`, each with its level."""

    kept: bytes
    others: list[tuple[bytes, str]]
    wasted_bytes: int


class Duplicates(Struct, tag="duplicates"):
    generation: int
    complete: bool
    sets: list[DuplicateSet]
    cursor: str = ""


class FailedFile(Struct):
    path: bytes
    reason: str


class Failed(Struct, tag="failed"):
    generation: int
    files: list[FailedFile]
    cursor: str = ""


class Shown(Struct, tag="shown"):
    """All that is known of one file. Digests and signatures are 32 bytes; None where not known (yet)."""

    path: bytes
    status: str
    error: str | None
    size: int
    mtime_ns: int
    format: str | None
    layout: bytes | None
    weights: bytes | None
    layers: int | None
    links: list[bytes]
    kept: bytes | None
    duplicates: list[tuple[bytes, str]]
    load_seconds: float


class Match(Struct):
    """A file with a hash of this `kind` (`layout`, `weights`, `layer`)."""

    path: bytes
    kind: str
    hash: str


class Found(Struct, tag="found"):
    matches: list[Match]
    cursor: str = ""


class Difference(Struct):
    """`what` is one of `missing changed unknown stale` for the disk, or names a JSON file."""

    path: bytes
    what: str
    text: str


class Audited(Struct, tag="audited"):
    files: int
    differences: list[Difference]


class Finding(Struct):
    """`level`: `ok`, `warning` or `problem`. `remedy` is what to do, for the latter two."""

    name: str
    level: str
    text: str
    remedy: str = ""


class Examined(Struct, tag="examined"):
    findings: list[Finding]


class Refusal(Struct, tag="refused"):
    """`code`: `malformed too-large unknown-request version replayed not-found busy loading failed`."""

    code: str
    text: str


Answer = Status | Waited | Groups | Duplicates | Failed | Shown | Found | Audited | Examined | Refusal


class Answered(Struct):
    """`id` is that of the request; 0 where it could not be read."""

    id: int
    answer: Answer
    version: int = VERSION


# Events


class FileSeen(Struct, tag="seen"):
    path: bytes
    size: int


class FileGrouped(Struct, tag="grouped"):
    """Its layout is known; `alone` when no other file has it."""

    path: bytes
    layout: bytes
    alone: bool


class DuplicateFound(Struct, tag="duplicate"):
    path: bytes
    #: Others that hold the same weights.
    others: list[bytes]


class FileGone(Struct, tag="gone"):
    path: bytes


class FileFailedEvent(Struct, tag="failed"):
    path: bytes
    reason: str


class ChildRestarted(Struct, tag="child"):
    name: str
    reason: str


class ActionTaken(Struct, tag="action"):
    id: int
    action: str
    kept: bytes
    path: bytes
    bytes: int


class WatchChanged(Struct, tag="watch"):
    root: bytes
    health: str
    reason: str


class PublishedEvent(Struct, tag="published"):
    generation: int


Event = (
    FileSeen | FileGrouped | DuplicateFound | FileGone | FileFailedEvent | ChildRestarted | ActionTaken
    | WatchChanged | PublishedEvent
)  # fmt: skip


class Told(Struct):
    """An event. `number` counts all events of this daemon, so that a reader sees whether it missed some."""

    number: int
    time: str
    event: Event
    version: int = VERSION


CONTROL_SOCKET = "control.sock"
EVENTS_SOCKET = "events.sock"
