"""Files that are the same in their tensors alone: rebuilt byte for byte, by the writers that people use."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tracemalloc
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lorad.dedupe.action.journal_file import JOURNAL
from lorad.dedupe.action.order import FreeOrder, Order, Refused, Result
from tests.builders.architectures import LayerSpec
from tests.builders.weights import random_weights
from tests.builders.write import save_checkpoint, write_safetensors
from tests.daemon.dedupe.world import SPECS, World, act, dress, make_world, read, side

if TYPE_CHECKING:
    from torch import Tensor

LAYERS = random_weights(SPECS, 1)


def _library(path: str) -> str:
    from safetensors.torch import save_file

    save_file(_tensors(), path, metadata={"format": "pt", "ss_tag_frequency": "x" * 5000})
    return path


def _tensors() -> dict[str, Tensor]:
    from tests.builders.write import tensor

    return {name: tensor(dtype, shape, data) for name, (dtype, shape, data) in LAYERS.items()}


def _training(path: str) -> str:
    import torch

    torch.save({"state_dict": _tensors(), "epoch": 3, "hyper_parameters": {"lr": 1e-4}}, path)
    return path


def _tied(path: str) -> str:
    """All tensors as views into two storages, as `torch.save` keeps them."""
    import torch

    names = sorted(LAYERS)
    whole = torch.frombuffer(bytearray(b"".join(LAYERS[name][2] for name in names)), dtype=torch.float16)
    views, start = {}, 0
    for name in names:
        length = len(LAYERS[name][2]) // 2
        views[name] = whole[start : start + length].reshape(LAYERS[name][1])
        start += length
    torch.save(views, path)
    return path


WRITERS = {
    "library.safetensors": _library,
    "plain.safetensors": lambda path: write_safetensors(path, LAYERS),
    "reversed.safetensors": lambda path: write_safetensors(
        path, LAYERS, order=sorted(LAYERS, reverse=True), padding=3
    ),
    "zip.pt": lambda path: save_checkpoint(path, LAYERS),
    "legacy.bin": lambda path: save_checkpoint(path, LAYERS, legacy=True),
    "training.ckpt": _training,
    "tied.pth": _tied,
}
PAIRS = [(kept, gone) for kept in WRITERS for gone in WRITERS if kept != gone]


def _pair(folder: Path, kept: str, gone: str) -> tuple[World, Order]:
    root = os.fsencode(folder / "root")
    os.mkdir(root)
    for name in (kept, gone):
        dress(os.fsencode(WRITERS[name](os.fsdecode(root) + "/" + name)), name.encode(), 1_500_000_000_000_000_001)
    world = World(root, str(folder / "state"))
    sides = [side(os.path.join(root, name.encode()), root) for name in (kept, gone)]
    return world, Order("delete", "tensors", *sides)


def _apply(world: World, order: Order) -> Result:
    with world.actor() as actor:
        return act(actor, order)


def _freed(world: World, order: Order) -> Result:
    with world.actor() as actor:
        number = act(actor, order).id
        (result,) = actor.free([FreeOrder(number, (order.kept,))])
    return result


@pytest.mark.parametrize(("kept", "gone"), PAIRS)
def test_every_container_is_made_anew_from_every_other(tmp_path: Path, kept: str, gone: str) -> None:
    """What was freed at level `tensors` comes back with every byte, whatever both containers are."""
    world, order = _pair(tmp_path, kept, gone)
    before = world.look()
    result = _freed(world, order)
    assert result.state == "freed", result.text
    assert set(world.look()) == {kept.encode()}
    world.undo(result.id)
    assert world.look() == before
    assert not world.leftovers()


def test_any_file_of_the_same_layers_will_do(tmp_path: Path) -> None:
    """It is made anew from a file in a third container, where the kept one is gone."""
    world, order = _pair(tmp_path, "plain.safetensors", "reversed.safetensors")
    before = world.look()
    result = _freed(world, order)
    third = os.path.join(world.root, b"third.pt")
    WRITERS["zip.pt"](os.fsdecode(third))
    os.unlink(order.kept.path)
    with world.actor() as actor:
        (undone,) = actor.undo([result.id], {result.id: [side(third, world.root)]})
    assert undone.state == "undone"
    assert world.look()[b"reversed.safetensors"] == before[b"reversed.safetensors"]


def test_a_link_never_leads_to_another_container(tmp_path: Path) -> None:
    """A program opens a file by its suffix: a link to the other container would be no use to it."""
    world, order = _pair(tmp_path, "plain.safetensors", "zip.pt")
    before = world.look()
    with pytest.raises(Refused, match="would lead to a safetensors file; order quarantine"):
        _apply(world, Order("symlink", "tensors", order.kept, order.gone))
    assert world.look() == before


def _strided(folder: Path) -> tuple[World, Order]:
    """A large tensor that lies in C order in one file and transposed in the other."""
    import torch

    root = os.fsencode(folder / "root")
    os.mkdir(root)
    ((name, (_, _, data)),) = random_weights([LayerSpec("a.weight", "F32", (1500, 1000))], 1).items()
    values = torch.frombuffer(bytearray(data), dtype=torch.float32).reshape(1500, 1000)
    paths = [os.path.join(root, each) for each in (b"kept.pt", b"gone.pt")]
    torch.save({name: values}, os.fsdecode(paths[0]))
    torch.save({name: values.t().contiguous().t()}, os.fsdecode(paths[1]))
    world = World(root, str(folder / "state"))
    return world, Order("delete", "tensors", *(side(path, root) for path in paths))


def test_what_cannot_be_made_anew_stays_hidden(tmp_path: Path) -> None:
    """Transposed elements are nowhere in the kept file as they are: it waits, with the reason."""
    world, order = _strided(tmp_path)
    before = world.look()
    result = _freed(world, order)
    assert result.state == "waiting"
    assert "would have to be kept" in result.text
    world.undo(result.id)
    assert world.look() == before
    assert not world.leftovers()


def test_a_compressed_checkpoint_is_refused(tmp_path: Path) -> None:
    """No reader compares it, so it is not acted upon at all."""
    world, order = _pair(tmp_path, "plain.safetensors", "zip.pt")
    with zipfile.ZipFile(os.fsdecode(order.gone.path)) as archive:
        records = [(each.filename, archive.read(each)) for each in archive.infolist()]
    with zipfile.ZipFile(os.fsdecode(order.gone.path), "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in records:
            archive.writestr(name, data)
    before = world.look()
    with pytest.raises(Refused, match="compressed"):
        _apply(world, Order("delete", "tensors", order.kept, side(order.gone.path, world.root)))
    assert world.look() == before


@pytest.mark.parametrize("action", ["delete", "symlink"])
@pytest.mark.parametrize("how", ["bytes", "shorter", "missing", "link"])
def test_undo_says_so_when_the_kept_file_changed(tmp_path: Path, action: str, how: str) -> None:
    """Nothing is touched, the action is still in force, and it can be undone once the kept file is what it was."""
    world = make_world(str(tmp_path), level="tensors")
    before = world.look()
    number = world.apply(action, "tensors").id
    assert world.free(number).state == "freed"
    content = read(world.kept)
    if how == "bytes":
        with open(world.kept, "r+b") as file:
            file.seek(-100, os.SEEK_END)
            file.write(b"\x55" * 10)
    elif how == "shorter":
        os.truncate(world.kept, 5000)
    else:
        os.rename(world.kept, world.kept + b".away")
        if how == "link":
            os.symlink(world.kept + b".away", world.kept)
    now = world.look()
    with pytest.raises(Refused, match="no file is known that it could be made from"):
        world.undo(number)
    assert world.look() == now
    assert [each.state for each in world.history()] == ["freed"]
    if how in ("missing", "link"):
        os.rename(world.kept + b".away", world.kept)
    else:
        with open(world.kept, "wb") as file:
            file.write(content)
        os.utime(world.kept, ns=before[b"models/kept.safetensors"].times)
    world.undo(number)
    assert world.look() == before


@pytest.mark.parametrize("place", [0, 20, -1])
def test_a_damaged_recipe_brings_nothing_back(tmp_path: Path, place: int) -> None:
    """It is refused, and no half file appears."""
    world = make_world(str(tmp_path), level="tensors")
    number = world.apply("delete", "tensors").id
    world.free(number)
    with contextlib.closing(sqlite3.connect(os.path.join(world.state, JOURNAL))) as db, db:
        ((body,),) = db.execute("SELECT body FROM recipes").fetchall()
        damaged = bytearray(body)
        damaged[place] ^= 0xFF
        db.execute("UPDATE recipes SET body = ?", (bytes(damaged),))
    now = world.look()
    with pytest.raises(Refused, match="could be made from"):
        world.undo(number)
    assert world.look() == now


def test_large_files_take_little_memory(tmp_path: Path) -> None:
    """Comparing, rehearsing and rebuilding go by pieces: a file of 48 MiB takes less than a third of that."""
    root = os.fsencode(tmp_path / "root")
    os.mkdir(root)
    layers = random_weights([LayerSpec("a", "F16", (3072, 4096)), LayerSpec("b", "F16", (3072, 4096))], 1)
    paths = [os.path.join(root, name) for name in (b"kept.safetensors", b"gone.safetensors")]
    write_safetensors(os.fsdecode(paths[0]), layers)
    write_safetensors(os.fsdecode(paths[1]), layers, order=["b", "a"])
    del layers
    world = World(root, str(tmp_path / "state"))
    tracemalloc.start()
    try:
        result = _freed(world, Order("delete", "tensors", *(side(path, root) for path in paths)))
        world.undo(result.id)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20


def test_a_kept_file_that_is_another_one_frees_nothing(tmp_path: Path) -> None:
    """The comparison decides: it stays hidden, and the reason is said."""
    world = make_world(str(tmp_path), level="tensors")
    before = world.look()
    number = world.apply("delete", "tensors").id
    content = read(world.kept)
    with open(world.kept, "r+b") as file:
        file.seek(-100, os.SEEK_END)
        file.write(b"\x55" * 10)
    result = world.free(number)
    assert result.state == "waiting"
    assert "differs after byte" in result.text
    with open(world.kept, "wb") as file:
        file.write(content)
    os.utime(world.kept, ns=before[b"models/kept.safetensors"].times)
    world.undo(number)
    assert world.look() == before
