"""What an undo has brought back is known by its name or its inode, also under another name or mtime."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from lorad.dedupe.past import Past

from lorad.dedupe.keeping import Copy
from tests.daemon.dedupe.world import World, make_world


def copy_of(path: bytes, *, ino: int = 0, name: bytes = b"") -> Copy:
    """What a catalogue says of a file, or of one like it with another inode or name."""
    status = os.stat(path)
    return Copy((name or path,), status.st_dev, ino or status.st_ino, status.st_size, 1, 2, b"r")


def is_back(world: World, copy: Copy) -> bool:
    return bool(Past(world.state).put_back({(copy.dev, copy.ino): copy}))


@pytest.mark.parametrize("action", ["delete", "symlink", "hardlink", "quarantine"])
def test_what_came_back_is_known(tmp_path: Path, action: str) -> None:
    """Not before it was undone, nor after it was acted on again; no other file is taken for it."""
    world = make_world(str(tmp_path))
    # As long as it is open, its number is not given to the file that comes back.
    held = open(world.gone, "rb")  # noqa: SIM115
    was = os.stat(world.gone).st_ino
    first = world.apply(action)
    assert not is_back(world, copy_of(world.kept, ino=was, name=world.gone))
    world.undo(first.id)
    assert is_back(world, copy_of(world.gone))
    assert is_back(world, copy_of(world.gone, name=b"/renamed"))
    assert not is_back(world, copy_of(world.kept))
    if action != "quarantine":
        # Later it may be given to a download of the same size.
        assert not is_back(world, copy_of(world.gone, ino=was, name=b"/new"))
    held.close()
    world.apply(action)
    assert not is_back(world, copy_of(world.kept, ino=was, name=world.gone))
