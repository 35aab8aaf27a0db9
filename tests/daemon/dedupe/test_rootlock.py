"""One acting lorad a root: a second one only reports, and says so."""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lorad.dedupe.rootlock import LOCK, Process, RootLocks, holder_of
from tests.unions import Union

#: Holds the root that it is given, prints why it may not act there, and the same of each folder that it reads.
_OTHER = """
import os, sys
from lorad.dedupe.rootlock import RootLocks
locks = RootLocks("abcd1234")
print("; ".join(locks.use([os.fsencode(root) for root in sys.argv[1:]]).values()), flush=True)
for line in sys.stdin:
    print(locks.refusal(os.fsencode(line.strip())), flush=True)
locks.close()
"""


class Other:
    """Another lorad's locks, in a process of its own."""

    def __init__(self, *roots: Path) -> None:
        command = [sys.executable, "-c", _OTHER, *map(str, roots)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    @functools.cached_property
    def told(self) -> str:
        """Why it may not act in its roots."""
        return self._line()

    def refusal(self, folder: Path) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{folder}\n")
        self.process.stdin.flush()
        return self._line()

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def stop(self) -> None:
        self.process.communicate()


@pytest.fixture
def other() -> Iterator[Callable[..., Other]]:
    with contextlib.ExitStack() as stack:

        def start(*roots: Path, at_once: bool = False) -> Other:
            made = Other(*roots)
            if not at_once:
                assert made.told is not None
            stack.callback(made.stop)
            stack.callback(made.process.kill)
            return made

        yield start


@pytest.fixture
def locks() -> Iterator[RootLocks]:
    """Which look anew each time."""
    made = RootLocks("11112222", believed=-1.0)
    yield made
    made.close()


def raw(path: Path) -> bytes:
    return os.fsencode(path)


def test_a_second_lorad_is_refused_and_told_which_one_acts(
    locks: RootLocks, tmp_path: Path, other: Callable[..., Other]
) -> None:
    assert locks.use([raw(tmp_path)]) == {}
    second = other(tmp_path)
    for said in (second.told, second.refusal(tmp_path / "below" / "deep")):
        assert "another lorad" in said
        assert "token 11112222" in said
        assert f"pid {os.getpid()}" in said
        assert str(tmp_path) in said
    assert locks.refusal(raw(tmp_path / "below")) == ""


@pytest.mark.parametrize("ends", ["it stops", "it is killed"])
def test_a_root_is_taken_when_the_other_lorad_has_ended(
    locks: RootLocks, tmp_path: Path, other: Callable[..., Other], ends: str
) -> None:
    """Also when it could not clear up; nothing is left in the root in the end."""
    first = other(tmp_path)
    assert first.told == ""
    assert list(locks.use([raw(tmp_path)])) == [raw(tmp_path)]
    if ends == "it is killed":
        first.process.kill()
    first.stop()
    assert locks.refusal(raw(tmp_path)) == ""
    assert os.listdir(tmp_path) == [os.fsdecode(LOCK)]
    locks.close()
    assert os.listdir(tmp_path) == []


def test_roots_inside_each_other(locks: RootLocks, tmp_path: Path, other: Callable[..., Other]) -> None:
    """The inner root, held first, stays with its lorad; the outer one has all the rest."""
    inner, beside = tmp_path / "m" / "sub", tmp_path / "m" / "beside"
    inner.mkdir(parents=True)
    beside.mkdir()
    assert locks.use([raw(inner)]) == {}
    outer = other(tmp_path / "m")
    assert outer.told == ""
    assert outer.refusal(beside) == ""
    assert str(inner) in outer.refusal(inner / "deeper")
    assert locks.refusal(raw(inner / "deeper")) == ""


def test_a_root_inside_one_that_is_held_is_not_taken(
    locks: RootLocks, tmp_path: Path, other: Callable[..., Other]
) -> None:
    inner = tmp_path / "m" / "sub"
    inner.mkdir(parents=True)
    assert locks.use([raw(tmp_path / "m")]) == {}
    assert str(tmp_path / "m") in other(inner).told
    assert os.listdir(inner) == []
    assert locks.refusal(raw(inner)) == ""


def test_a_copied_state_folder_is_another_lorad(
    locks: RootLocks, tmp_path: Path, other: Callable[..., Other]
) -> None:
    """Its journal has the same token, and it is another process."""
    assert other(tmp_path).told == ""
    locks = RootLocks("abcd1234")
    assert "token abcd1234" in locks.use([raw(tmp_path)])[raw(tmp_path)]
    locks.close()


@pytest.mark.parametrize("kind", ["bind", "mergerfs", "bindfs", "overlay-upper"])
def test_one_root_under_two_names(
    locks: RootLocks, tmp_path: Path, union: Union, other: Callable[..., Other], kind: str
) -> None:
    """A union mount and its branch share no locks, but the file says that its process lives."""
    branch = tmp_path / "branch"
    branch.mkdir()
    pool = union(kind, branch)
    assert locks.use([raw(branch)]) == {}
    assert "token 11112222" in other(pool).told


def test_a_lock_that_its_owner_removes_is_made_anew(
    locks: RootLocks, tmp_path: Path, other: Callable[..., Other]
) -> None:
    """As a mirror with --delete does."""
    assert locks.use([raw(tmp_path)]) == {}
    (tmp_path / os.fsdecode(LOCK)).unlink()
    assert locks.refusal(raw(tmp_path)) == ""
    assert "11112222" in other(tmp_path).told


@pytest.mark.parametrize("made", ["fifo", "link", "folder", "device"])
def test_what_stands_in_the_place_of_a_lock_is_not_waited_for(locks: RootLocks, tmp_path: Path, made: str) -> None:
    lock = tmp_path / os.fsdecode(LOCK)
    match made:
        case "fifo":
            os.mkfifo(lock)
        case "link":
            lock.symlink_to("/dev/zero")
        case "folder":
            lock.mkdir()
        case _:
            if os.geteuid():
                pytest.skip("only root can make a device")
            os.mknod(lock, 0o600 | 0o020000, os.makedev(1, 5))
    said = locks.use([raw(tmp_path)])[raw(tmp_path)]
    assert said.startswith(str(lock))
    assert "remove it" in said


@pytest.mark.parametrize("content", [b"", b"\0" * 600, b"a b c d", b"token x 1 x y", b"x" * 10**6])
def test_a_lock_file_of_any_content_holds_nothing(locks: RootLocks, tmp_path: Path, content: bytes) -> None:
    (tmp_path / os.fsdecode(LOCK)).write_bytes(content)
    assert holder_of(raw(tmp_path)) is None
    assert locks.use([raw(tmp_path)]) == {}


def test_another_roots_lock_is_let_go(locks: RootLocks, tmp_path: Path, other: Callable[..., Other]) -> None:
    """A reload that takes a root out leaves it to another lorad."""
    one, two = tmp_path / "one", tmp_path / "two"
    for root in (one, two):
        root.mkdir()
    assert locks.use([raw(one), raw(two)]) == {}
    assert locks.use([raw(two)]) == {}
    assert os.listdir(one) == []
    assert other(one).told == ""


def test_a_top_that_cannot_be_written_is_held_further_down(
    locks: RootLocks, tmp_path: Path, other: Callable[..., Other], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where something is to be done in a folder of it that can."""
    top, below = tmp_path / "top", tmp_path / "top" / "user" / "loras"
    below.mkdir(parents=True)
    opens = os.open

    def refusing(path: bytes, flags: int, *rest: int) -> int:
        if path == raw(top / os.fsdecode(LOCK)) and flags & os.O_CREAT:
            raise PermissionError(13, "Permission denied")
        return opens(path, flags, *rest)

    monkeypatch.setattr(os, "open", refusing)
    assert locks.use([raw(top)]) == {}
    assert locks.refusal(raw(below)) == ""
    assert (top / "user" / os.fsdecode(LOCK)).exists()
    assert "11112222" in other(top / "user").told


def test_a_folder_outside_all_roots_is_not_touched(locks: RootLocks, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    locks.use([raw(tmp_path / "root")])
    assert locks.refusal(raw(tmp_path)) == ""
    assert os.listdir(tmp_path) == ["root"]


def test_a_held_root_can_be_unmounted(locks: RootLocks, disk: Callable[[str], str], tmp_path: Path) -> None:
    """Nothing is kept open in it. What is mounted there later is taken anew."""
    source, root = Path(disk("ext4")), tmp_path / "root"
    root.mkdir()
    for _ in range(2):
        subprocess.run(["mount", "--bind", source, root], check=True)
        try:
            assert locks.use([raw(root)]) == {}
            assert (source / os.fsdecode(LOCK)).exists()
        finally:
            subprocess.run(["umount", root], check=True)
    locks.use([])


@pytest.mark.parametrize("space", ["pid:[1]", "this one, after a restart"])
def test_a_lorad_that_cannot_be_seen_holds_as_long_as_it_touches_its_lock(
    locks: RootLocks, tmp_path: Path, space: str
) -> None:
    """It runs in another container, or on another machine that has the folder."""
    here = Process.of(os.getpid())
    assert here is not None
    there = here._replace(space=space) if space.startswith("pid") else here._replace(boot="another")
    lock = tmp_path / os.fsdecode(LOCK)
    lock.write_text(" ".join(("abcd1234", *map(str, there))))
    assert "abcd1234" in locks.use([raw(tmp_path)])[raw(tmp_path)]
    os.utime(lock, (0, time.time() - 1000))
    assert locks.refusal(raw(tmp_path)) == ""
    assert "11112222" in lock.read_text()
    os.utime(lock, (0, 0))
    locks.beat()
    assert lock.stat().st_mtime > time.time() - 1000


def test_two_that_take_a_root_at_once(tmp_path: Path, other: Callable[..., Other]) -> None:
    """One of them has it."""
    several = [other(tmp_path, at_once=True) for _ in range(4)]
    assert [each.told for each in several].count("") == 1


def test_ones_own_lock_of_before_is_taken_over(locks: RootLocks, tmp_path: Path) -> None:
    """After the machine or the container was started again, there is no other one with its journal."""
    here = Process.of(os.getpid())
    assert here is not None
    before = here._replace(boot="another")
    (tmp_path / os.fsdecode(LOCK)).write_text(" ".join(("11112222", *map(str, before))))
    assert locks.use([raw(tmp_path)]) == {}
