"""What others do to the files meanwhile, at every step: nothing of theirs is lost, nothing outside is touched."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lorad.dedupe import steps
from lorad.dedupe.action.order import Refused, Result
from tests.daemon.dedupe.world import GONE, KEPT, World, files_in, look, make_world, read

CASES = [case for case in steps.APPLY if case[0] != "reflink"]
EACH_STEP = [(action, level, step) for action, level in CASES for step in steps.APPLY[action, level]]
#: Those at which the last name of the file that goes is gone, or the action is over.
OVER = ("removed", "removal synced", "done")


def _apply_and(world: World, action: str, level: str, step: str, meanwhile: Callable[[], object]) -> Result | None:
    """Apply, and do something at the first time that the step is reached; None where it was refused."""
    waiting = [meanwhile]

    def at(name: str) -> None:
        if name == step and waiting:
            waiting.pop()()

    with world.actor(at) as actor:
        try:
            result = actor.apply(world.order(action, level))
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
    """The ctime tells where the order is older than the change; the bytes tell where it is not."""
    world = make_world(str(tmp_path), level=level)
    order = world.order(action, level)
    _flip(os.path.join(world.root, name))
    before = world.look()
    with world.actor() as actor:
        with pytest.raises(Refused, match="changed since it was read"):
            actor.apply(order)
        with pytest.raises(Refused, match="not the same as"):
            actor.apply(world.order(action, level))
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
        actor.apply(order)
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
    assert not [name for name in files_in(moved) if b".lorad" in name]
    assert look(world.kept) == before[KEPT]
    if result is None:
        assert look(os.path.join(moved, os.path.basename(GONE))) == before[GONE]
        assert step not in OVER
    else:
        assert step in (*OVER, "removing") or action == "quarantine"


@pytest.mark.parametrize("step", ["leased", "planned", "checked"])
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
        actor.apply(world.order("delete"))


@pytest.mark.parametrize(("action", "level", "step"), EACH_STEP)
def test_a_newcomer_in_its_place(tmp_path: Path, action: str, level: str, step: str) -> None:
    """A file that somebody puts there meanwhile is there afterwards, and nothing is in its way."""
    world = make_world(str(tmp_path), level=level)
    newcomer = _make(os.path.join(world.root, b"newcomer"), b"something else")
    kept = look(world.kept)
    _apply_and(world, action, level, step, lambda: os.rename(newcomer, world.gone))
    assert read(world.gone) == b"something else"
    assert look(world.kept) == kept
    assert not [name for name in files_in(world.root) if name.endswith(b".tmp")]
    with world.actor() as actor:
        assert not actor.repair()
        assert not [each for each in world.history() if each.state not in ("done", "failed")]


@pytest.mark.parametrize(("action", "level", "step"), EACH_STEP)
@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_never_the_last_copy(tmp_path: Path, action: str, level: str, step: str, how: str) -> None:
    """Where the kept file goes before the other one's last name does, that one stays."""
    world = make_world(str(tmp_path), level=level)
    before = world.look()
    newcomer = _make(os.path.join(world.root, b"newcomer"), b"something else")
    meanwhile = (lambda: os.unlink(world.kept)) if how == "removed" else (lambda: os.rename(newcomer, world.kept))
    result = _apply_and(world, action, level, step, meanwhile)
    if result is None:
        assert look(world.gone) == before[GONE]
        assert not world.leftovers()
    else:
        assert step in OVER
    if action == "quarantine" and result is not None:
        world.undo(result.id)
        assert look(world.gone) == before[GONE]


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
    """Whoever opens either file for writing at any step finds what he wrote at the path that he opened."""
    world = make_world(str(tmp_path), level=level)
    before = world.look()
    path = os.path.join(world.root, name)
    writer = Writer(path)
    result = _apply_and(world, action, level, step, writer.start)
    writer.join()
    assert not [each for each in files_in(world.root) if each.endswith(b".tmp")]
    if writer.wrote:
        with open(path, "rb") as file:
            assert file.read(len(Writer.MARK)) == Writer.MARK
    else:
        # There was nothing at the path, and the lease was not asked for.
        assert name == GONE
        assert action in ("delete", "quarantine")
    if step not in OVER:
        aside = [read(each) for each in world.leftovers()]
        assert before[GONE].content in (read_through(world.gone), *aside) or name == GONE, "the old file is lost"
    if result is None:
        assert step not in OVER
        other = GONE if name == KEPT else KEPT
        assert look(os.path.join(world.root, other)) == before[other]


