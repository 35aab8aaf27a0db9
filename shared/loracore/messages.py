"""What the daemon tells its clients: typed, and MessagePack on the wire."""

from __future__ import annotations

import msgspec


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """How far a scan is. `files_total` grows while folders are still walked (`walking`)."""

    files_total: int
    files_processed: int
    failed: int
    duplicates: int
    bytes_total: int
    bytes_read: int
    walking: bool


class FileFailed(msgspec.Struct, frozen=True, tag="failed"):
    """A file could not be used, and why."""

    path: bytes
    reason: str


class Note(msgspec.Struct, frozen=True, tag="note"):
    """Something that a person should know but need not act on, such as a restarted process."""

    text: str


class Summary(msgspec.Struct, frozen=True, tag="summary"):
    """A scan has ended; the numbers of `loractl scan --json`. The sets are in `duplicates.json`."""

    files: int
    failed: int
    groups: int
    duplicate_sets: int
    wasted_bytes: int
    bytes_total: int
    bytes_read: int
    seconds: float
    generation: int


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The scan cannot be done. `exit_code` as in SPEC section 4."""

    reason: str
    exit_code: int


Report = Progress | FileFailed | Note | Summary | Refused
REPORTS: msgspec.msgpack.Decoder[Report] = msgspec.msgpack.Decoder(Report)
#: Bytes of a report; a longer one is not read.
MAX_REPORT = 1 << 20
