"""A file is looked at in the place where it was found, and nothing else is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

import pytest

from lorad.blocks.extents import FileSystems, look

Disk = Callable[[str], str]


@pytest.fixture
def folder(disk: Disk) -> str:
    return disk("xfs")


def test_what_comes_between_is_not_taken_for_the_file(folder: str) -> None:
    """Another file in its place, or a link to it: nothing is said of it."""
    path = f"{folder}/a"
    with open(path, "wb") as file:
        file.write(b"x" * 100)
    status = os.stat(path)
    place = FileSystems().place([os.fsencode(path)], status.st_dev, status.st_ino, status.st_size)
    assert look(place)
    os.rename(path, f"{folder}/b")
    with pytest.raises(OSError, match="No such file"):
        look(place)
    os.symlink(f"{folder}/b", path)
    with pytest.raises(OSError, match="symbolic links"):
        look(place)
    os.unlink(path)
    shutil.copy(f"{folder}/b", path)
    with pytest.raises(OSError, match="not there"):
        look(place)


def test_a_name_that_leads_to_the_file_is_enough(folder: str) -> None:
    """The others may be gone, or lead elsewhere."""
    for name in "ab":
        with open(f"{folder}/{name}", "wb") as file:
            file.write(b"x" * 100)
    os.symlink("loop", f"{folder}/loop")
    status = os.stat(f"{folder}/b")
    names = [os.fsencode(f"{folder}/{name}") for name in ("gone", "loop", "gone/b", "a", "b")]
    facts = status.st_dev, status.st_ino, status.st_size
    assert FileSystems().place(names, *facts).path == names[-1]
    with pytest.raises(FileNotFoundError):
        FileSystems().place(names[:-1], *facts)
