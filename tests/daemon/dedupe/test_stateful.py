"""Any sequence of file changes, de-duplications, undos and kills keeps every content reachable.

Reachable is what lies in the root or in quarantine, or can be rebuilt from what is reachable by an action that is
done. Actions, undos, kills and repairs must keep every byte sequence reachable. Whoever overwrites or removes a
file himself may lose that content, or another form of the same tensors that was to be rebuilt from it, and nothing
else. As long as nobody but lorad changes anything, undoing everything brings back every attribute too.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable

import pytest
from blake3 import blake3
from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from lorad.dedupe.actor import Actor
from lorad.dedupe.journal import FINAL, Journal
from lorad.dedupe.orders import LEVELS, Order, Refused

from lorad.dedupe import recipe
from tests.builders.architectures import LayerSpec
from tests.builders.weights import random_weights
from tests.builders.write import write_safetensors
from tests.daemon.dedupe.world import World, dies_at, dress, files_in, read, side

NAMES = [b"a.safetensors", b"b.safetensors", b"one/c.safetensors", b"one/d.safetensors"]
SPECS = [LayerSpec("down", "F16", (8, 64)), LayerSpec("up", "F16", (64, 8))]
#: Of each tensor content two forms, which differ in metadata and order.
TENSORS, FORMS = 2, 2

names = st.sampled_from(NAMES)
actions = st.sampled_from([name for name in LEVELS if name != "reflink"])
levels = st.sampled_from(["file", "tensors"])


def _contents() -> dict[bytes, int]:
    """Every content that there can be, and which tensors it holds."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for tensors in range(TENSORS):
            layers = random_weights(SPECS, tensors)
            for form in range(FORMS):
                path = os.path.join(folder, "x")
                order = sorted(layers, reverse=bool(form))
                write_safetensors(path, layers, order=order, metadata={"form": str(form)})
                found[read(path.encode())] = tensors
    return found


CONTENTS = _contents()
#: By number, so that a failure is shown in few words.
NUMBERED = list(CONTENTS)
contents = st.integers(0, len(NUMBERED) - 1)


