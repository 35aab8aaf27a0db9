"""The files beside a model file: they stay, or are put aside with it and come back; they are never freed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lorad.dedupe.action.order import Order
from tests.daemon.dedupe.world import (
    GONE,
    KEPT,
    SIDECARS,
    World,
    act,
    files_in,
    look,
    make_world,
    read,
    side,
    take_back,
)  # fmt: skip


def _in_view(world: World) -> set[bytes]:
    return {name for name in world.look() if not os.path.basename(name).startswith(b".")}


@pytest.mark.parametrize("action", ["quarantine", "delete"])
def test_sidecars_stay_unless_they_are_to_move(tmp_path: Path, action: str) -> None:
    """`keep` leaves them; `move` puts them aside, also when the file is freed; undo brings them back."""
    world = make_world(str(tmp_path))
    before = world.look()
    world.undo(world.apply(action).id)
    for freed in (False, True):
        number = world.apply(action, sidecars="move").id
        assert _in_view(world) == {KEPT}
        if freed:
            assert world.free(number).state == "freed"
            content = {read(path) for path in (*files_in(world.root), *world.leftovers())}
            assert set(SIDECARS.values()) <= content
        world.undo(number)
        assert world.look() == before
    assert not world.leftovers()


@pytest.mark.parametrize("other", [b"gone.pt", b"gone.preview.safetensors"])
def test_a_sidecar_of_two_models_stays(tmp_path: Path, other: bytes) -> None:
    """What another model file of the folder would miss too is not moved."""
    world = make_world(str(tmp_path))
    folder = os.path.dirname(world.gone)
    with open(os.path.join(folder, other), "wb") as file:
        file.write(b"another model")
    world.apply("quarantine", sidecars="move")
    left = {os.path.basename(name) for name in files_in(folder)}
    assert b"gone.preview.png" in left
    assert (b"gone.civitai.info" in left) == (other == b"gone.pt")


@pytest.mark.parametrize("action", ["quarantine", "delete"])
@pytest.mark.parametrize("freed", [False, True])
def test_a_sidecar_whose_name_was_taken(tmp_path: Path, action: str, freed: bool) -> None:
    """The model comes back, the other file stays, and it is said where the old one is."""
    world = make_world(str(tmp_path))
    before = world.look()
    number = world.apply(action, sidecars="move").id
    if freed:
        world.free(number)
    (taken,) = [name for name in SIDECARS if name.endswith(b".png")]
    path = os.path.join(world.root, taken)
    with open(path, "wb") as file:
        file.write(b"another picture")
    result = world.undo(number)
    assert result.state == "undone"
    assert "gone.preview.png" in result.text
    assert read(path) == b"another picture"
    assert look(world.gone) == before[GONE]
    assert SIDECARS[taken] in {read(path) for path in (*files_in(world.root), *world.leftovers())}


def test_long_names_that_are_cut_to_the_same_one(tmp_path: Path) -> None:
    """The second stays where it is; all are there again after an undo."""
    world = make_world(str(tmp_path), sidecars=False)
    stem = os.path.join(os.path.dirname(world.gone), b"x" * 240)
    path = stem + b".safetensors"
    os.rename(world.gone, path)
    for ending in (b".json", b".png"):
        Path(os.fsdecode(stem + ending)).write_bytes(ending)
    before = world.look()
    with world.actor() as actor:
        order = Order("delete", "file", side(world.kept, world.root), side(path, world.root), "move")
        assert act(actor, order).state == "hidden"
        take_back(actor, 1)
    assert world.look() == before
