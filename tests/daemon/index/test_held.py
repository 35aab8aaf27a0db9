"""A newcomer is known by what names and inodes held, whatever is done to files meanwhile (SPEC section 5)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lorad.catalog import Catalog
from lorad.index import held
from lorad.index.held import Held, Weights
from lorad.library import Status
from lorad.pipeline.protocol import Identity
from tests.daemon.inline import Life, write

#: What happens between an old life and the next look at the disk.
Between = Callable[[Life], Life]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two files of the same weights, and one that is alone of its layout."""
    path = tmp_path / "models"
    (path / "sub").mkdir(parents=True)
    for name in ("a", "b"):
        write(path / f"{name}.safetensors", 1)
    write(path / "alone.safetensors", 2, layout=1)
    return path


@pytest.fixture
def life(root: Path, tmp_path: Path) -> Life:
    life = Life(tmp_path / "state", [root]).settle().aged()
    assert life.newcomers == set()
    assert life.status(root / "a.safetensors") is Status.DUPLICATE
    return life


def _started_again(life: Life, *, killed: bool) -> Life:
    life.kill() if killed else life.stop()
    return Life(life.state, [Path(os.fsdecode(root)) for root in life.roots])


@pytest.fixture(params=["told", "swept", "stopped", "killed"])
def look(request: pytest.FixtureRequest, life: Life) -> Callable[..., Life]:
    """Look at names that something happened to: as the watch tells of them, by a sweep, in another life."""

    def look(*paths: Path) -> Life:
        if request.param == "told":
            return life.touch(*paths)
        if request.param == "swept":
            return life.sweep()
        return _started_again(life, killed=request.param == "killed").settle()

    return look


def test_what_is_there_at_the_first_look_is_old_and_what_comes_then_is_new(
    root: Path, look: Callable[..., Life]
) -> None:
    copies = [Path(shutil.copyfile(root / "a.safetensors", root / f"{name}.safetensors")) for name in "cd"]
    assert look(*copies).newcomers == set(map(str, copies))


def test_a_copy_of_a_file_that_was_alone_is_new_and_the_file_is_old(root: Path, look: Callable[..., Life]) -> None:
    copy = Path(shutil.copyfile(root / "alone.safetensors", root / "copy.safetensors"))
    life = look(copy)
    assert life.newcomers == {str(copy)}
    assert life.status(root / "alone.safetensors") is Status.DUPLICATE


def _move(root: Path) -> list[Path]:
    names = [root / "a.safetensors", root / "moved.safetensors"]
    os.rename(*names)
    return names


def _move_over(root: Path) -> list[Path]:
    names = [root / "a.safetensors", root / "alone.safetensors"]
    os.rename(*names)
    return names


def _exchange(root: Path) -> list[Path]:
    names = [root / "a.safetensors", root / "alone.safetensors", root / "temporary"]
    os.rename(names[0], names[2])
    os.rename(names[1], names[0])
    os.rename(names[2], names[1])
    return names


def _touch(root: Path) -> list[Path]:
    os.utime(root / "a.safetensors")
    return [root / "a.safetensors"]


def _chmod(root: Path) -> list[Path]:
    (root / "a.safetensors").chmod(0o600)
    return [root / "a.safetensors"]


def _touch_and_move(root: Path) -> list[Path]:
    _touch(root)
    return _move(root)


def _link(root: Path) -> list[Path]:
    os.link(root / "a.safetensors", root / "link.safetensors")
    return [root / "link.safetensors"]


def _link_and_remove(root: Path) -> list[Path]:
    """As `mv` does where a file system has no rename."""
    names = _link(root)
    os.unlink(root / "a.safetensors")
    return [*names, root / "a.safetensors"]


def _write_in_place(root: Path) -> list[Path]:
    """As rsync --inplace does."""
    content = (root / "a.safetensors").read_bytes()
    (root / "a.safetensors").write_bytes(content)
    return [root / "a.safetensors"]


def _replace(root: Path) -> list[Path]:
    """As a mirror, a backup or a program that defragments does."""
    shutil.copyfile(root / "a.safetensors", root / "part")
    os.rename(root / "part", root / "a.safetensors")
    return [root / "a.safetensors"]