class Untouched(RuleBasedStateMachine):
    """A folder that lorad alone changes: in the end everything can be undone, and every attribute is back."""

    @initialize(forms=st.lists(st.integers(0, FORMS - 1), min_size=len(NAMES), max_size=len(NAMES)))
    def make(self, forms: list[int]) -> None:
        """A folder of files that are all the same at one level or the other."""
        self.folder = tempfile.mkdtemp(prefix="lorad-test-")
        self.world = World(os.fsencode(os.path.join(self.folder, "root")), os.path.join(self.folder, "state"))
        os.makedirs(os.path.join(self.world.root, b"one"))
        self.clock = 1_600_000_000_000_000_000
        self.reachable: set[bytes] = set()
        self.lost: set[int] = set()
        for name, content in zip(NAMES, forms, strict=True):
            self._arrive(name, content)
        self.before = self.world.look()

    def _arrive(self, name: bytes, content: int) -> None:
        """A new file comes to stand at a name, by a rename."""
        temp = self._path(b"download.part")
        with open(temp, "wb") as file:
            file.write(NUMBERED[content])
        self.clock += 1_000_000_007
        dress(temp, b"%d" % self.clock, self.clock)
        os.rename(temp, self._path(name))

    def _path(self, name: bytes) -> bytes:
        return os.path.join(self.world.root, name)

    @rule(action=actions, level=levels, kept=names, gone=names)
    def dedupe_any(self, action: str, level: str, kept: bytes, gone: bytes) -> None:
        """An order, sensible or not."""
        if os.path.lexists(self._path(kept)) and os.path.lexists(self._path(gone)):
            self._apply(self._order(action, level, kept, gone))

    @precondition(lambda self: self._pairs())
    @rule(action=actions, data=st.data())
    def dedupe(self, action: str, data: st.DataObject) -> None:
        """An order for two files that hold the same tensors."""
        self._apply(self._order(action, *data.draw(st.sampled_from(self._pairs()))))

    @precondition(lambda self: self._pairs())
    @rule(action=actions, data=st.data(), step=st.integers(0, 14))
    def dedupe_killed(self, action: str, data: st.DataObject, step: int) -> None:
        """Such an order whose process dies, if it comes as far as that."""
        order = self._order(action, *data.draw(st.sampled_from(self._pairs())))
        self._killed(step, lambda actor: actor.apply(order))

    @precondition(lambda self: self._done())
    @rule(data=st.data())
    def undo(self, data: st.DataObject) -> None:
        """An undo, possible or not; what comes back is what went."""
        number = data.draw(st.sampled_from(self._done()))
        with Actor(self.world.state) as actor:
            try:
                path = actor.undo(number).path
            except Refused:
                return
        with _journal(self.world) as journal:
            entry = journal.get(number)
        assert entry is not None
        assert blake3(read(path)).digest() == entry.digest
        assert os.stat(path).st_mtime_ns == entry.attributes.mtime_ns

    @precondition(lambda self: self._done())
    @rule(data=st.data(), step=st.integers(0, 11))
    def undo_killed(self, data: st.DataObject, step: int) -> None:
        """An undo whose process dies."""
        number = data.draw(st.sampled_from(self._done()))
        self._killed(step, lambda actor: actor.undo(number))

    @invariant()
    def nothing_else_is_lost(self) -> None:
        """What was reachable still is, but for what somebody overwrote or removed himself."""
        now = self._reachable()
        assert {CONTENTS[content] for content in self.reachable - now} <= self.lost
        self.reachable, self.lost = now, set()

    @invariant()
    def nothing_is_left_over(self) -> None:
        """No temporary name stays, and no recipe that nobody needs."""
        assert not [name for name in files_in(self.world.root) if name.endswith(b".tmp")]
        with _journal(self.world) as journal:
            done = {str(entry.id) for entry in journal.history() if entry.state == "done" and entry.recipe}
        recipes = os.path.join(self.world.state, "recipes")
        assert set(os.listdir(recipes) if os.path.isdir(recipes) else []) == done

    def teardown(self) -> None:
        """In the end all that can be undone is undone, the latest first, and still nothing is lost."""
        if not hasattr(self, "folder"):
            return
        try:
            self._undo_all()
            self.nothing_else_is_lost()
        finally:
            shutil.rmtree(self.folder)

    def _undo_all(self) -> None:
        with Actor(self.world.state) as actor:
            for number in reversed(self._done()):
                actor.undo(number)
                event("undone in the end")
        assert self.world.look() == self.before

    def _loses(self, path: bytes) -> None:
        if os.path.isfile(path):
            self.lost.add(CONTENTS[read(os.path.realpath(path))])

    def _pairs(self) -> list[tuple[str, bytes, bytes]]:
        """(level, kept, gone) of all files that are the same, links left out."""
        there = {
            name: read(self._path(name))
            for name in NAMES
            if os.path.isfile(self._path(name)) and not os.path.islink(self._path(name))
        }
        return [
            ("file" if there[kept] == there[gone] else "tensors", kept, gone)
            for kept in there
            for gone in there
            if kept != gone and CONTENTS[there[kept]] == CONTENTS[there[gone]]
        ]

    def _order(self, action: str, level: str, kept: bytes, gone: bytes) -> Order:
        sides = [side(self._path(name), self.world.root) for name in (kept, gone)]
        return Order(action, level, *sides)

    def _apply(self, order: Order) -> None:
        with Actor(self.world.state) as actor, contextlib.suppress(Refused):
            result = actor.apply(order)
            event(f"{result.action} {result.state}")
            assert result.state in ("done", "nothing")

    def _killed(self, step: int, act: Callable[[Actor], object]) -> None:
        # Else it was refused, or over, before that step.
        with contextlib.suppress(AssertionError):
            event(f"killed at {dies_at(self.world, step, act)}")
        with Actor(self.world.state) as actor:
            assert {result.state for result in actor.repair()} <= set(FINAL)

    def _done(self) -> list[int]:
        with _journal(self.world) as journal:
            return [entry.id for entry in journal.history() if entry.state == "done"]

    def _reachable(self) -> set[bytes]:
        roots = (self.world.root, os.fsencode(os.path.join(self.world.state, "quarantine")))
        found = {read(name) for root in roots for name in files_in(root) if not os.path.islink(name)}
        with _journal(self.world) as journal:
            entries = [
                entry for entry in journal.history() if entry.state == "done" and entry.action != "quarantine"
            ]
        before = -1
        while before != len(found):
            before = len(found)
            found |= {
                each
                for entry in entries
                for each in self._rebuilt(entry.id, entry.recipe, found)
                if blake3(each).digest() == entry.digest
            }
        return found

    def _rebuilt(self, number: int, has_recipe: bool, found: set[bytes]) -> list[bytes]:
        if not has_recipe:
            return list(found)
        rebuilt = []
        for content in found:
            with tempfile.TemporaryFile() as file:
                file.write(content)
                file.flush()
                try:
                    path = os.path.join(self.world.state, "recipes", str(number))
                    rebuilt.append(b"".join(recipe.rebuild(path, file.fileno())))
                except EOFError:
                    continue
        return rebuilt


