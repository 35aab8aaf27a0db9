"""A result is there whole or not at all, whatever happens meanwhile."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from loracore.errors import FileError, UsageError
from lorakit.output import draft
from lorakit.output.draft import Draft, refuse_existing
from tests.toolkit.output.conftest import DISK

WITHOUT_A_NAME = [True, False]


@pytest.fixture(params=WITHOUT_A_NAME, ids=["O_TMPFILE", "named"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Also as on a file system that knows no files without a name (NFS): the real call fails as it does there."""
    if not request.param:
        real = os.open

        def refusing(path: object, flags: int, *rest: object, **more: object) -> int:
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(errno.EOPNOTSUPP, "not supported")
            return real(path, flags, *rest, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(draft.os, "open", refusing)
    return bool(request.param)


def write(path: Path, data: bytes = b"whole", *, force: bool = False) -> None:
    with Draft(os.fsencode(path), force=force) as made:
        made.reserve(len(data))
        made.write(data[:2], 0)
        made.write(memoryview(data)[2:], 2)
        assert os.listdir(path.parent) == [] or force or path.name not in os.listdir(path.parent)
        made.finish()


def test_a_file_appears_when_it_is_whole(kind: bool, tmp_path: Path) -> None:
    """With the rights that the umask leaves, and nothing beside it."""
    mask = os.umask(0o027)
    try:
        write(tmp_path / "a")
    finally:
        os.umask(mask)
    assert (tmp_path / "a").read_bytes() == b"whole"
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_leaving_without_finishing_leaves_nothing(kind: bool, tmp_path: Path) -> None:

    def half() -> None:
        with Draft(os.fsencode(tmp_path / "a")) as made:
            made.write(b"half", 0)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert os.listdir(tmp_path) == []


def test_what_is_there_stays_unless_told_otherwise(kind: bool, tmp_path: Path) -> None:
    """Told so, it is replaced at once: a reader has the old file or the new one."""
    path = tmp_path / "a"
    path.write_text("mine")
    with pytest.raises(UsageError, match="--force"):
        write(path)
    assert path.read_text() == "mine"
    with path.open() as before:
        write(path, force=True)
        assert before.read() == "mine"
    assert path.read_bytes() == b"whole"
    assert os.listdir(tmp_path) == ["a"]


def test_what_comes_meanwhile_is_not_replaced(kind: bool, tmp_path: Path) -> None:
    path = tmp_path / "a"
    with Draft(os.fsencode(path)) as made:
        made.write(b"ours", 0)
        path.write_text("theirs")
        with pytest.raises(UsageError, match=r"--force|meanwhile") as error:
            made.finish()
        assert "\n" not in str(error.value)
    assert path.read_text() == "theirs"
    assert os.listdir(tmp_path) == ["a"]


def test_of_many_that_finish_at_once_one_is_there(tmp_path: Path) -> None:
    """All others are told so; nothing of theirs is left."""
    path, start, told = tmp_path / "a", threading.Barrier(8), []

    def one(number: int) -> None:
        with Draft(os.fsencode(path)) as made:
            made.write(b"%d" % number, 0)
            start.wait()
            try:
                made.finish()
            except UsageError:
                told.append(number)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(told) == 7
    assert int(path.read_text()) not in told
    assert os.listdir(tmp_path) == ["a"]


KILLED = """
import sys
from lorakit.output.draft import Draft
with Draft(sys.argv[1].encode()) as made:
    made.reserve(1 << 20)
    made.write(b"x" * 4096, 0)
    print("writing", flush=True)
    sys.stdin.read()
"""


def test_a_killed_process_leaves_nothing(tmp_path: Path) -> None:
    """Not even a hidden file, where the file system has files without a name."""
    command = [sys.executable, "-c", KILLED, os.fspath(tmp_path / "a")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("reserved", [True, False])
def test_a_full_disk_is_one_clear_line(reserved: bool, disk: Path) -> None:
    """Before the work where room can be reserved, in it otherwise; and the disk is empty again."""

    def fill() -> None:
        with Draft(os.fsencode(disk / "a.safetensors")) as made:
            if reserved:
                made.reserve(2 * DISK)
            made.write(bytes(2 * DISK), 0)

    with pytest.raises(
        FileError, match=r"a\.safetensors: it cannot be written: no space left.*make room"
    ) as error:
        fill()
    assert "\n" not in str(error.value)
    assert os.listdir(disk) == []
    write(disk / "a.safetensors", bytes(DISK // 2))


def test_inputs_and_what_is_no_file_are_never_replaced(tmp_path: Path) -> None:
    """Also by another of its names; a folder that is missing is named with the remedy."""
    (tmp_path / "a").write_text("mine")
    os.link(tmp_path / "a", tmp_path / "b")
    os.symlink("a", tmp_path / "c")
    for name in ("a", "b", "c"):
        with pytest.raises(UsageError, match="it is read for this"):
            refuse_existing(os.fsencode(tmp_path / name), force=True, inputs=(os.fsencode(tmp_path / "a"),))
    with pytest.raises(UsageError, match="no regular file"):
        refuse_existing(os.fsencode(tmp_path), force=True)
    with pytest.raises(FileError, match="make that folder first"):
        Draft(os.fsencode(tmp_path / "none" / "a"))
    # A link is replaced, not what it leads to.
    write(tmp_path / "c", force=True)
    assert not (tmp_path / "c").is_symlink()
    assert (tmp_path / "a").read_text() == "mine"