def _edit(root: Path) -> list[Path]:
    """Other metadata, the same weights."""
    return [write(root / "a.safetensors", 1, title="x")]


DONE = [_move, _move_over, _exchange, _touch, _chmod, _touch_and_move, _link, _link_and_remove, _write_in_place,
        _replace, _edit]  # fmt: skip


@pytest.mark.parametrize("done", DONE)
@pytest.mark.parametrize("backwards", [False, True], ids=["", "told backwards"])
def test_an_old_file_stays_old_whatever_is_done_to_it(
    root: Path, look: Callable[..., Life], done: Callable[[Path], list[Path]], *, backwards: bool
) -> None:
    """A rename is seen as one that vanished and one that came, in either order."""
    names = done(root)
    life = look(*(reversed(names) if backwards else names))
    assert life.newcomers == set()
    copy = shutil.copyfile(root / "b.safetensors", root / "copy.safetensors")
    assert life.touch(copy).newcomers == {str(copy)}, "what is new is new beside it, with the number of another"
    assert life.sweep().newcomers == {str(copy)}


def test_a_file_that_was_alone_stays_old_when_it_is_touched_and_moved(
    root: Path, look: Callable[..., Life]
) -> None:
    """Its weights are not known, but that it is the same inode."""
    alone, moved, copy = (root / f"{name}.safetensors" for name in ("alone", "moved", "copy"))
    os.utime(alone)
    os.rename(alone, moved)
    shutil.copyfile(moved, copy)
    assert look(alone, moved, copy).newcomers == {str(copy)}


@pytest.mark.parametrize("first", ["gone", "come"])
def test_the_files_of_a_folder_that_is_moved_stay_old(root: Path, life: Life, first: str) -> None:
    """In one root or from one to another, seen from either end."""
    write(root / "sub" / "c.safetensors", 1)
    life = _started_again(life, killed=False)
    life.engine.arrivals.act(False)
    life.settle().engine.arrivals.act(True)
    os.rename(root / "sub", root / "moved")
    steps = [lambda: life.touch(root / "sub"), lambda: life.engine.sweeps.add(os.fsencode(root / "moved"))]
    for step in steps if first == "gone" else reversed(steps):
        step()
        life.settle()
    assert life.status(root / "moved" / "c.safetensors") is Status.DUPLICATE
    assert life.newcomers == set()


@pytest.mark.parametrize("removed", [False, True], ids=["overwritten", "removed first"])
def test_a_name_that_held_other_weights_may_have_a_newcomer(
    root: Path, look: Callable[..., Life], *, removed: bool
) -> None:
    path = root / "a.safetensors"
    write(root / "c.safetensors", 3)
    if removed:
        path.unlink()
    write(path, 3)
    life = look(root / "c.safetensors", path)
    assert life.newcomers == {str(path), str(root / "c.safetensors")}


def test_a_name_whose_file_was_alone_has_no_newcomer_of_that_layout(root: Path, look: Callable[..., Life]) -> None:
    """Its weights were never digested, so they may have been the same."""
    path = root / "alone.safetensors"
    write(root / "other.safetensors", 3, layout=1)
    write(path, 3, layout=1)
    life = look(path, root / "other.safetensors")
    assert life.newcomers == {str(root / "other.safetensors")}
    write(root / "other.safetensors", 1)
    write(path, 1)
    life.touch(path, root / "other.safetensors")
    assert life.newcomers == {str(path), str(root / "other.safetensors")}, "another layout is not the same"


def test_what_was_removed_and_restored_is_old(root: Path, life: Life) -> None:
    path = root / "a.safetensors"
    content = path.read_bytes()
    for _ in range(3):
        path.unlink()
        life.touch(path)
        path.write_bytes(content)
        assert life.touch(path).newcomers == set()


@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
def test_a_move_that_is_half_told_when_lorad_ends_is_one(root: Path, life: Life, *, killed: bool) -> None:
    """The old name is gone from the catalogue, and the new one has not settled."""
    names = _move(root)
    life.touch(names[0])
    life = _started_again(life, killed=killed).settle()
    assert life.file(names[1]).fresh
    assert life.newcomers == set()


