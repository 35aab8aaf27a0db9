"""How the daemon is, and waiting until it knows all that is on the disk."""

from __future__ import annotations

from loracore.control.frame import Struct


class GetStatus(Struct, frozen=True, tag="status"):
    pass


class Wait(Struct, frozen=True, tag="wait"):
    """Answered, by `Waited`, when everything that was on disk before is reflected in the JSON files."""


class Root(Struct, frozen=True):
    """A watched folder. `health`: `watching`, `polling`, `degraded` or `missing`; `reason` says why."""

    path: bytes
    health: str
    reason: str = ""
    folders: int = 0


class ChildState(Struct, frozen=True):
    """A child process. `state`: `starting`, `ready`, `paused`, or `waiting` to be started again."""

    name: str
    pid: int
    state: str
    restarts: int
    cpu_percent: float
    rss_bytes: int
    #: Seconds since its last sign of life.
    silent_seconds: float


class Error(Struct, frozen=True):
    """A recent error, for `status`."""

    time: str
    text: str
    path: bytes = b""


class Hashing(Struct, frozen=True):
    """How far identity hashes are: files that have them, wait for them, and cannot be hashed.

    All of it is only known where the daemon is set up to hash (`on_arrival`). `path` is the file that is read now;
    `trouble` says why none is.
    """

    on_arrival: bool
    hashed: int = 0
    waiting: int = 0
    failed: int = 0
    path: bytes = b""
    trouble: str = ""


class Hidden(Struct, frozen=True):
    """What de-duplication has put aside, quarantines included, and when the next of it is freed (RFC 3339).

    `waiting`: how many cannot be freed now, and why, for one of them. `full`: disks that are nearly full because
    of it. `unknown`: how many hidden files beside these no action of the journal has hidden.
    """

    files: int = 0
    bytes: int = 0
    next_due: str = ""
    waiting: int = 0
    reason: str = ""
    full: list[str] = []
    unknown: int = 0


class Status(Struct, frozen=True, tag="status"):
    """How the daemon is. `state`: `loading`, `scanning`, `reading` or `idle`. Rates are over the last seconds.

    Files are counted once each, however many names they have; `processed.json` lists names.
    """

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
    #: What digests: `cpu` or `cuda`.
    hasher: str
    #: `watching`, or the worst of the roots' health.
    watch: str
    roots: list[Root]
    files_per_second: float
    bytes_per_second: float
    rss_bytes: int
    cpu_percent: float
    errors: list[Error]
    #: Why that hasher and not another one; empty where there is no choice.
    hasher_note: str = ""
    hashing: Hashing = Hashing(False)
    hidden: Hidden = Hidden()


class Waited(Struct, frozen=True, tag="waited"):
    generation: int


StatusRequest = GetStatus | Wait
StatusAnswer = Status | Waited