class Library(Untouched):
    """Somebody's folder, which he and lorad change by turns."""

    @rule(name=names, content=contents)
    def download(self, name: bytes, content: int) -> None:
        """A new file comes to stand at a name, by a rename."""
        self._loses(self._path(name))
        self._arrive(name, content)

    @rule(name=names, content=contents)
    def overwrite(self, name: bytes, content: int) -> None:
        """What a name leads to is written anew, in place."""
        if os.path.isfile(self._path(name)):
            self._loses(self._path(name))
            with open(self._path(name), "wb") as file:
                file.write(NUMBERED[content])

    @rule(name=names)
    def remove(self, name: bytes) -> None:
        """A name is removed, and with the last one the file."""
        if os.path.lexists(self._path(name)):
            self._loses(self._path(name))
            os.unlink(self._path(name))

    @rule(one=names, other=names)
    def rename(self, one: bytes, other: bytes) -> None:
        """A file is moved, over another one perhaps."""
        if os.path.lexists(self._path(one)) and one != other:
            self._loses(self._path(other))
            os.rename(self._path(one), self._path(other))

    def _undo_all(self) -> None:
        """All that can be."""
        with Actor(self.world.state) as actor:
            for number in reversed(self._done()):
                with contextlib.suppress(Refused):
                    actor.undo(number)
                    event("undone in the end")


class Links(Untouched):
    """The same names are linked and put back again and again, in any order, as little else happens."""

    dedupe_any = dedupe = dedupe_killed = undo_killed = None

    @precondition(lambda self: self._pairs())
    @rule(action=st.sampled_from(["hardlink", "hardlink", "hardlink", "delete", "quarantine"]), data=st.data())
    def link(self, action: str, data: st.DataObject) -> None:
        """Mostly hard links; what goes otherwise makes room for new inodes."""
        self._apply(self._order(action, *data.draw(st.sampled_from(self._pairs()))))


class _journal:  # noqa: N801 - a context, used as a word
    """The journal, closed again after use."""

    def __init__(self, world: World) -> None:
        os.makedirs(world.state, exist_ok=True)
        self._journal = Journal(world.state)

    def __enter__(self) -> Journal:
        return self._journal

    def __exit__(self, *_: object) -> None:
        self._journal.close()


#: The same examples each time, unless `make soak` looks for new ones.
EXAMPLES = os.environ.get("LORAD_DEDUPE_EXAMPLES")
SETTINGS = settings(
    max_examples=int(EXAMPLES or "60"),
    derandomize=EXAMPLES is None,
    stateful_step_count=25,
    suppress_health_check=list(HealthCheck),
)
#: Seconds: some of them for each history.
TIMEOUT = pytest.mark.timeout(300 + 10 * int(EXAMPLES or 0))
TestLibrary = TIMEOUT(Library.TestCase)
TestLibrary.settings = SETTINGS
TestUntouched = TIMEOUT(Untouched.TestCase)
TestUntouched.settings = SETTINGS
TestLinks = TIMEOUT(Links.TestCase)
TestLinks.settings = SETTINGS
