"""An action as the journal has it, and the names that its files have meanwhile."""

from __future__ import annotations

import os

import msgspec

from loracore.attributes import Attributes
from lorad.dedupe.action.order import Raw, Result, Side, spoken
from lorad.dedupe.action.place import NAME_BYTES, Folder, cut
from lorad.dedupe.action.registry import ACTIONS, Action

#: States that repair brings an action out of.
UNFINISHED = ("planned", "freeing", "undoing")


class Sidecar(msgspec.Struct, frozen=True):
    """A file that is put aside with the one that goes: its name, and its inode."""

    name: bytes
    ino: int


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """An action with all that repair, undo and giving back need.

    `state`: see SPEC section 5, and the unfinished ones: `planned` (names may be changed, nothing is lost),
    `freeing` (what was put aside is about to be removed), `undoing` (a freed file is made anew). `aside` is the
    name that the file has beside its own; `place` is where its quarantine is: `state`, `root` or none.
    `targets`: what a symbolic link of ours in its place says or said, the present one last; `link`: its inode, by
    which it is known where it was moved to (0: not noted). `layout` and `weights`
    are the signatures of what it holds, `function` and `config` what its header and the configuration beside it
    say of its function; all empty in entries of earlier versions. `attributes` are those of the file
    that goes. `rebuild`: there is a recipe in the journal. `digest` and `recipe` are those of earlier versions:
    BLAKE3-256 of the file, and whether there is a recipe file. `hidden_at`: seconds of `Journal.clock`. `restored`
    is the inode of the copy that an undo has made. `folder` is the one that the file lay in: repair believes what
    it finds in no other. `unit`: the whole folder went; `gone` is that folder then. `before`: the state before an
    unfinished one.
    """

    id: int = 0
    time_ns: int = 0
    action: str
    level: str
    state: str = "planned"
    text: str = ""
    bytes: int = 0
    kept: Side
    gone: Side
    attributes: Attributes
    digest: Raw = b""
    target: Raw = b""
    targets: tuple[Raw, ...] = ()
    link: int = 0
    place: str = ""
    aside: Raw = b""
    recipe: bool = False
    rebuild: bool = False
    sidecars: tuple[Sidecar, ...] = ()
    restored: int = 0
    folder: Folder = Folder()
    unit: bool = False
    layout: Raw = b""
    weights: Raw = b""
    function: Raw | None = None
    config: Raw | None = None
    hidden_at: float = 0.0
    before: str = ""

    @property
    def kind(self) -> Action:
        return ACTIONS[self.action]

    def result(self, text: str | None = None) -> Result:
        text = self.text if text is None else spoken(text)
        return Result(
            self.id, self.action, self.kept.path, self.gone.path, self.bytes, self.state, text, self.time_ns,
            self.level, layout=self.layout, weights=self.weights, hidden_at=self.hidden_at, unit=self.unit,
            function=self.function, config=self.config,
        )  # fmt: skip


def old_temp(token: str, number: int) -> bytes:
    """The name that a file had while an earlier version acted on it, and that copies still have."""
    return b".lorad-%s-%d.tmp" % (token.encode(), number)


def hidden_name(name: bytes, token: str, number: int) -> bytes:
    """`.NAME.aside-TOKEN-NUMBER`; a NAME too long for that is cut."""
    tail = b".aside-%s-%d" % (token.encode(), number)
    room = NAME_BYTES - 1 - len(tail)
    if len(name) > room:
        stem, ending = os.path.splitext(name)
        name = cut(stem, room - len(ending)) + ending if len(ending) < room else cut(name, room)
    return b"." + name + tail
