"""What is ordered, what came of it, and why it may be refused."""

from __future__ import annotations

import os
from collections.abc import Callable

import msgspec

from loracore.causes import told
from loracore.errors import FileError
from loracore.identity import Identity
from loracore.policy import SIDECARS
from lorad.dedupe.action.registry import ACTIONS

#: States of an action that holds a file back, which can still be shown again by a rename.
HELD = ("hidden", "waiting", "quarantined")
#: States that `undo` can take back.
STANDING = (*HELD, "freed", "linked", "shared", "lost")

#: Bytes done, bytes in all. Called often; what it raises ends the action, and what was begun is taken back.
Progress = Callable[[int, int], None]
#: The type, in classes with a field of its name.
Raw = bytes


def spoken(text: str) -> str:
    """Words that name files, fit for the journal and for messages: what is not UTF-8 becomes visible escapes."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def silent(done: int, total: int) -> None:
    """Progress that is not shown."""


class Differs(Exception):
    """Two files do not hold the same weights, as they were known to: what is known of them is wrong."""


class Refused(FileError):
    """An action or an undo that was not done, in one line that names the file and the remedy.

    Names and content are what they were before it was tried.
    """

    @classmethod
    def about(cls, path: bytes, reason: str) -> Refused:
        return cls(reason, os.fsdecode(path))

    def __str__(self) -> str:
        return spoken(super().__str__())


class RefusedAsDifferent(Refused, Differs):
    """Refused, as the comparison of the two files found a difference."""


def reason_of(error: Exception) -> str:
    """The reason alone, without the name of the file, for results that have it."""
    if isinstance(error, FileError):
        return spoken(error.reason)
    return spoken(told(error) if isinstance(error, OSError) else str(error))


class Side(msgspec.Struct, frozen=True):
    """One file of a pair. `path` is absolute and lies beneath the folder `root`."""

    path: bytes
    identity: Identity
    root: bytes


class Order(msgspec.Struct, frozen=True):
    """Let `gone` give way to `kept`, which is the same at `level`: `inode`, `file` or `tensors`.

    `sidecars` is `keep` (the files beside it stay) or `move` (they are put aside with it, by `quarantine` and
    `delete`). `folder`: the adapter folder that goes as a whole, empty for a file alone. `layout` and `weights`
    are the signatures of what both hold, `bytes` is what the plan says that it takes.
    """

    action: str
    level: str
    kept: Side
    gone: Side
    sidecars: str = "keep"
    folder: Raw = b""
    layout: Raw = b""
    weights: Raw = b""
    bytes: int = 0


class FreeOrder(msgspec.Struct, frozen=True):
    """Remove what action `number` put aside, for the sake of one of these files, tried in their order.

    `why`: there are none, as it is not known which there are.
    """

    number: int
    keepers: tuple[Side, ...]
    why: str = ""


class Result(msgspec.Struct, frozen=True):
    """What came of an order, as it stands in the history, or `nothing` (there was nothing to do: `id` is 0).

    `text` says why it was refused or what it waits for. `bytes` is the space that it takes out of the library.
    `aside` is where the file is that was put aside, `shown` where it is since it was given back. The fields from
    `layout` on to `config` are those of the entry. `kept_before` and `kept_now`: what the kept file was and is,
    where a link changed its ctime. `differs`: the files were compared, and do not hold the same weights.
    """

    id: int
    action: str
    kept: Raw
    path: Raw
    bytes: int
    state: str
    text: str = ""
    time_ns: int = 0
    level: str = ""
    aside: Raw = b""
    shown: Raw = b""
    layout: Raw = b""
    weights: Raw = b""
    hidden_at: float = 0.0
    unit: bool = False
    function: Raw | None = None
    config: Raw | None = None
    kept_before: Identity | None = None
    kept_now: Identity | None = None
    differs: bool = False


class Savings(msgspec.Struct, frozen=True):
    """What all actions in force have saved, and what is still hidden, in bytes; and the saved by action."""

    actions: int
    saved: int
    held: int
    by_action: dict[str, int]


def check(order: Order) -> None:
    """Raises Refused for an order that no files could fulfil."""
    path, traits = order.gone.path, ACTIONS.get(order.action)
    if traits is None:
        raise Refused.about(path, f"there is no action {order.action!r}; order one of {', '.join(ACTIONS)}")
    if order.level != "inode" and order.level not in traits.levels:
        raise Refused.about(
            path, f"{order.action} is not for files that are the same at level {order.level!r}; quarantine is"
        )
    if order.sidecars not in SIDECARS:
        raise Refused.about(path, f"sidecars cannot be {order.sidecars!r}; order one of {', '.join(SIDECARS)}")
    if order.folder and traits.links:
        raise Refused.about(path, f"{order.action} is for single files; give the file, not its folder")
