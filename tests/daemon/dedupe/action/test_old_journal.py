"""A journal of the version before what goes was put aside: every state of it is taken over, and can be undone.

Then a file had the name `.lorad-TOKEN-ID.tmp` while it was acted on, its own name in quarantine, and a recipe in a
file of its own that names offsets in the kept file.
"""

from __future__ import annotations

import os
import sqlite3
import struct
import zlib
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from blake3 import blake3

from loracore.attributes import Attributes
from lorad.dedupe.action.compare import Layers
from lorad.dedupe.action.hold import hold
from lorad.dedupe.action.journal_file import JOURNAL, MARKER
from lorad.dedupe.action.order import Refused
from lorad.dedupe.action.place import Folder, reach
from lorad.dedupe.history import ActionHistory
from tests.daemon.dedupe.world import dress, make_world, read, side

TOKEN = "0123abcd"
TEMP = b".lorad-0123abcd-1.tmp"
SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE actions (
    id INTEGER PRIMARY KEY AUTOINCREMENT, action TEXT NOT NULL, state TEXT NOT NULL,
    kept BLOB NOT NULL, path BLOB NOT NULL, bytes INTEGER NOT NULL, body BLOB NOT NULL
);
CREATE INDEX by_state ON actions (state);
CREATE INDEX by_kept ON actions (kept);
CREATE INDEX by_path ON actions (path);
PRAGMA user_version = 1;
"""


class Old:
    """A library that an earlier version has acted in, and what it has written down."""

    def __init__(self, folder: Path, action: str, level: str) -> None:
        self.world = world = make_world(str(folder), level=level, sidecars=False)
        self.before = world.look()
        self.temp = os.path.join(os.path.dirname(world.gone), TEMP)
        self.held = os.path.join(
            os.fsencode(world.state), b"quarantine", b"0123abcd-1", os.path.basename(world.gone)
        )
        self.target = os.path.relpath(world.kept, os.path.dirname(world.gone)) if action == "symlink" else b""
        with reach(world.root, world.gone) as reached, hold(reached, None) as held:
            attributes = Attributes.of(held.fd, held.before)
            parent = Folder.of(reached.folder)
        recipe = level == "tensors" and action in ("symlink", "delete")
        self.entry: dict[str, object] = {
            "id": 1, "time_ns": 1, "action": action, "level": level, "text": "", "bytes": 7,
            "kept": side(world.kept, world.root), "gone": side(world.gone, world.root), "attributes": attributes,
            "digest": blake3(read(world.gone)).digest(), "target": self.target, "recipe": recipe, "sidecars": (),
            "place": "state" if action == "quarantine" else "", "restored": 0, "folder": parent, "stands": 0,
        }  # fmt: skip
        os.makedirs(os.path.join(world.state, "recipes"))
        if recipe:
            self._write_recipe()

    def _write_recipe(self) -> None:
        world = self.world
        with (
            reach(world.root, world.kept) as kept_at, hold(kept_at, None) as kept_held,
            reach(world.root, world.gone) as gone_at, hold(gone_at, None) as gone_held,
        ):  # fmt: skip
            kept, gone = Layers(kept_held), Layers(gone_held)
            layers = sorted(
                (gone.place(number), size, number) for number, size in enumerate(gone.container.layout.sizes)
            )
            position, segments, literal = 0, [], b""
            content = read(world.gone)
            for start, size, number in [*layers, (len(content), 0, 0)]:
                if start > position:
                    segments.append((-1, start - position))
                    literal += content[position:start]
                if size:
                    segments.append((kept.place(number), size))
                position = start + size
        recipe = {"size": len(content), "digest": self.entry["digest"], "segments": segments}
        body = msgspec.msgpack.encode(recipe)
        Path(world.state, "recipes/1").write_bytes(
            b"loradrecipe\0\0\0\0\x01" + struct.pack("<Q", len(body)) + body + zlib.compress(literal)
        )

    def write_down(self, state: str, **changes: object) -> None:
        self.entry |= {"state": state, **changes}
        path = os.path.join(self.world.state, JOURNAL)
        with closing(sqlite3.connect(path)) as db, db:
            db.executescript(SCHEMA)
            db.execute("INSERT INTO meta VALUES ('token', ?)", (TOKEN,))
            row = (
                self.entry["action"],
                state,
                self.world.kept,
                self.world.gone,
                7,
                msgspec.msgpack.encode(self.entry),
            )
            db.execute("INSERT INTO actions VALUES (1, ?, ?, ?, ?, ?, ?)", row)
        Path(self.world.state, MARKER).write_text(TOKEN + "\n", encoding="ascii")

    # What lies on the disk at some point of an action

    def in_place(self) -> None:
        """Nothing was done yet."""

    def rehearsed(self) -> None:
        os.close(os.open(self.temp, os.O_CREAT | os.O_WRONLY))

    def link_made(self) -> None:
        self._link(self.temp)

    def put_aside(self) -> None:
        """What goes has its temporary name, or lies in quarantine."""
        if self.entry["action"] == "quarantine":
            os.makedirs(os.path.dirname(self.held))
            for folder in (self.held, os.path.dirname(self.held)):
                os.chmod(os.path.dirname(folder), 0o700)
            os.rename(self.world.gone, self.held)
        else:
            os.rename(self.world.gone, self.temp)
            self._link(self.world.gone)

    def removed(self) -> None:
        """Its last name is gone; in quarantine it stays."""
        self.put_aside()
        if self.entry["action"] != "quarantine":
            os.unlink(self.temp)

    def copy_begun(self) -> None:
        self.removed()
        Path(os.fsdecode(self.temp)).write_bytes(b"half a co")

    def copied(self) -> None:
        self.removed()
        self._copy(self.temp)

    def copy_named(self) -> None:
        """The copy has its name; a link that stood there has the temporary one."""
        self.removed()
        if os.path.lexists(self.world.gone):
            os.rename(self.world.gone, self.temp)
        self._copy(self.world.gone)

    def returned(self) -> None:
        """Out of quarantine."""
        self.put_aside()
        os.rename(self.held, self.world.gone)

    def emptied(self) -> None:
        self.put_aside()
        os.rename(self.held, self.world.state + "/taken")

    def _link(self, path: bytes) -> None:
        if self.entry["action"] == "hardlink":
            os.link(self.world.kept, path)
        elif self.entry["action"] == "symlink":
            os.symlink(self.target, path)

    def _copy(self, path: bytes) -> None:
        was = self.before[os.path.relpath(self.world.gone, self.world.root)]
        Path(os.fsdecode(path)).write_bytes(was.content)
        dress(path, b"gone", was.times[1])
        os.utime(path, ns=was.times)
        self.entry["restored"] = os.lstat(path).st_ino


LINKS, REMADE = ("hardlink", "symlink"), ("hardlink", "symlink", "delete")
ALL = (*REMADE, "quarantine")
DONE = {"hardlink": "linked", "quarantine": "quarantined"}
#: By what was written down and what lies there: of which actions, and the state after repair; `""` is that of an
#: action that was done.
CASES: dict[tuple[str, str], tuple[tuple[str, ...], str]] = {
    ("planned", "in_place"): (ALL, "refused"),
    ("planned", "rehearsed"): (REMADE, "refused"),
    ("planned", "link_made"): (LINKS, "refused"),
    ("planned", "put_aside"): (ALL, "refused"),
    ("removing", "put_aside"): (REMADE, "hidden"),
    ("removing", "removed"): (REMADE, ""),
    ("done", "removed"): (ALL, ""),
    ("failed", "in_place"): (ALL, "refused"),
    ("undoing", "removed"): (ALL, ""),
    ("undoing", "copy_begun"): (REMADE, ""),
    ("undoing", "copied"): (REMADE, ""),
    ("undoing", "copy_named"): (REMADE, "undone"),
    ("undoing", "returned"): (("quarantine",), "undone"),
    ("undone", "in_place"): (ALL, "undone"),
}
EACH = [
    (action, level, *case, state or DONE.get(action, "freed"))
    for case, (actions, state) in CASES.items()
    for action in actions
    for level in ("file", "tensors")
    if level == "file" or action != "hardlink"
]


@pytest.mark.parametrize(("action", "level", "written", "lies", "state"), EACH)
def test_every_state_is_taken_over_and_can_be_undone(  # noqa: PLR0917 - a case
    tmp_path: Path, action: str, level: str, written: str, lies: str, state: str
) -> None:
    """What was interrupted is brought to an end, what was done has its new state; then all is as it was."""
    old = Old(tmp_path, action, level)
    getattr(old, lies)()
    old.write_down(written)
    world = old.world
    with world.actor() as actor:
        assert actor.token == TOKEN
        actor.repair()
        assert not actor.repair()
        assert [each.state for each in world.history()] == [state]
        assert os.path.exists(os.path.join(world.state, "recipes/1")) == (
            state == "freed" and level == "tensors" and action != "quarantine"
        )
        (result,) = actor.undo([1])
        assert result.state == ("nothing" if state in ("refused", "undone") else "undone")
    assert world.look() == old.before
    assert not world.leftovers()


@pytest.mark.parametrize("action", REMADE)
def test_what_was_interrupted_before_its_removal_can_be_freed(tmp_path: Path, action: str) -> None:
    """It lies under its old temporary name, as what is hidden now does under its own."""
    old = Old(tmp_path, action, "file")
    old.put_aside()
    old.write_down("removing")
    world = old.world
    with world.actor() as actor:
        (result,) = actor.repair()
        assert (result.state, result.aside) == ("hidden", old.temp)
    assert world.free(1).state == DONE.get(action, "freed")
    assert not os.path.lexists(old.temp)
    world.undo(1)
    assert world.look() == old.before


def test_what_was_in_quarantine_can_be_freed(tmp_path: Path) -> None:
    """It never ends by itself; asked for, it goes as any other."""
    old = Old(tmp_path, "quarantine", "tensors")
    old.put_aside()
    old.write_down("done")
    assert old.world.free(1).state == "freed"
    assert not old.world.leftovers()
    old.world.undo(1)
    assert old.world.look() == old.before


def test_an_emptied_quarantine_is_made_anew_or_brought_back(tmp_path: Path) -> None:
    """From the kept file where that has the same bytes; else its number undoes it once it is there again."""
    for level in ("file", "tensors"):
        old = Old(tmp_path / level, "quarantine", level)
        old.emptied()
        old.write_down("emptied")
        with old.world.actor() as actor:
            assert actor.repair() == []
            assert [each.state for each in old.world.history()] == ["lost"]
            assert actor.undo([1])[0].state == ("undone" if level == "file" else "refused")
        if level == "tensors":
            os.rename(old.world.state + "/taken", old.held)
            assert old.world.undo(1).state == "undone"
        assert old.world.look() == old.before


@pytest.mark.parametrize(("action", "level"), [("hardlink", "file"), ("delete", "file"), ("delete", "tensors")])
def test_a_kept_file_that_changed_since_makes_nothing(tmp_path: Path, action: str, level: str) -> None:
    """The digest that was written down tells: it is refused, and nothing is changed."""
    old = Old(tmp_path, action, level)
    old.removed()
    old.write_down("done")
    with open(old.world.kept, "r+b") as file:
        file.seek(-5, os.SEEK_END)
        file.write(b"other")
    now = old.world.look()
    with pytest.raises(Refused, match="no file is known that it could be made from"):
        old.world.undo(1)
    assert old.world.look() == now
    assert [each.state for each in old.world.history()] == [DONE.get(action, "freed")]


def test_an_old_journal_is_taken_over_at_the_start(tmp_path: Path) -> None:
    """Also where nothing in it was interrupted: who only reads it says that there is something to do."""
    old = Old(tmp_path, "delete", "file")
    old.removed()
    old.write_down("done")
    past = ActionHistory(old.world.state)
    assert past.is_unfinished()
    assert len(past.history(0, 10)) == 1
    old.world.actor().close()
    assert not past.is_unfinished()
    assert [entry.state for entry in past.history(0, 10)] == ["freed"]
