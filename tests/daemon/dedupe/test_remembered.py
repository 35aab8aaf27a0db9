"""Newcomers that wait stand in the catalogue, from the commit that made them duplicates until they are settled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lorad.catalog import Catalog
from lorad.dedupe import remembered as module
from lorad.dedupe.remembered import Remembered
from lorad.files import Files, is_under
from lorad.pipeline.protocol import Identity

ROOT = b"/models"
PATHS = [b"/models/%d.safetensors" % number for number in range(3)]
#: Inodes of some file systems need all 64 bits.
INODE = 2**64 - 10


def everything(path: bytes) -> bool:
    return True


class Life:
    """A catalogue with its files from one start to the next kill."""

    def __init__(self, folder: Path, root: bytes = ROOT) -> None:
        self.catalog = Catalog(str(folder))
        self.files = Files(self.catalog)
        self.files.load(is_under([root]))
        self.remembered = Remembered(self.catalog, self.files)

    def put(self, path: bytes, inode: int, mtime_ns: int = 5) -> None:
        """Have a name lead to an inode that it did not lead to."""
        if path in self.files.by_path:
            self.files.forget(self.files.by_path[path])
        self.files.name(self.files.add(Identity(1, inode, 100, mtime_ns, 6)), path)

    def commit(self) -> None:
        self.files.save()
        self.catalog.commit(new_generation=True)

    def kill(self) -> None:
        """What is not committed is gone."""
        self.catalog.abandon()


@pytest.fixture
def noted(tmp_path: Path) -> Path:
    """A state folder whose catalogue has three newcomers."""
    life = Life(tmp_path)
    for number, path in enumerate(PATHS):
        life.put(path, INODE + number)
        life.remembered.note(path)
    life.commit()
    life.kill()
    return tmp_path


def taken_up(folder: Path, knows: Callable[[bytes], bool] = everything, root: bytes = ROOT) -> list[bytes]:
    life = Life(folder, root)
    found = life.remembered.take_up(knows)
    life.commit()
    life.kill()
    return found


def test_what_was_noted_is_taken_up(noted: Path) -> None:
    """By each start after it, until it is dropped; then by none."""
    assert taken_up(noted) == taken_up(noted) == PATHS
    life = Life(noted)
    life.remembered.take_up(everything)
    assert all(map(life.remembered.still, PATHS))
    assert life.remembered.drop(PATHS[:1])
    assert not life.remembered.drop(PATHS[:1]), "there is nothing more to commit"
    life.commit()
    life.kill()
    assert taken_up(noted) == PATHS[1:]


def test_a_kill_before_the_commit_leaves_neither_file_nor_newcomer(tmp_path: Path) -> None:
    """They are written together, so that no file is taken for a newcomer that is read again anyway."""
    life = Life(tmp_path)
    life.put(PATHS[0], INODE)
    life.remembered.note(PATHS[0])
    life.files.save()
    life.kill()
    life = Life(tmp_path)
    assert not life.files.by_path
    assert not life.remembered.take_up(everything)


def test_an_old_file_in_the_place_of_a_newcomer_is_none(noted: Path) -> None:
    """Whether it was put there before the kill or after the start; nor is one that is not there."""
    life = Life(noted)
    life.put(PATHS[0], 77)
    life.files.forget(life.files.by_path[PATHS[1]])
    life.commit()
    life.kill()
    assert taken_up(noted) == PATHS[2:]
    life = Life(noted)
    life.remembered.take_up(everything)
    life.put(PATHS[2], INODE + 2, mtime_ns=7)
    assert not life.remembered.still(PATHS[2])
    life.kill()


def test_another_mode_is_no_other_file(noted: Path) -> None:
    """Its record is another one, as its ctime is."""
    life = Life(noted)
    life.put(PATHS[0], INODE)
    life.commit()
    life.kill()
    assert taken_up(noted) == PATHS


def test_what_is_out_of_view_at_a_start_is_forgotten_for_good(noted: Path) -> None:
    """Its folder is not watched any more, or was not looked through to its end: it is old when it comes back."""
    assert taken_up(noted, root=b"/elsewhere") == []
    assert taken_up(noted) == []


def test_what_may_not_be_new_is_forgotten_for_good(noted: Path) -> None:
    assert taken_up(noted, knows=lambda path: path == PATHS[0]) == PATHS[:1]
    assert taken_up(noted) == PATHS[:1]


def test_it_is_bounded(noted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest waits for a request, as all of it did before."""
    monkeypatch.setattr(module, "MOST", 2)
    assert len(taken_up(noted)) == 2


def test_report_forgets_all(noted: Path) -> None:
    life = Life(noted)
    life.remembered.take_up(everything)
    assert life.remembered.clear()
    life.commit()
    life.kill()
    assert taken_up(noted) == []
