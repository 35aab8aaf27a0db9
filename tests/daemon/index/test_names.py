"""Names come, go and come back while folders are looked through, on a real disk."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from loracore.control import Event, FileFailedEvent, FileGone
from lorad.catalog import Catalog
from lorad.index.known_files import Files
from lorad.watch.exclude import Exclude
from tests.daemon.index.looking import Looking


class Look:
    """The names below one root, and what it told."""

    def __init__(self, root: Path, state: Path) -> None:
        self.deferred: list[bytes] = []
        state.mkdir()
        self.catalog = Catalog(str(state))
        self.files = Files(self.catalog)
        self.told: list[Event] = []
        roots = [os.fsencode(root)]
        self.index = Looking(
            self.files, roots, exclude=Exclude(roots=roots), tell=self.told.append, defer=self.defer
        )
        #: Whether what is met has to settle first.
        self.young = False
        self.root = roots[0]

    def defer(self, path: bytes, status: os.stat_result) -> bool:
        if self.young:
            self.deferred.append(path)
        return self.young

    def sweep(self) -> None:
        self.index.sweep(self.root)

    @property
    def names(self) -> set[str]:
        return {os.path.basename(os.fsdecode(path)) for path in self.files.by_path}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "models"
    path.mkdir()
    for name in "abc":
        (path / f"{name}.safetensors").write_text(name)
    return path


@pytest.fixture
def look(root: Path, tmp_path: Path) -> Look:
    look = Look(root, tmp_path / "state")
    look.sweep()
    assert look.names == {"a.safetensors", "b.safetensors", "c.safetensors"}
    look.told.clear()
    return look


@pytest.mark.parametrize("touched", [True, False])
def test_a_name_that_comes_back_during_a_sweep_stays(look: Look, root: Path, touched: bool) -> None:
    """Its folder was listed without it; what was told of it later counts, and so does the disk."""
    path = root / "b.safetensors"
    path.unlink()
    look.index.sweeps.add(look.root)
    look.index.sweeps.step(1)
    path.write_text("new")
    if touched:
        look.index.looks.touched(os.fsencode(path))
    look.index.finish()
    assert "b.safetensors" in look.names
    assert look.files.by_path[os.fsencode(path)].identity.size == 3
    assert FileGone(os.fsencode(path)) not in look.told


def test_a_folder_that_cannot_be_listed_keeps_its_names(look: Look, root: Path) -> None:
    """There are no descriptors left, for a moment."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(root, os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
    try:
        look.sweep()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert {"a.safetensors", "b.safetensors", "c.safetensors"} <= look.names
    assert any(isinstance(event, FileFailedEvent) for event in look.told)
    look.sweep()
    assert look.names == {"a.safetensors", "b.safetensors", "c.safetensors"}


def test_what_is_in_no_root_is_not_taken_in(look: Look, tmp_path: Path) -> None:
    (tmp_path / "stranger.safetensors").write_text("x")
    look.index.looks.touched(os.fsencode(tmp_path / "stranger.safetensors"))
    assert "stranger.safetensors" not in look.names


def test_a_folder_that_becomes_a_file_takes_its_names_along(look: Look, root: Path) -> None:
    folder = root / "d.safetensors"
    folder.mkdir()
    (folder / "e.safetensors").write_text("e")
    look.sweep()
    (folder / "e.safetensors").unlink()
    folder.rmdir()
    folder.write_text("now a file")
    look.index.looks.touched(os.fsencode(folder))
    assert look.names == {"a.safetensors", "b.safetensors", "c.safetensors", "d.safetensors"}


def test_the_root_that_vanishes_keeps_its_names(look: Look, root: Path) -> None:
    root.rename(root.with_name("away"))
    look.index.looks.touched(os.fsencode(root / "a.safetensors"))
    look.sweep()
    assert look.names == {"a.safetensors", "b.safetensors", "c.safetensors"}
    root.with_name("away").rename(root)
    (root / "a.safetensors").unlink()
    look.sweep()
    assert look.names == {"b.safetensors", "c.safetensors"}


def test_an_inode_with_very_many_names_may_lose_all_but_one(look: Look, root: Path) -> None:
    for number in range(1500):
        os.link(root / "a.safetensors", root / f"{number}.safetensors")
    look.sweep()
    for number in range(1500):
        os.unlink(root / f"{number}.safetensors")
    look.sweep()
    assert look.names == {"a.safetensors", "b.safetensors", "c.safetensors"}
    status = os.stat(root / "a.safetensors")
    assert look.files.by_path[os.fsencode(root / "a.safetensors")].identity.ctime_ns == status.st_ctime_ns


def test_a_file_that_is_overwritten_while_it_is_read_settles_first(look: Look, root: Path) -> None:
    path = os.fsencode(root / "a.safetensors")
    file = look.files.by_path[path]
    (root / "a.safetensors").write_text("half of what will be")
    look.young = True
    look.index.looks.look_again(file)
    assert look.deferred == [path]
    assert file.id not in look.files.by_id
    look.index.looks.touched(path)
    assert look.files.by_path[path].identity.size == 20
