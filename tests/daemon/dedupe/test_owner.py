"""The promise of de-duplication (SPEC section 5): whatever an owner does, his tensors stay readable.

Beside the disk, his names are kept as they would be without lorad: as long as one of them has some content, and
lorad did not free it for the sake of another file, that content is to be found under a name in view.
`LORAD_DEDUPE_EXAMPLES` says how many histories of each action are tried.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

import loracore.identity
from loracore.control import Applied, Undone
from lorad.dedupe.action.order import HELD
from tests.daemon.dedupe.owner import SUFFIX, TRASH, Disk, Lorad, held

#: Of each action, half of them without grace; `make soak` raises it.
EXAMPLES = int(os.environ.get("LORAD_DEDUPE_EXAMPLES", "30"))
STEPS = 25
FOLDERS = ("one/a", "one/b", "two/c")
MADE = [(number, form) for number in (1, 2, 3) for form in ("", "trained longer")]
WEEK = 8 * 24 * 3600.0

files = st.builds(
    lambda folder, stem: f"{folder}/{stem}{SUFFIX}",
    st.sampled_from(FOLDERS),
    st.sampled_from(("style", "style (1)", "run-000002")),
)
contents = st.sampled_from([*MADE, *[(1, "")] * 6])
numbers = st.integers(0, 99)
folders = st.sampled_from([*FOLDERS, "one/moved", "two/moved"])


class Owner(RuleBasedStateMachine):
    action = "delete"
    grace = "7d"

    @initialize(copies=st.lists(files, max_size=3))
    def begin(self, copies: list[str]) -> None:
        self.place = tempfile.TemporaryDirectory()
        self.patch = patch.object(loracore.identity, "TICK_NS", 0)
        self.patch.start()
        base = Path(os.path.realpath(self.place.name)) / "disk"
        self.disk = Disk(base, FOLDERS, MADE)
        self.disk.put(f"one/a/style{SUFFIX}", (1, ""))
        for name in copies:
            self.disk.put(name, (1, ""))
        self.disk.tick()
        self.swept = False
        self.lorad = Lorad(base.parent, [base / "one", base / "two"], self.action, self.grace)
        self.freed: set[int] = set()
        self.rest()

    def teardown(self) -> None:
        if not hasattr(self, "lorad"):
            return
        try:
            self.end()
        finally:
            self.patch.stop()
            self.lorad.close()
            self.place.cleanup()

    def end(self) -> None:
        """All that can come back does, and can be acted on again."""
        self.lorad.death.left = 0
        self.rest()
        self.undo_all()
        again = self.lorad.apply(self.action, now=False)
        self.rest()
        assert [answer for answer in again if isinstance(answer, Applied) and not answer.refused], again

    def undo_all(self) -> None:
        held_before = {entry.id for entry in self.lorad.entries(*HELD)}
        # A client whose lorad is killed asks again.
        answers = self.lorad.undo(None) or self.lorad.undo(None)
        assert [answer for answer in answers if isinstance(answer, Undone)]
        self.rest()
        # What came as a duplicate of what is back is acted on as any newcomer.
        left = [entry for entry in self.lorad.entries(*HELD) if entry.id in held_before]
        assert not left, [(entry.id, entry.state, entry.text) for entry in left]

    # The promise

    def rest(self) -> None:
        """All that was done becomes known to lorad; then the promise holds."""
        disk, life = self.disk, self.lorad.life
        dirty, disk.dirty = disk.dirty, []
        life.touch(*(disk.path(name) for name in dirty))
        if self.swept or any(not name.endswith(SUFFIX) for name in dirty):
            for root in life.roots:
                life.engine.sweeps.add(root)
        self.lorad.rest()
        self.check()
        disk.tick()

    def check(self) -> None:
        disk = self.disk
        gone = {entry.id: entry for entry in self.lorad.entries("freed", "linked")}
        new = [entry for number, entry in gone.items() if number not in self.freed]
        self.freed = set(gone)
        disk.note_freed(new)
        state = (self.lorad.death.step, sorted(disk.model.items()), disk.in_view(), disk.hidden())
        lost = disk.lost(self.lorad.entries(*HELD))
        assert not lost, (lost, state)
        asides = [path for path in held(self.lorad) if TRASH not in path.parts]
        assert not disk.kept_back(asides), (disk.kept_back(asides), state)
        disk.adopt()

    # The owner

    def some(self, number: int) -> str | None:
        """A name in view that can be read."""
        names = [name for name in self.disk.in_view() if self.disk.content(self.disk.path(name)) is not None]
        return names[number % len(names)] if names else None

    def one_folder(self, number: int) -> str | None:
        there = [name for name in (*FOLDERS, "one/moved", "two/moved") if self.disk.path(name).is_dir()]
        return there[number % len(there)] if there else None

    @rule(name=files, content=contents)
    def download(self, name: str, content: tuple[int, str]) -> None:
        self.disk.put(name, content)
        self.rest()

    @rule(number=numbers, name=files, then_remove=st.booleans(), between=st.booleans())
    def copy(self, number: int, name: str, then_remove: bool, between: bool) -> None:
        """Or move to another disk: a copy, then the first one is removed."""
        source = self.some(number)
        if source is None or source == name or os.path.lexists(self.disk.path(name)):
            return
        self.disk.copy(source, name)
        if between:
            self.rest()
        if then_remove and os.path.lexists(self.disk.path(source)):
            self.disk.remove(source)
        self.rest()

    @rule(number=numbers, name=files)
    def rename(self, number: int, name: str) -> None:
        source = self.some(number)
        if source is not None and source != name and not os.path.lexists(self.disk.path(name)):
            self.disk.move(source, name)
            self.rest()

    @rule(number=numbers, content=contents, unseen=st.booleans())
    def overwrite(self, number: int, content: tuple[int, str], unseen: bool) -> None:
        """In place, through a link if it is one."""
        name = self.some(number)
        if name is None:
            return
        self.disk.overwrite(name, content)
        if not unseen:
            self.rest()

    @rule(number=numbers)
    def touch(self, number: int) -> None:
        if (name := self.some(number)) is not None:
            os.utime(self.disk.path(name))
            # Of a link, the watch tells of what it leads to.
            self.disk.dirty.append(os.path.relpath(self.disk.path(name).resolve(), self.disk.base))
            self.rest()

    @rule(number=numbers, unseen=st.booleans())
    def remove(self, number: int, unseen: bool) -> None:
        """Also a link of ours; `unseen`: lorad may do something before it knows of it."""
        names = self.disk.in_view()
        if names:
            self.disk.remove(names[number % len(names)])
            if not unseen:
                self.rest()

    @rule(number=numbers)
    def trash(self, number: int) -> None:
        if (name := self.some(number)) is not None:
            root, rest = name.split("/", 1)
            self.disk.move(name, f"{root}/{TRASH}/{rest.replace('/', ' ')}")
            self.rest()

    @rule(number=numbers, name=files)
    def restore(self, number: int, name: str) -> None:
        bins = [one for one in self.disk.model if TRASH in one.split("/") and os.path.lexists(self.disk.path(one))]
        if bins and not os.path.lexists(self.disk.path(name)):
            self.disk.move(sorted(bins)[number % len(bins)], name)
            self.rest()

    @rule(number=numbers)
    def remove_what_is_hidden(self, number: int) -> None:
        names = self.disk.hidden()
        if not names:
            return
        name = names[number % len(names)]
        folder, base = os.path.split(name)
        first = f"{folder}/{base[1:].split('.aside-')[0]}"
        path = self.disk.path(name)
        if path.is_dir():
            return
        path.unlink()
        if first in self.disk.model and not os.path.lexists(self.disk.path(first)):
            del self.disk.model[first]
        else:
            self.disk.has_nothing(first)
        self.disk.dirty.append(name)
        self.rest()

    @rule(number=numbers, to=folders, how=st.sampled_from(["rename", "copy", "cp and rm"]))
    def move_folder(self, number: int, to: str, how: str) -> None:
        source = self.one_folder(number)
        if source is None or source == to or os.path.lexists(self.disk.path(to)):
            return
        if how == "rename":
            self.disk.move_folder(source, to)
        else:
            self.disk.copy_folder(source, to, moved=how == "cp and rm")
            if how == "cp and rm":
                self.disk.remove_folder(source)
        self.rest()

    @rule(number=numbers)
    def remove_folder(self, number: int) -> None:
        if (folder := self.one_folder(number)) is not None:
            self.disk.remove_folder(folder)
            self.rest()

    @rule(number=numbers, other=numbers)
    def mirror(self, number: int, other: int) -> None:
        source, target = self.one_folder(number), self.one_folder(other)
        if source is not None and target is not None and source != target:
            self.disk.mirror(source, target)
            self.rest()

    # lorad

    @rule(now=st.booleans())
    def apply(self, now: bool) -> None:
        self.lorad.apply(self.action, now=now)
        self.rest()

    @rule(removed=st.none() | numbers, grace=st.booleans())
    def free(self, removed: int | None, grace: bool) -> None:
        """On request, or as the grace is over; a file may just have been removed, which lorad does not know."""
        names = self.disk.in_view()
        if removed is not None and names:
            self.disk.remove(names[removed % len(names)])
        if grace:
            self.lorad.time_passes(WEEK)
            self.lorad.rest()
        else:
            self.lorad.free()
        self.rest()

    @rule()
    def undo(self) -> None:
        self.undo_all()

    @rule(number=numbers)
    def undo_one(self, number: int) -> None:
        entries = self.lorad.entries(*HELD, "freed", "linked")
        if entries:
            self.lorad.undo([entries[number % len(entries)].id])
            self.rest()

    @rule(after=st.integers(1, 12))
    def is_killed(self, after: int) -> None:
        """At one of the next steps of an action."""
        self.lorad.death.left = after

    @rule(killed=st.booleans(), remove=st.none() | numbers)
    def restart(self, killed: bool, remove: int | None) -> None:
        self.lorad.end(killed=killed)
        names = self.disk.in_view()
        if remove is not None and names:
            self.disk.remove(names[remove % len(names)])
        self.disk.dirty.clear()
        self.lorad.start()
        self.rest()

    @rule(swept=st.booleans())
    def watch(self, swept: bool) -> None:
        """Whether lorad looks through all from now on, besides what it is told."""
        self.swept = swept


def test_what_is_removed_with_its_folder_is_lost() -> None:
    """Somebody removed what was hidden: it is not counted as hidden for ever, and `undo` has nothing to do."""
    owner = Owner()
    owner.begin(copies=[])
    try:
        owner.download(f"one/b/style{SUFFIX}", (1, ""))
        assert owner.lorad.entries(*HELD)
        owner.disk.remove_folder("one/b")
        owner.rest()
        assert owner.lorad.undo(None)
        assert [entry.state for entry in owner.lorad.entries(*HELD, "lost")] == ["lost"]
    finally:
        owner.teardown()


def test_what_is_removed_from_a_folder_that_was_moved_is_lost() -> None:
    """Also where nothing else is in that folder."""
    owner = Owner()
    owner.begin(copies=[])
    try:
        owner.download(f"one/b/style{SUFFIX}", (1, ""))
        owner.move_folder(number=1, to="one/moved", how="rename")
        (name,) = owner.disk.hidden()
        assert name.startswith("one/moved/")
        owner.remove_what_is_hidden(number=0)
        assert owner.lorad.undo(None)
        assert [entry.state for entry in owner.lorad.entries(*HELD, "lost")] == ["lost"]
    finally:
        owner.teardown()


def test_what_a_removed_link_was_put_aside_for_comes_back() -> None:
    """A link of ours that its owner removed brings nothing back, until the last file that may keep is gone."""
    owner = Owner()
    owner.action = "symlink"
    owner.begin(copies=[])
    try:
        owner.download(f"one/b/style{SUFFIX}", (1, ""))
        owner.disk.remove(f"one/b/style{SUFFIX}")
        owner.rest()
        # Its link cannot be led on.
        owner.disk.move(f"one/a/style{SUFFIX}", f"two/c/style{SUFFIX}")
        owner.rest()
        assert owner.lorad.entries(*HELD)
        owner.disk.remove(f"two/c/style{SUFFIX}")
        owner.rest()
        assert owner.disk.readable() == {1: [f"one/b/style{SUFFIX}"]}
    finally:
        owner.teardown()


def test_what_no_journal_knows_is_counted_and_listed() -> None:
    """A copy of what is hidden is no action's: nothing but giving it back is ever done to it."""
    owner = Owner()
    owner.begin(copies=[])
    try:
        owner.download(f"one/b/style{SUFFIX}", (1, ""))
        owner.move_folder(number=1, to="two/moved", how="cp")
        lorad = owner.lorad
        (copy,) = [name for name in owner.disk.hidden() if name.startswith("two/")]
        assert (lorad.dedupe.hidden().files, lorad.dedupe.hidden().unknown) == (1, 1)
        mine, stray = lorad.dedupe.hidden_files(None)
        assert mine.id > 0
        assert (stray.id, stray.path) == (0, os.fsencode(owner.disk.path(f"two/moved/style{SUFFIX}")))
        assert stray.bytes == owner.disk.path(copy).stat().st_size
        lorad.time_passes(WEEK)
        owner.rest()
        assert copy in owner.disk.hidden()
    finally:
        owner.teardown()


def _tries(action: str, grace: str) -> type:
    machine = type(f"Owner_{action}_{grace}", (Owner,), {"action": action, "grace": grace})
    case: type = machine.TestCase
    case.settings = settings(  # type: ignore[attr-defined]
        max_examples=max(1, EXAMPLES // 2),
        stateful_step_count=STEPS,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    case.pytestmark = [pytest.mark.timeout(100 + EXAMPLES)]  # type: ignore[attr-defined]
    return case


TestDelete, TestDeleteAtOnce = _tries("delete", "7d"), _tries("delete", "0s")
TestSymlink, TestSymlinkAtOnce = _tries("symlink", "7d"), _tries("symlink", "0s")
TestHardlink, TestHardlinkAtOnce = _tries("hardlink", "7d"), _tries("hardlink", "0s")
TestQuarantine, TestQuarantineAtOnce = _tries("quarantine", "7d"), _tries("quarantine", "0s")
