"""Which files may keep what was put aside, when it is to be removed by itself, or on request (SPEC section 5)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from loracore import config
from lorad.catalog.views import connect, weights_at
from lorad.dedupe.action.journal import Journal
from lorad.dedupe.action.order import Order
from lorad.dedupe.decisions import Decisions
from tests.daemon.dedupe.world import World, act, another, make_world, side
from tests.integration.scanning import scan


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(str(tmp_path), sidecars=False)


def keepers(world: World, *, by_itself: bool) -> Sequence[bytes]:
    """The paths that may keep what the only action has put aside, by what is there now."""
    root = Path(os.fsdecode(world.root))
    scan(root, Path(world.state))
    with closing(Journal(world.state, writing=False)) as journal:
        (entry,) = journal.history()
    settings = config.Config(watch=config.Watch(roots=(str(root),)))
    made = Decisions(world.state, settings, lambda event: None, print, lambda: None)
    made.service.use(settings)
    try:
        return [os.path.relpath(each.path, world.root) for each in made.candidates(entry, by_itself)]
    finally:
        made.stop()


def hide(world: World, gone: bytes = b"") -> None:
    """Hide the second file for the first one, with what the catalogue knows of both."""
    gone = gone or world.gone
    scan(Path(os.fsdecode(world.root)), Path(world.state))
    with closing(connect(world.state)) as db:
        layout, weights = weights_at(db, [gone])[gone]
    sides = side(world.kept, world.root), side(gone, world.root)
    with world.actor() as actor:
        act(actor, Order("delete", "file", *sides, layout=layout, weights=weights))


def test_the_file_that_was_kept_comes_first(world: World) -> None:
    """Then other names of its weights, unmarked ones before; no link, and nothing that holds other weights."""
    hide(world)
    another(world, b"a (1).safetensors")
    another(world, b"zz/other.safetensors")
    os.symlink(world.kept, os.path.join(world.root, b"link.safetensors"))
    expected = [b"models/kept.safetensors", b"zz/other.safetensors", b"a (1).safetensors"]
    assert keepers(world, by_itself=False) == expected


def test_for_a_marked_name_no_unmarked_one_goes_by_itself(world: World) -> None:
    """On request it does; a marked one goes for either."""
    hide(world)
    copies = [another(world, b"models/kept (%d).safetensors" % number) for number in (1, 2)]
    names = [os.path.relpath(path, world.root) for path in copies]
    os.unlink(world.kept)
    assert keepers(world, by_itself=True) == []
    assert keepers(world, by_itself=False) == names
    another(world, b"third.safetensors", of=copies[0])
    assert keepers(world, by_itself=True) == [b"third.safetensors"]


def test_a_marked_one_goes_for_another_marked_one(world: World) -> None:
    """Both are copies or steps of something."""
    gone = world.gone.replace(b"gone", b"gone-000004")
    os.rename(world.gone, gone)
    hide(world, gone)
    copies = [another(world, b"kept-00000%d.safetensors" % number) for number in (1, 2)]
    os.unlink(world.kept)
    assert keepers(world, by_itself=True) == [os.path.relpath(path, world.root) for path in copies]