@pytest.mark.parametrize("step", steps.UNDO["hardlink"])
def test_no_write_is_lost_while_a_hard_link_is_undone(tmp_path: Path, step: str) -> None:
    """What is written through the link meanwhile is in the kept file, or in the one that came back."""
    world = make_world(str(tmp_path))
    before = world.look()
    done = world.apply("hardlink")
    writer = Writer(world.gone)
    waiting = [writer.start]
    with (
        world.actor(lambda name: waiting.pop()() if name == step and waiting else None) as actor,
        contextlib.suppress(Refused),
    ):
        actor.undo(done.id)
    writer.join()
    assert writer.wrote
    assert read(world.gone).startswith(Writer.MARK)
    assert not [each for each in files_in(world.root) if each.endswith(b".tmp")]
    (entry,) = _history(world)
    if entry.state == "done":
        assert os.path.samefile(world.kept, world.gone)
    else:
        assert look(world.kept) == before[KEPT]


def _history(world: World) -> list[Result]:
    return world.history()


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
    assert world.apply("hardlink").state == "done"


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


@pytest.mark.parametrize("action", ["hardlink", "symlink", "delete"])
@pytest.mark.parametrize("last", ["aside noted", "aside moved"])
def test_killed_while_a_file_is_kept_aside(tmp_path: Path, action: str, last: str) -> None:
    """Where a newcomer has the name, the old file is in quarantine after repair, and can come back then."""
    world = make_world(str(tmp_path))
    before = world.look()
    newcomer = _make(os.path.join(world.root, b"newcomer"), b"something else")
    step = "set aside" if action == "delete" else "exchanged"

    def at(name: str) -> None:
        if name == step:
            os.rename(newcomer, world.gone)
            # The kept file's name goes too, so that this cannot be completed.
            os.rename(world.kept, world.kept + b"-away")
        if name == last:
            raise KeyboardInterrupt

    with world.actor(at) as actor, pytest.raises(KeyboardInterrupt):
        actor.apply(world.order(action))
    os.rename(world.kept + b"-away", world.kept)
    with world.actor() as actor:
        assert [(each.action, each.state) for each in actor.repair()] == [("quarantine", "done")]
    assert read(world.gone) == b"something else"
    with pytest.raises(Refused, match="another file stands there"):
        world.undo(1)
    os.unlink(world.gone)
    world.undo(1)
    assert world.look() == before
    assert not world.leftovers()


@pytest.mark.parametrize("action", ["hardlink", "symlink", "delete"])
def test_killed_while_taking_back(tmp_path: Path, action: str) -> None:
    """An action that was refused at the last moment, and whose process died while it took that back."""
    world = make_world(str(tmp_path))
    before = world.look()

    def at(name: str) -> None:
        if name == "removing":
            os.rename(world.kept, world.kept + b"-away")
        if name == "taken back":
            raise KeyboardInterrupt

    with world.actor(at) as actor, pytest.raises(KeyboardInterrupt):
        actor.apply(world.order(action))
    os.rename(world.kept + b"-away", world.kept)
    with world.actor() as actor:
        assert [each.state for each in actor.repair()] == ["failed"]
    assert world.look() == before
    assert not world.leftovers()


@pytest.mark.parametrize("action", ["hardlink", "symlink"])
@pytest.mark.parametrize("dies", [False, True])
def test_a_newcomer_during_an_undo(tmp_path: Path, action: str, dies: bool) -> None:
    """Whoever takes the link's place at the last moment keeps it, also where the process dies then."""
    world = make_world(str(tmp_path))
    done = world.apply(action)
    newcomer = _make(os.path.join(world.root, b"newcomer"), b"something else")

    def at(name: str) -> None:
        if name == "checked":
            os.rename(newcomer, world.gone)
        if name == "exchanged" and dies:
            raise KeyboardInterrupt

    with world.actor(at) as actor, pytest.raises(KeyboardInterrupt if dies else Refused):
        actor.undo(done.id)
    with world.actor() as actor:
        actor.repair()
        assert [each.state for each in world.history()] == ["done"]
    assert read(world.gone) == b"something else"
    assert not world.leftovers()
