"""What happens, as it happens."""

from __future__ import annotations

from loracore.control.frame import Path, Struct


class FileSeen(Struct, frozen=True, tag="seen"):
    path: bytes
    size: int


class FileGrouped(Struct, frozen=True, tag="grouped"):
    """Its layout is known; `alone` when no other file has it."""

    path: bytes
    layout: bytes
    alone: bool


class DuplicateFound(Struct, frozen=True, tag="duplicate"):
    path: bytes
    #: Others that hold the same weights.
    others: list[bytes]


class FileHashed(Struct, frozen=True, tag="hashed"):
    """Its identity hashes are known; `sha256` in hex."""

    path: bytes
    sha256: str


class FileGone(Struct, frozen=True, tag="gone"):
    path: bytes


class FileFailedEvent(Struct, frozen=True, tag="failed"):
    path: bytes
    reason: str


class ChildRestarted(Struct, frozen=True, tag="child"):
    name: str
    reason: str


class HasherChanged(Struct, frozen=True, tag="hasher"):
    """Weights are digested by something else (`cpu`, `cuda`) from now on, or still; `note` says why."""

    hasher: str
    note: str


class ActionTaken(Struct, frozen=True, tag="action"):
    """`bytes`: how many it freed."""

    id: int
    action: str
    kept: Path
    path: Path
    bytes: int


class ActionRefused(Struct, frozen=True, tag="refused"):
    """An action was not done, and the file is as it was."""

    action: str
    kept: bytes
    path: bytes
    reason: str


class ActionUndone(Struct, frozen=True, tag="undone"):
    id: int
    path: bytes


class FileGivenBack(Struct, frozen=True, tag="given-back"):
    """What was put aside for a file that is gone has its name again; `shown` where that was taken."""

    id: int
    path: bytes
    shown: bytes


class FileFreed(Struct, frozen=True, tag="freed"):
    """What an action had put aside was removed; `bytes`: how many it freed."""

    id: int
    path: Path
    bytes: int


class DedupeProgress(Struct, frozen=True, tag="progress"):
    """How far an `ApplyDedupe` or `UndoActions` is: files, and bytes that are read to compare them."""

    done: int
    total: int
    bytes: int
    bytes_total: int


class JobProgress(Struct, frozen=True, tag="job-progress"):
    """How far a job is, as in `JobState`; the first one tells that it runs."""

    id: int
    done: float
    total: float
    what: str


class JobEnded(Struct, frozen=True, tag="job-ended"):
    id: int
    state: str


class DaySummary(Struct, frozen=True, tag="day"):
    """What was done by itself and by request since `since` (RFC 3339): files by action, and the bytes saved."""

    since: str
    done: dict[str, int]
    bytes: int
    refused: int
    undone: int


class WatchChanged(Struct, frozen=True, tag="watch"):
    root: bytes
    health: str
    reason: str


class PublishedEvent(Struct, frozen=True, tag="published"):
    generation: int


Event = (
    FileSeen | FileGrouped | DuplicateFound | FileGone | FileFailedEvent | ChildRestarted | HasherChanged
    | ActionTaken | WatchChanged | PublishedEvent | ActionRefused | ActionUndone | DedupeProgress | DaySummary
    | JobProgress | JobEnded | FileHashed | FileGivenBack | FileFreed
)  # fmt: skip
