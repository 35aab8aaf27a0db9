"""What the job `edit` takes and gives: other entries in the headers of files (SPEC section 7)."""

from __future__ import annotations

from typing import Literal

import msgspec

from loracore.jobs.job import Spec

#: `planned`: it would be changed. `unchanged`: its header says all of it already.
State = Literal["planned", "unchanged", "done", "undone", "refused"]
#: Of an edit in the journal. `interrupted`: it was killed in its middle, and the next edit settles it.
DoneState = Literal["done", "undone", "interrupted"]


class EditParameters(msgspec.Struct, frozen=True):
    """`paths`: safetensors files; a symbolic link stands for its file. Nothing is written without `apply`.

    `strip` comes first: patterns (`*`, `?`, `[…]`) of entries that go; `strip_all`: all but what loading needs.
    Then `unset`, `set`, `title` and `trigger` (`modelspec.title`, `modelspec.trigger_phrase`), and at last
    `repair_hashes`: those that the header states are computed anew, which reads the file.

    `touch`: mtime becomes that of the edit; else it stays. `break_links`: also a file of several names, of which
    this one alone gets the new header. `function`: also what changes what the file does to its base model, or
    whether it can be loaded.

    `undo`: instead, take these edits back, of `paths` alone where there are any. `history`: instead, list the
    journal.
    """

    paths: tuple[bytes, ...] = ()
    set: dict[str, str] = {}
    unset: tuple[str, ...] = ()
    strip: tuple[str, ...] = ()
    strip_all: bool = False
    repair_hashes: bool = False
    title: str | None = None
    trigger: tuple[str, ...] = ()
    apply: bool = False
    touch: bool = False
    break_links: bool = False
    function: bool = False
    undo: tuple[int, ...] = ()
    history: bool = False


class Change(msgspec.Struct, frozen=True):
    """An entry of the header, before and after; None: it is not there. Long values are cut, saying so."""

    key: str
    old: str | None
    new: str | None


class FileEdit(msgspec.Struct, frozen=True):
    """What becomes of a file. `reason` says why it is refused.

    `entries` counts its changes, of which `changes` are the first. `function`: it changes what the file does, or
    whether it can be loaded. Of the bytes of a written file, `shared` are the old one's blocks, `copied` are not.
    """

    path: bytes
    state: State
    changes: tuple[Change, ...] = ()
    entries: int = 0
    reason: str = ""
    function: bool = False
    shared: int = 0
    copied: int = 0
    warnings: tuple[str, ...] = ()


class DoneEdit(msgspec.Struct, frozen=True):
    """A file of an edit in the journal. `id`: of the edit, which may have had many files."""

    id: int
    time: str
    path: bytes
    state: DoneState


class EditResult(msgspec.Struct, frozen=True):
    """`id`: by which it is undone; None where nothing was written, and for an undo. `history`: oldest first.

    `warnings`: what was found of edits that were interrupted, and could not be settled.
    """

    id: int | None
    files: tuple[FileEdit, ...] = ()
    history: tuple[DoneEdit, ...] = ()
    warnings: tuple[str, ...] = ()


SPEC = Spec(
    "edit",
    EditParameters,
    EditResult,
    help="Change what headers say, of one file or thousands; --apply does it.",
    place="lorakit.jobs.edit.job:JOB",
)