def test_a_newcomer_that_changes_while_it_is_read_stays_one(root: Path, life: Life) -> None:
    """A download may pause, be moved to its place, get other rights: before it is told apart, it was nothing."""
    path, moved = root / "c.safetensors", root / "sub" / "d.safetensors"
    content = (root / "a.safetensors").read_bytes()
    path.write_bytes(content[: len(content) // 2])
    life.touch(path)
    assert life.status(path) is Status.FAILED
    path.write_bytes(content)
    life.pipeline.holds = True
    life.touch(path)
    path.chmod(0o600)
    life.touch(path)
    os.rename(path, moved)
    life.touch(path, moved)
    life.pipeline.holds = False
    assert life.settle().newcomers == {str(moved)}


def test_an_old_file_that_was_never_read_stays_old(root: Path, tmp_path: Path) -> None:
    """Whatever it turns out to be, under its name or another."""
    broken = [root / f"{number}.safetensors" for number in range(2)]
    for path in broken:
        path.write_text("not a model yet")
    life = Life(tmp_path / "state", [root]).settle()
    assert life.status(broken[0]) is Status.FAILED
    broken[0].write_bytes((root / "a.safetensors").read_bytes())
    os.rename(broken[1], root / "moved.safetensors")
    assert life.touch(*broken, root / "moved.safetensors").newcomers == set()
    assert life.status(broken[0]) is Status.DUPLICATE


@pytest.mark.parametrize("ends", ["", "stopped", "killed"])
@pytest.mark.parametrize("noticed", [False, True], ids=["swept", "told"])
def test_what_settles_at_the_first_look_is_old(root: Path, tmp_path: Path, ends: str, *, noticed: bool) -> None:
    path = os.fsencode(root / "a.safetensors")
    life = Life(tmp_path / "state", [root])
    life.young = {path}
    if noticed:
        life.engine.arrivals.noticed(path)
    life.settle()
    assert path not in life.engine.files.by_path
    if ends:
        life = _started_again(life, killed=ends == "killed")
    life.young.clear()
    assert life.settle().touch(root / "a.safetensors").newcomers == set()
    assert life.status(root / "a.safetensors") is Status.DUPLICATE


@pytest.mark.parametrize("ends", ["", "stopped", "killed"])
def test_what_was_met_while_no_policy_acted_is_old(root: Path, tmp_path: Path, ends: str) -> None:
    """Also what settled just then."""
    life = Life(tmp_path / "state", [root], acts=False).settle()
    met, waits = root / "met.safetensors", root / "waits.safetensors"
    for path in (met, waits):
        shutil.copyfile(root / "a.safetensors", path)
        life.engine.arrivals.noticed(os.fsencode(path))
    life.touch(met)
    if ends:
        # As `Session` does where none acted before.
        life.kill() if ends == "killed" else life.stop()
        life = Life(life.state, [root], view=True).settle()
    life.engine.arrivals.act(True)
    assert life.touch(waits).newcomers == set()
    copy = shutil.copyfile(root / "a.safetensors", root / "new.safetensors")
    assert life.touch(copy).newcomers == {str(copy)}


@pytest.mark.parametrize("ends", ["", "stopped", "killed"])
def test_a_policy_to_report_makes_all_old(root: Path, life: Life, ends: str) -> None:
    """Also what was new before, waits to settle or is still read: another policy is active only from later on."""
    names = [root / f"{name}.safetensors" for name in ("told", "read", "waits")]
    for path in names:
        shutil.copyfile(root / "a.safetensors", path)
    assert life.touch(names[0]).newcomers == {str(names[0])}
    life.pipeline.holds = True
    life.touch(names[1])
    life.engine.arrivals.noticed(os.fsencode(names[2]))
    life.engine.arrivals.act(False)
    if ends:
        life.kill() if ends == "killed" else life.stop()
        life = Life(life.state, [root], acts=False, view=True).settle()
    life.engine.arrivals.act(True)
    life.pipeline.holds = False
    assert life.touch(*names).newcomers == set()


def test_what_is_read_again_unchanged_keeps_being_new(root: Path, life: Life) -> None:
    """As its times are too young for certainty."""
    copy = shutil.copyfile(root / "a.safetensors", root / "c.safetensors")
    file = life.touch(copy).file(copy)
    file.read_ns = file.identity.ctime_ns
    assert life.sweep().file(copy) is not file
    assert life.newcomers == {str(copy)}


def test_a_root_that_was_taken_out_is_old_when_it_is_back(root: Path, tmp_path: Path, life: Life) -> None:
    """Its newcomers with it, and what was moved from it elsewhere."""
    copies = [root / "c.safetensors", root / "d.safetensors"]
    for copy in copies:
        shutil.copyfile(root / "a.safetensors", copy)
    assert life.touch(*copies).newcomers == set(map(str, copies))
    life.stop()
    other = tmp_path / "other"
    other.mkdir()
    life = Life(tmp_path / "state", [other]).settle()
    os.rename(copies[0], other / "moved.safetensors")
    write(other / "same.safetensors", 1)
    assert life.touch(other / "moved.safetensors", other / "same.safetensors").newcomers == {
        str(other / "same.safetensors")
    }
    life.stop()
    life = Life(tmp_path / "state", [root, other]).settle()
    assert life.newcomers == {str(other / "same.safetensors")}


def test_what_is_held_is_bounded_and_the_oldest_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its order, not by clocks. A name that changes all the time takes one row for each of its weights."""
    monkeypatch.setattr(held, "MOST", 10)
    monkeypatch.setattr(held, "_MORE", 1)
    catalog = Catalog(str(tmp_path))
    layout = catalog.layouts.number(b"l" * 32, b"")
    names, weights = Held(catalog), Weights(b"l" * 32, b"w" * 32)
    nothing = Identity(0, 0, 0, 0, 0)

    def known(count: int) -> tuple[list[int], list[int]]:
        """Of so many, the names and the inodes that are known."""
        inodes = [Identity(1, number + 1, 2, 3, 4) for number in range(count)]
        return (
            [number for number in range(count) if names.knows([b"/%d" % number], nothing, None, weights)],
            [number for number in range(count) if names.knows([], inodes[number], None, weights)],
        )

    for number in range(15):
        names.lost(b"/%d" % number, Identity(1, number + 1, 2, 3, 4), None, layout, weights.digests)
        names.save()
    assert known(15) == ([*range(5, 15)], [*range(5, 15)])
    for number in range(15, 115):
        names.lost(b"/0", Identity(1, number + 1, 2, 3, 4), None, layout, weights.digests)
        names.save()
    assert known(115) == ([0, *range(6, 15)], [*range(105, 115)])
    catalog.close()


@pytest.mark.parametrize("born", [None, 7], ids=["not known when it was made", ""])
@pytest.mark.parametrize("known", [False, True], ids=["alone", "duplicate"])
def test_an_inode_number_is_given_again(tmp_path: Path, born: int | None, *, known: bool) -> None:
    """When it was made tells one file from the next. Else, if its weights are not known, size and time have to."""
    names = Held(Catalog(str(tmp_path)))
    names.load()
    gone, weights = Identity(2**63 + 1, 2**64 - 10, 100, 5, 6), Weights(b"l" * 32, b"w" * 32)
    names.lost(b"/a", gone, born, None, weights.digests if known else None)
    for identity, same in (
        (gone, True),
        (Identity(gone.dev, gone.ino, 100, 5, 7), True),
        (Identity(gone.dev, gone.ino, 100, 6, 6), known or born is not None),
        (Identity(gone.dev, gone.ino, 101, 5, 6), known or born is not None),
        (Identity(1, gone.ino, 100, 5, 6), False),
    ):
        assert names.knows([b"/b"], identity, born, weights) is same
    assert names.knows([b"/b"], gone, 8, weights) is (born is None)
    names.renumbered[gone.dev] = 1
    assert names.knows([b"/b"], Identity(1, gone.ino, 100, 5, 6), born, weights), "the device has another number"
    names.forget_inode(gone)
    assert not names.knows([b"/b"], gone, born, weights)
    assert names.knows([b"/a"], Identity(0, 0, 0, 0, 0), None, weights), "its name held it all the same"
