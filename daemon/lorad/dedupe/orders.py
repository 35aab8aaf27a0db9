"""What is ordered, what came of it, and why it may be refused."""

from __future__ import annotations

import os
from collections.abc import Callable

import msgspec

from loracore.errors import FileError
from lorad.pipeline.protocol import Identity

#: The actions that change something, each with the levels of sameness at which it may be ordered.
LEVELS = {
    "reflink": ("file",),
    "hardlink": ("file",),
    "symlink": ("file", "tensors"),
    "quarantine": ("file", "tensors"),
    "delete": ("file", "tensors"),
}
#: What may be ordered for the files beside the one that goes: see `sidecars`.
SIDECARS = ("keep", "move")

#: Bytes done, bytes in all. Called often; what it raises ends the action, and what was begun is taken back.
Progress = Callable[[int, int], None]


#: The type, in classes with a field of its name.
Raw = bytes


def spoken(text: str) -> str:
    """Words that name files, fit for the journal and for messages: what is not UTF-8 becomes visible escapes."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def silent(done: int, total: int) -> None:
    """Progress that nobody wants to see."""


class Refused(FileError):
    """An action or an undo that was not done, in one line that names the file and the remedy.

    Names and content are what they were before it was tried. `kept_now`: what the kept file is now where that
    changed nevertheless, since a link to it that was taken back changes its ctime.
    """

    kept_now: Identity | None = None

    @classmethod
    def about(cls, path: bytes, reason: str) -> Refused:
        return cls(reason, os.fsdecode(path))

    def __str__(self) -> str:
        return spoken(super().__str__())


class Unsettled(Refused):
    """What was begun could not be taken back yet: nothing is lost, and repair brings it to an end."""


class Side(msgspec.Struct, frozen=True):
    """One file of a pair. `path` is absolute and lies beneath the folder `root`."""

    path: bytes
    identity: Identity
    root: bytes


class Order(msgspec.Struct, frozen=True):
    """Let `gone` give way to `kept`, which is the same at `level`: `inode`, `file` or `tensors`.

    `sidecars` is `keep` (the files beside it stay) or `move` (they go into quarantine with it; for the actions
    `quarantine` and `delete` alone, since the others leave the name where it was).
    """

    action: str
    level: str
    kept: Side
    gone: Side
    sidecars: str = "keep"


class Result(msgspec.Struct, frozen=True):
    """An action as it stands in the history.

    `state` is `done`, `failed` (nothing changed; `text` says why), `undone`, or `nothing` (there was nothing to
    do, which is not written down: `id` is 0). `planned`, `removing` and `undoing` are those that were
    interrupted and could not be brought to an end yet; `text` says what they wait for. `bytes` is the space that
    the action saved, without what its recipe takes; for `quarantine` the space that is still taken. `kept_now`
    is the identity of the kept file after the action, where it is known: a new hard link changes its ctime.
    """

    id: int
    action: str
    kept: Raw
    path: Raw
    bytes: int
    state: str
    text: str
    time_ns: int = 0
    level: str = ""
    kept_now: Identity | None = None


class Savings(msgspec.Struct, frozen=True):
    """What all actions that are done have saved, and what their quarantines still hold, in bytes."""

    actions: int
    saved: int
    quarantined: int


def check(order: Order) -> None:
    """Raises Refused for an order that no files could fulfil."""
    path = order.gone.path
    if order.action not in LEVELS:
        raise Refused.about(path, f"there is no action {order.action!r}; order one of {', '.join(LEVELS)}")
    if order.level != "inode" and order.level not in LEVELS[order.action]:
        raise Refused.about(
            path, f"{order.action} is not for files that are the same at level {order.level!r}; quarantine is"
        )
    if order.sidecars not in SIDECARS:
        raise Refused.about(path, f"sidecars cannot be {order.sidecars!r}; order one of {', '.join(SIDECARS)}")
