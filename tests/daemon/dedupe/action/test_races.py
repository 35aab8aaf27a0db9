"""What others do to the files meanwhile, at every step: nothing of theirs is lost, nothing outside is touched."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lorad.dedupe.action.order import Refused, Result
from tests.daemon.dedupe.world import GONE, KEPT, World, act, files_in, look, make_world, read

CASES = [
    ("hardlink", "file"), ("symlink", "file"), ("symlink", "tensors"), ("delete", "file"), ("delete", "tensors"),
    ("quarantine", "file"),
]  # fmt: skip
STEPS = ("compared", "planned", "put aside", "synced", "done")
EACH_STEP = [(*case, step) for case in CASES for step in STEPS]


def _apply_and(world: World, action: str, level: str, step: str, meanwhile: Callable[[], object]) -> Result | None:
    """Apply, and do something at the first time that the step is reached; None where it was refused."""
    waiting = [meanwhile]

    def at(name: str) -> None:
        if name == step and waiting:
            waiting.pop()()

    with world.actor(at) as actor:
        try:
            result = act(actor, world.order(action, level))
        except Refused:
            return None
        finally:
            assert not waiting, "the step was not reached"
        return result


def _make(path: bytes, content: bytes) -> bytes:
    with open(path, "wb") as file:
        file.write(content)
    return path


def _flip(path: bytes) -> None:
    """Change one byte, and set size and mtime as they were."""
    status = os.stat(path)
    with open(path, "r+b") as file:
        file.seek(-3, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-3, os.SEEK_END)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(("action", "level"), CASES)
@pytest.mark.parametrize("name", [KEPT, GONE])
def test_a_byte_changed_behind_size_and_mtime(tmp_path: Path, action: str, level: str, name: bytes) -> None:
    """All bytes are compared, whatever the times say."""
    world = make_world(str(tmp_path), level=level)
    order = world.order(action, level)
    _flip(os.path.join(world.root, name))
    before = world.look()
    with world.actor() as actor:
        with pytest.raises(Refused, match="not the same as"):
            act(actor, order)
        assert not world.history()
    assert world.look() == before


@pytest.mark.parametrize(("action", "level"), CASES)
@pytest.mark.parametrize("name", [KEPT, GONE])
def test_a_file_swapped_for_a_link(tmp_path: Path, action: str, level: str, name: bytes) -> None:
    """No action follows a symbolic link, whatever it leads to."""
    world = make_world(str(tmp_path), level=level)
    order = world.order(action, level)
    path = os.path.join(world.root, name)
    outside = os.fsencode(tmp_path / "outside.safetensors")
    os.rename(path, outside)
    os.symlink(outside, path)
    before, content = world.look(), look(outside)
    with world.actor() as actor, pytest.raises(Refused, match=r"symbolic link|changed|names of one file"):
        act(actor, order)
    assert world.look() == before
    assert look(outside) == content


@pytest.mark.parametrize("name", [KEPT, GONE])
@pytest.mark.parametrize("kind", ["fifo", "folder", "empty"])
def test_what_is_no_file_is_refused(tmp_path: Path, name: bytes, kind: str) -> None:
    """Pipes, folders and empty files are not acted upon, and nothing hangs on them."""
    world = make_world(str(tmp_path))
    path = os.path.join(world.root, name)
    os.unlink(path)
    {"fifo": os.mkfifo, "folder": os.mkdir, "empty": lambda path: _make(path, b"")}[kind](path)
    with pytest.raises(Refused):
        world.apply("delete")
    assert os.path.lexists(path)


@pytest.mark.parametrize(("action", "level", "step"), EACH_STEP)
def test_a_folder_swapped_for_a_link(tmp_path: Path, action: str, level: str, step: str) -> None:
    """Nothing behind the link is touched, and what was begun is taken back in the folder that was moved."""
    world = make_world(str(tmp_path), level=level)
    before = world.look()
    folder = os.path.dirname(world.gone)
    moved = os.fsencode(tmp_path / "moved")
    decoy = os.fsencode(tmp_path / "decoy")
    os.mkdir(decoy)
    _make(os.path.join(decoy, os.path.basename(GONE)), read(world.gone))
    outside = [look(name) for name in files_in(decoy)]

    def swap() -> None:
        os.rename(folder, moved)
        os.symlink(decoy, folder)

    result = _apply_and(world, action, level, step, swap)
    assert [look(name) for name in files_in(decoy)] == outside
    assert look(world.kept) == before[KEPT]
    if step != "done":
        assert result is None
        assert look(os.path.join(moved, os.path.basename(GONE))) == before[GONE]
        assert not [name for name in files_in(moved) if b".aside-" in name]


@pytest.mark.parametrize("step", ["compared", "planned", "put aside"])
def test_a_folder_further_up_swapped_for_a_link(tmp_path: Path, step: str) -> None:
    """No folder on the way from the root may be a link, not only the last one."""
    world = make_world(str(tmp_path))
    top, moved = os.path.join(world.root, b"downloads"), os.fsencode(tmp_path / "moved")

    def swap() -> None:
        os.rename(top, moved)
        os.symlink(moved, top)

    before = look(world.gone)
    assert _apply_and(world, "delete", "file", step, swap) is None
    assert look(os.path.join(moved, b"new", os.path.basename(GONE))) == before
    with world.actor() as actor, pytest.raises(Refused, match="its folder is gone, or is a symbolic link"):
        act(actor, world.order("delete"))


@pytest.mark.parametrize(("action", "level", "step"), EACH_STEP)
def test_a_newcomer_in_its_place(tmp_path: Path, action: str, level: str, step: str) -> None:
    """A file that comes to stand there meanwhile is there afterwards, and the old one comes back beside it."""
    world = make_world(str(tmp_path), level=level)
    before = world.look()
    newcomer = _make(os.path.join(world.root, b"newcomer"), b"something else")
    _apply_and(world, action, level, step, lambda: os.rename(newcomer, world.gone))
    assert read(world.gone) == b"something else"
    assert look(world.kept) == before[KEPT]
    with world.actor() as actor:
        actor.repair()
        assert not actor.repair()
        held = [each.id for each in world.history() if each.state in ("hidden", "quarantined")]
        actor.undo(held)
    assert read(world.gone) == b"something else"
    if held:
        assert look(world.gone.replace(b"gone.", b"gone (given back).")) == before[GONE]


@pytest.mark.parametrize(("action", "level", "step"), EACH_STEP)
@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_never_the_last_copy(tmp_path: Path, action: str, level: str, step: str, how: str) -> None:
    """Where the kept file goes meanwhile, the other one is as before, or comes back."""
    world = make_world(str(tmp_path), level=level)
    before = world.look()
    newcomer = _make(os.path.join(world.root, b"newcomer"), b"something else")
    meanwhile = (lambda: os.unlink(world.kept)) if how == "removed" else (lambda: os.rename(newcomer, world.kept))
    result = _apply_and(world, action, level, step, meanwhile)
    if result is not None:
        assert step == "done"
        world.undo(result.id)
    found = [look(name) for name in files_in(world.root) if os.path.basename(name).startswith(b"gone")]
    assert before[GONE] in found
    assert not [name for name in world.leftovers() if b".aside-" in name]


def read_through(path: bytes) -> bytes:
    """A file's content, also behind a link; nothing where there is none."""
    return read(os.path.realpath(path)) if os.path.exists(path) else b""


