"""SIGKILL at every step of groups of three: after repair all is before or after, and undo restores it."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from lorad.dedupe.action.actor import Actor
from lorad.dedupe.action.order import FreeOrder, Order
from lorad.dedupe.process import Apply, _carry
from tests.daemon.dedupe.world import Look, World, dies_at, files_in, look, make_world, read, side, steps_of

CASES = [
    ("hardlink", "file", "keep"),
    ("symlink", "file", "keep"),
    ("symlink", "tensors", "keep"),
    ("delete", "file", "move"),
    ("delete", "tensors", "keep"),
    ("quarantine", "file", "move"),
    ("quarantine", "tensors", "keep"),
]
#: More steps than any group of three has.
_MOST = 60


class _Three:
    """Three pairs of files in one root, two of them in one folder."""

    def __init__(self, folder: Path, action: str, level: str, sidecars: str) -> None:
        self.world = make_world(str(folder), level=level)
        base = os.path.dirname(self.world.gone)
        self.gone = [
            self.world.gone,
            os.path.join(base, b"second.safetensors"),
            self.world.root + b"/third.safetensors",
        ]
        for path in self.gone[1:]:
            _copy(self.world.gone, path)
        self.action, self.level, self.sidecars = action, level, sidecars
        self.before = self.look()

    def look(self) -> dict[bytes, Look]:
        return self.world.look()

    def orders(self) -> list[Order]:
        kept = side(self.world.kept, self.world.root)
        return [
            Order(self.action, self.level, kept, side(path, self.world.root), self.sidecars, bytes=1)
            for path in self.gone
        ]

    def apply(self) -> list[int]:
        with self.world.actor() as actor:
            results = actor.apply(self.orders())
        assert {result.state for result in results} <= {"hidden", "quarantined"}, results
        return [result.id for result in results]

    def frees(self, numbers: Sequence[int]) -> list[FreeOrder]:
        return [FreeOrder(number, (side(self.world.kept, self.world.root),)) for number in numbers]

    def undo_all(self) -> None:
        with self.world.actor() as actor:
            standing = [entry.id for entry in reversed(self.world.history()) if entry.state not in _OVER]
            assert {result.state for result in actor.undo(standing)} <= {"undone"}

    def check_restored(self) -> None:
        """Everything is as it was, and nothing of ours is left."""
        self.undo_all()
        assert self.look() == self.before
        assert not self.world.leftovers()


_OVER = ("undone", "given_back", "refused")


def _copy(path: bytes, to: bytes) -> None:
    shutil.copy2(path, to)
    os.chown(to, os.stat(path).st_uid, os.stat(path).st_gid)
    for name in os.listxattr(path):
        os.setxattr(to, name, os.getxattr(path, name))
    status = os.stat(path)
    os.utime(to, ns=(status.st_atime_ns, status.st_mtime_ns))


def _in_view(world: World) -> dict[bytes, bytes]:
    """What a user can read, by name: hidden files are none of his."""
    paths = [path for path in files_in(world.root) if not os.path.basename(path).startswith(b".")]
    return {os.path.relpath(path, world.root): read(os.path.realpath(path)) for path in paths}


def _killed_at_each_step(
    folder: Path,
    case: tuple[str, str, str],
    begin: Callable[[_Three], Callable[[Actor], object]],
    check: Callable[[_Three], None],
) -> None:
    """Kill the act at each of its steps in a library of its own; repair, and `check`."""
    probe = _Three(folder / "probe", *case)
    act = begin(probe)

    def all_steps(at: Callable[[str], None]) -> None:
        with probe.world.actor(at) as actor:
            act(actor)

    steps = steps_of(all_steps)
    assert 3 < len(steps) < _MOST
    for number in range(len(steps)):
        three = _Three(folder / str(number), *case)
        act = begin(three)
        content = {*(each.content for each in three.before.values()), *_in_view(three.world).values()}
        dies_at(three.world, number, act)
        with three.world.actor() as actor:
            actor.repair()
            assert not actor.repair(), f"killed at {steps[number]!r}, a second repair finds more to do"
        assert {read(three.world.kept)} <= set(_in_view(three.world).values()) <= content
        check(three)
        shutil.rmtree(folder / str(number))


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_killed_while_acting(tmp_path: Path, case: tuple[str, str, str]) -> None:
    """Killed at any step, each file of the group is hidden or as before, and undo brings all back."""

    def begin(three: _Three) -> Callable[[Actor], object]:
        orders = three.orders()
        return lambda actor: actor.apply(orders)

    def check(three: _Three) -> None:
        for path, entry in zip(three.gone, three.world.history(), strict=False):
            there = os.lstat(path) if os.path.lexists(path) else None
            if entry.state == "refused":
                assert there is not None
                assert stat.S_ISREG(there.st_mode)
                assert there.st_nlink == 1
            else:
                assert entry.state in ("hidden", "quarantined")
        three.check_restored()

    _killed_at_each_step(tmp_path, case, begin, check)


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_killed_while_freeing(tmp_path: Path, case: tuple[str, str, str]) -> None:
    """Killed at any step, what was freed can be made anew byte for byte, and what was not is still there."""

    def begin(three: _Three) -> Callable[[Actor], object]:
        frees = three.frees(three.apply())
        return lambda actor: actor.free(frees)

    def check(three: _Three) -> None:
        assert {entry.state for entry in three.world.history()} <= {"hidden", "quarantined", "freed", "linked"}
        three.check_restored()

    _killed_at_each_step(tmp_path, case, begin, check)


@pytest.mark.parametrize("case", [CASES[0], CASES[4]], ids=" ".join)
def test_killed_while_freeing_at_once(tmp_path: Path, case: tuple[str, str, str]) -> None:
    """As `dedupe --apply --now` does: killed at any step, nothing is lost, and undo brings all back."""

    def begin(three: _Three) -> Callable[[Actor], object]:
        wish = Apply(three.orders(), now=True)
        return lambda actor: _carry(actor, wish)

    def check(three: _Three) -> None:
        assert {entry.state for entry in three.world.history()} <= {"hidden", "freed", "linked", "refused"}
        three.check_restored()

    _killed_at_each_step(tmp_path, case, begin, check)


@pytest.mark.parametrize("case", CASES, ids=" ".join)
@pytest.mark.parametrize("freed", [False, True], ids=["hidden", "freed"])
def test_killed_while_undoing_where_names_are_taken(
    tmp_path: Path, case: tuple[str, str, str], freed: bool
) -> None:
    """Each comes back once, beside what stands there."""

    def begin(three: _Three) -> Callable[[Actor], object]:
        numbers = three.apply()
        if freed:
            with three.world.actor() as actor:
                actor.free(three.frees(numbers))
        for path in three.gone:
            with suppress(FileNotFoundError):
                os.unlink(path)
            Path(os.fsdecode(path)).write_bytes(b"mine " + path)
        return lambda actor: actor.undo(numbers[::-1])

    def check(three: _Three) -> None:
        three.undo_all()
        for path in three.gone:
            assert read(path) == b"mine " + path
            there = path.replace(b".safetensors", b" (given back).safetensors")
            assert look(there) == three.before[os.path.relpath(path, three.world.root)]
            os.unlink(there)
        assert not [path for path in files_in(three.world.root) if b"given back" in path]

    _killed_at_each_step(tmp_path, case, begin, check)


@pytest.mark.parametrize("case", CASES, ids=" ".join)
@pytest.mark.parametrize("freed", [False, True], ids=["hidden", "freed"])
def test_killed_while_undoing(tmp_path: Path, case: tuple[str, str, str], freed: bool) -> None:
    """Killed at any step of an undo, each file is back or can be undone again."""

    def begin(three: _Three) -> Callable[[Actor], object]:
        numbers = three.apply()
        if freed:
            with three.world.actor() as actor:
                assert {result.state for result in actor.free(three.frees(numbers))} <= {"freed", "linked"}
        return lambda actor: actor.undo(numbers[::-1])

    _killed_at_each_step(tmp_path, case, begin, _Three.check_restored)


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_killed_while_giving_back(tmp_path: Path, case: tuple[str, str, str]) -> None:
    """Without the kept file, all that was hidden for it is back after one more try, whatever was killed."""
    probe = _Three(tmp_path / "probe", *case)
    steps: list[str] = []
    numbers = probe.apply()
    os.unlink(probe.world.kept)
    with probe.world.actor(steps.append) as actor:
        actor.give_back(numbers)
    for number in range(len(steps)):
        three = _Three(tmp_path / str(number), *case)
        numbers = three.apply()
        content = read(three.world.kept)
        os.unlink(three.world.kept)
        dies_at(three.world, number, lambda actor, numbers=numbers: actor.give_back(numbers))
        with three.world.actor() as actor:
            actor.repair()
            actor.give_back(numbers)
        assert {entry.state for entry in three.world.history()} == {"given_back"}
        there = _in_view(three.world)
        if three.action == "hardlink":
            assert content in there.values()
        else:
            assert all(os.path.relpath(path, three.world.root) in there for path in three.gone)
            assert not three.world.leftovers()
