"""What the system refuses is told with its own remedy, and with no other."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest

from loracore.causes import explained

#: What is said of errors that have nothing to do with room.
NO_ROOM = "make room"


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_only_a_full_disk_is_told_to_make_room(number: int) -> None:
    """SPEC 11: nothing is told by a message about something else."""
    text = explained(OSError(number, os.strerror(number)))
    assert (NO_ROOM in text) == (number in (errno.ENOSPC, errno.EDQUOT))
    assert "\n" not in text
    assert "; " in text


def refused(path: Path) -> sqlite3.Error:
    """What SQLite says when something is written to a database."""
    try:
        with closing(sqlite3.connect(path)) as db:
            db.execute("CREATE TABLE IF NOT EXISTS t (x)")
            while True:
                db.execute("INSERT INTO t VALUES (zeroblob(1000000))")
                db.commit()
    except sqlite3.Error as error:
        return error


@pytest.fixture
def small(disk: Callable[[str], str]) -> Path:
    """A folder on a disk of 8 MiB."""
    return Path(disk("tmpfs"))


def test_a_full_disk(small: Path) -> None:
    path = small / "x"
    error = refused(path)
    assert NO_ROOM in explained(error, path)
    with pytest.raises(OSError, match="No space") as full, (small / "y").open("wb") as file:
        file.write(b"x" * (9 << 20))
    assert "its disk is full" in explained(full.value, small / "y")


def test_used_up_inodes_are_not_called_a_full_disk(tmp_path: Path) -> None:
    """There may be any room for what no file can be made for."""
    if os.geteuid():
        pytest.skip("only root can mount a file system")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,nr_inodes=8", "none", tmp_path], check=True)
    try:
        with suppress(OSError):
            for number in range(10):
                (tmp_path / str(number)).touch()
        for path in (tmp_path / "x", tmp_path / "0"):
            text = explained(OSError(errno.ENOSPC, "No space left on device"), path)
            assert "no inodes are left" in text
            assert NO_ROOM not in text
        assert "no inodes are left" in explained(refused(tmp_path / "x"), tmp_path / "x")
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_disk_that_became_read_only(tmp_path: Path) -> None:
    """Remounted by hand, or by the kernel after an error."""
    if os.geteuid():
        pytest.skip("only root can mount a file system")
    path = tmp_path / "x"
    subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path], check=True)
    try:
        with closing(sqlite3.connect(path)) as db:
            db.execute("CREATE TABLE t (x)")
        subprocess.run(["mount", "-o", "remount,ro", tmp_path], check=True)
        text = explained(refused(path), path)
        assert "mount it for writing" in text
        assert NO_ROOM not in text
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.write_bytes(b"nonsense" * 1000), "start afresh"),
        (lambda path: path.mkdir(), "a folder stands where"),
        (os.mkfifo, "no regular file"),
    ],
    ids=["damaged", "folder", "pipe"],
)
def test_what_is_no_database(tmp_path: Path, make: Callable[[Path], object], said: str) -> None:
    path = tmp_path / "x"
    make(path)
    text = explained(refused(path), path)
    assert said in text
    assert NO_ROOM not in text