class Writer:
    """Somebody who opens a file for writing, overwrites its begin, and closes it, in a thread."""

    MARK = b"WRITTEN BY SOMEBODY ELSE"

    def __init__(self, path: bytes) -> None:
        self.path = path
        self.wrote = False
        self._thread = threading.Thread(target=self._write)

    def start(self) -> None:
        """Returns once he has written, found nothing, or waits for the lease to be given up."""
        with contextlib.suppress(FileNotFoundError):
            self._inode = os.stat(self.path).st_ino
        self._thread.start()
        while self._thread.is_alive() and not self._waits():
            os.sched_yield()

    def join(self) -> None:
        self._thread.join()

    def _waits(self) -> bool:
        with open("/proc/locks", "rb") as file:
            return any(b"BREAKING" in line and b":%d " % self._inode in line for line in file)

    def _write(self) -> None:
        try:
            fd = os.open(self.path, os.O_RDWR)
        except FileNotFoundError:
            return
        os.pwrite(fd, self.MARK, 0)
        os.close(fd)
        self.wrote = True


@pytest.mark.parametrize(("action", "level", "step"), EACH_STEP)
@pytest.mark.parametrize("name", [KEPT, GONE])
def test_no_write_is_lost(tmp_path: Path, action: str, level: str, step: str, name: bytes) -> None:
    """What is written to either file at any step is at the path that was opened; the old content is not lost."""
    world = make_world(str(tmp_path), level=level)
    before = world.look()
    path = os.path.join(world.root, name)
    writer = Writer(path)
    _apply_and(world, action, level, step, writer.start)
    writer.join()
    if writer.wrote:
        with open(path, "rb") as file:
            assert file.read(len(Writer.MARK)) == Writer.MARK
    else:
        # There was nothing at the path, and the lease was not asked for.
        assert name == GONE
        assert action in ("delete", "quarantine")
    if name == KEPT:
        there = [*files_in(world.root), *world.leftovers()]
        assert before[GONE].content in [read(each) for each in there if not os.path.islink(each)]


@pytest.mark.parametrize("name", [KEPT, GONE])
@pytest.mark.parametrize("mapped", [False, True])
def test_what_is_open_for_writing_is_refused(tmp_path: Path, name: bytes, mapped: bool) -> None:
    """Also where the descriptor is closed and only a mapping can still write."""
    import mmap

    world = make_world(str(tmp_path))
    with open(os.path.join(world.root, name), "r+b") as file, contextlib.ExitStack() as stack:
        if mapped:
            stack.enter_context(contextlib.closing(mmap.mmap(file.fileno(), 0)))
            file.close()
        with pytest.raises(Refused, match="open for writing; try again"):
            world.apply("hardlink")
    assert world.apply("hardlink").state == "hidden"


def test_an_undo_into_a_folder_that_was_moved(tmp_path: Path) -> None:
    """It is refused while the folder is not there, and can be done when it is back."""
    world = make_world(str(tmp_path))
    before = world.look()
    done = world.apply("delete")
    folder = os.path.dirname(world.gone)
    os.rename(folder, folder + b"-moved")
    with pytest.raises(Refused, match="its folder is gone"):
        world.undo(done.id)
    os.rename(folder + b"-moved", folder)
    world.undo(done.id)
    assert world.look() == before
