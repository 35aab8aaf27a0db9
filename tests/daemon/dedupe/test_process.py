"""The process that acts: killed, wedged or talking nonsense, it costs a wait and loses nothing."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import psutil
import pytest

from loracore.errors import StateError
from lorad.dedupe.action.journal_file import JOURNAL
from lorad.dedupe.action.order import FreeOrder, Result
from lorad.dedupe.history import ActionHistory
from lorad.dedupe.process import ActionProcess, Apply, Clock, Free, GiveBack, Note, Retarget, Undo
from tests.builders.write import write_safetensors
from tests.daemon.dedupe.world import World, dies_at, look, make_world, side


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(str(tmp_path))


@pytest.fixture
def told() -> list[Result]:
    """What became of interrupted actions."""
    return []


@pytest.fixture
def process(world: World, told: list[Result]) -> Iterator[ActionProcess]:
    made = ActionProcess(world.state, told.extend)
    yield made
    made.dismiss()


def _large(world: World) -> None:
    """So much that it is said how far it is."""
    layers = {"a.lora_down.weight": ("U8", (64 << 20,), os.urandom(1 << 20) * 64)}
    for path in (world.kept, world.gone):
        write_safetensors(os.fsdecode(path), layers)


def _killing(process: ActionProcess, times: int) -> Callable[[int, int], None]:
    left = iter(range(times))

    def progress(done: int, total: int) -> None:
        if next(left, None) is not None:
            process.kill()

    return progress


def test_every_wish_is_carried_out(world: World, process: ActionProcess) -> None:
    """From hiding to giving back, with the journal's token once it has started."""
    before = world.look()
    (hidden,) = process.ask(Apply([world.order("symlink")], clock=5.0))
    assert (hidden.state, hidden.hidden_at) == ("hidden", 5.0)
    assert process.token in os.fsdecode(hidden.aside)
    moved = world.kept + b".moved.safetensors"
    os.rename(world.kept, moved)
    (led,) = process.ask(Retarget(hidden.id, side(moved, world.root)))
    assert led.kept == moved
    os.unlink(world.gone)
    (refused,) = process.ask(Retarget(hidden.id, side(moved, world.root)))
    assert (refused.state, "removed or replaced" in refused.text) == ("refused", True)
    (noted,) = process.ask(Note(hidden.id, "lost", "it was removed"))
    assert noted.state == "lost"
    assert process.ask(Note(99, "lost", "")) == []
    (back,) = process.ask(GiveBack([hidden.id]))
    assert (back.state, back.shown) == ("given_back", world.gone)
    os.rename(moved, world.kept)
    assert world.look() == before
    (freed,) = process.ask(Apply([world.order("delete")], now=True))
    assert freed.state == "freed"
    (undone,) = process.ask(Undo([freed.id], {freed.id: [side(world.kept, world.root)]}))
    assert undone.state == "undone"
    assert world.look() == before
    assert process.ask(Clock(12.5)) == []
    process.dismiss()
    assert ActionHistory(world.state).clock() == 12.5


def test_orders_that_it_is_killed_over_are_not_repeated(
    world: World, process: ActionProcess, told: list[Result]
) -> None:
    """Some may be done: it says nothing of them but what repair found, and goes on with the next."""
    _large(world)
    before = look(world.gone)
    assert process.ask(Apply([world.order("delete")]), _killing(process, 1)) == []
    assert told == []
    assert look(world.gone) == before
    (result,) = process.ask(Apply([world.order("delete")]))
    assert result.state == "hidden"


def test_what_else_it_is_killed_over_is_asked_again(world: World, process: ActionProcess) -> None:
    """Freeing, giving back and undoing can be."""
    _large(world)
    before = look(world.gone)
    (hidden,) = process.ask(Apply([world.order("delete")]))
    order = FreeOrder(hidden.id, (side(world.kept, world.root),))
    (freed,) = process.ask(Free([order]), _killing(process, 1))
    assert freed.state == "freed"
    (undone,) = process.ask(Undo([hidden.id]), _killing(process, 1))
    assert undone.state == "undone"
    assert look(world.gone) == before


