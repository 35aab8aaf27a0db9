"""Repair goes on whatever it finds, and never believes a folder that is not the one that was acted in."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from lorad.dedupe import steps
from lorad.dedupe.journal import Entry
from lorad.dedupe.orders import Order, Refused
from lorad.dedupe.reach import Reached
from lorad.dedupe.settle import settle
from lorad.dedupe.site import Site
from lorad.dedupe.worker import Mended
from tests.daemon.dedupe.world import World, dies_at, make_world, side


def dies_after(world: World, step: str, order: Order) -> None:
    """Killed in an action right after this step."""
    names = steps.APPLY[order.action, order.level]
    dies_at(world, names.index(step), lambda actor: actor.apply(order))


def repaired(world: World) -> list[str]:
    """The states that repair brings the interrupted actions to."""
    with world.actor() as actor:
        return [result.state for result in actor.repair()]


@pytest.mark.parametrize("action", ["hardlink", "delete", "quarantine"])
def test_a_name_that_is_no_text_is_spoken_of_in_escapes(tmp_path: Path, action: str) -> None:
    """Repair, history and refusals go on where a name is not UTF-8, and the action is settled."""
    world = make_world(str(tmp_path))
    odd = os.path.join(os.path.dirname(world.gone), b"n\xff")
    os.mkdir(odd)
    path = os.path.join(odd, b"\xfe.safetensors")
    os.rename(world.gone, path)
    order = Order(action, "file", side(world.kept, world.root), side(path, world.root))
    dies_after(world, "planned", order)
    os.rename(odd, odd + b" moved")
    with world.actor() as actor:
        (waits,) = actor.repair()
        assert waits.state == "planned"
        assert "n\\xff" in waits.text
        msgspec.msgpack.encode(Mended([waits, *actor.history()]))
        with pytest.raises(Refused, match=r"n\\xff"):
            actor.apply(order)
    os.rename(odd + b" moved", odd)
    assert repaired(world) == ["failed"]


def test_one_action_that_cannot_be_repaired_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong with one, the others are brought to an end."""
    world = make_world(str(tmp_path))
    before = world.look()
    dies_after(world, "planned", world.order("delete"))
    dies_after(world, "set aside", world.order("delete"))

    def fails_first(site: Site, entry: Entry, reached: Reached, text: str) -> Entry:
        if entry.id == 1:
            raise RuntimeError("out of order")
        return settle(site, entry, reached, text)

    monkeypatch.setattr("lorad.dedupe.repair.settle", fails_first)
    assert repaired(world) == ["planned", "failed"]
    assert world.look() == before