def test_one_that_keeps_dying_is_given_up(world: World, process: ActionProcess) -> None:
    """With a word; the next wish is tried as ever."""
    _large(world)
    (hidden,) = process.ask(Apply([world.order("delete")]))
    order = FreeOrder(hidden.id, (side(world.kept, world.root),))
    with pytest.raises(StateError, match="keeps dying"):
        process.ask(Free([order]), _killing(process, 9))
    assert process.ask(Free([order]))[0].state == "freed"


def test_one_that_died_while_nothing_was_under_way_is_started_anew(world: World, process: ActionProcess) -> None:
    """Nobody notices."""
    process.start()
    (child,) = psutil.Process().children()
    child.send_signal(signal.SIGKILL)
    child.wait(30)
    assert process.ask(Apply([world.order("delete")]))[0].state == "hidden"


def test_what_was_interrupted_is_repaired_and_told_at_its_start(
    world: World, process: ActionProcess, told: list[Result]
) -> None:
    """Before anything else."""
    order = world.order("delete")
    dies_at(world, "put aside", lambda actor: actor.apply([order]))
    before = look(world.kept)
    process.start()
    assert [result.state for result in told] == ["refused"]
    assert os.path.exists(world.gone)
    assert look(world.kept) == before


@pytest.mark.parametrize("damage", ["held", "damaged", "missing"])
def test_why_it_cannot_start_is_said(world: World, process: ActionProcess, damage: str) -> None:
    """In one line that names the journal, or who has it; it works once that is over."""
    assert process.ask(Apply([world.order("delete")]))[0].state == "hidden"
    process.dismiss()
    path = os.path.join(world.state, JOURNAL)
    if damage == "held":
        with world.actor(), pytest.raises(StateError, match="another lorad"):
            process.ask(Undo([1]))
    else:
        os.rename(path, path + ".backup")
        if damage == "damaged":
            Path(path).write_bytes(b"no journal" * 99)
        with pytest.raises(StateError, match=r"journal\.sqlite: .*backup"):
            process.ask(Undo([1]))
        os.replace(path + ".backup", path)
    assert process.ask(Undo([1]))[0].state == "undone"


def test_a_journal_that_cannot_be_written_ends_it_with_the_reason(
    disk: Callable[[str], str], tmp_path: Path
) -> None:
    """Names are back at once; it is started anew for the next wish."""
    state = disk("tmpfs")
    world = make_world(str(tmp_path), state=state)
    before = world.look()
    process = ActionProcess(state, lambda results: None)
    process.start()
    filler = os.path.join(state, "filler")
    with open(filler, "wb") as file:
        room = os.statvfs(state)
        os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_bsize)
    with pytest.raises(StateError, match="make room"):
        process.ask(Apply([world.order("delete")]))
    assert world.look() == before
    os.unlink(filler)
    assert process.ask(Apply([world.order("delete")]))[0].state == "hidden"
    process.dismiss()


@pytest.mark.parametrize("said", [r"\004\000\000\000abcd", r"\377\377\377\377", r"\001\000\000\000\300", ""])
def test_one_that_talks_nonsense_is_given_up(
    world: World, process: ActionProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str
) -> None:
    """At its start, or in place of what came of a wish: it costs bounded memory, and says what to look at."""
    script = tmp_path / "nonsense"
    script.write_text(f"#!/bin/sh\nprintf '{said}'\n")
    script.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(script))
        with pytest.raises(StateError, match="does not start"):
            process.ask(Clock(1.0))
    assert process.ask(Clock(1.0)) == []


def test_a_wish_that_it_does_not_know_ends_it(world: World, process: ActionProcess) -> None:
    """And changes nothing; it is not asked for ever."""

    class Unknown(msgspec.Struct, frozen=True, tag="unknown"):
        numbers: list[int]

    with pytest.raises(StateError, match="keeps dying"):
        process.ask(Unknown([1]))  # type: ignore[arg-type]
    with closing(sqlite3.connect(os.path.join(world.state, JOURNAL))) as db:
        assert db.execute("SELECT count(*) FROM actions").fetchone() == (0,)
