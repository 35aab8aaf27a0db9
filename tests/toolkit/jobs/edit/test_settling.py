"""What an interrupted edit left is ended by the next one, whatever was done with the file since."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from loracore.jobs.edit import EditParameters
from lorakit.jobs.edit import journal
from lorakit.jobs.edit.planning import plan
from lorakit.jobs.edit.writing import write
from tests.toolkit.jobs.edit.files import edit, left, lora

HIDDEN = b".lorad-edit-0123456789abcdef.tmp"


@pytest.fixture
def interrupted(tmp_path: Path) -> Path:
    """A file whose edit ended when it was in place, before that was noted: the old file is hidden beside it."""
    folder = tmp_path / "loras"
    folder.mkdir()
    path = lora(folder / "a.safetensors")
    _, order = plan(os.fsencode(path), EditParameters(title="x"), 1, lambda _: None)
    assert order is not None
    with journal.writing() as opened:
        opened.begin([(order, HIDDEN, None)])
        write(order, HIDDEN, lambda _: None)
    assert left(folder) == [os.fsdecode(HIDDEN)]
    return path


@pytest.fixture
def settle(tmp_path: Path) -> Callable[[], tuple[str, ...]]:
    """An edit of another file; its warnings."""
    other = lora(tmp_path / "other.safetensors", seed=2)
    return lambda: edit(other, title="y", apply=True).warnings


def test_it_is_noted_as_done(interrupted: Path, settle: Callable[[], tuple[str, ...]]) -> None:
    new = interrupted.read_bytes()
    old = (interrupted.parent / os.fsdecode(HIDDEN)).read_bytes()
    assert [past.state for past in edit(history=True).history] == ["interrupted"]
    assert settle() == ()
    assert (interrupted.read_bytes(), left(interrupted.parent)) == (new, [])
    assert [past.state for past in edit(history=True).history] == ["done", "done"]
    assert edit(undo=(1,)).files[0].state == "undone"
    assert interrupted.read_bytes() == old


def test_a_file_that_was_moved_away_leaves_the_old_one(
    interrupted: Path, settle: Callable[[], tuple[str, ...]]
) -> None:
    """Its owner may have removed it as well: nothing comes back by itself; the warning names what is hidden."""
    old = (interrupted.parent / os.fsdecode(HIDDEN)).read_bytes()
    interrupted.rename(interrupted.with_name("moved.safetensors"))
    (warning,) = settle()
    assert os.fsdecode(HIDDEN) in warning
    assert not interrupted.exists()
    assert (interrupted.parent / os.fsdecode(HIDDEN)).read_bytes() == old


def test_what_is_away_is_settled_when_it_is_there_again(
    interrupted: Path, settle: Callable[[], tuple[str, ...]]
) -> None:
    """As on a disk that was not mounted at the next edit, where an empty folder stands in its place."""
    new = interrupted.read_bytes()
    folder, away = interrupted.parent, interrupted.parent.with_name("away")
    folder.rename(away)
    folder.mkdir()
    assert settle() == ()
    assert [past.state for past in edit(history=True).history] == ["interrupted", "done"]
    folder.rmdir()
    away.rename(folder)
    assert settle() == ()
    assert (interrupted.read_bytes(), left(folder)) == (new, [])
    assert edit(undo=(1,)).files[0].state == "undone"


def test_what_another_program_wrote_meanwhile_is_never_removed(
    interrupted: Path, settle: Callable[[], tuple[str, ...]]
) -> None:
    """It replaced the file between the last look at it and the exchange, so it has the hidden name."""
    theirs = lora(interrupted.with_name("theirs.safetensors"), {"title": "theirs"}, seed=7).read_bytes()
    hidden = interrupted.parent / os.fsdecode(HIDDEN)
    interrupted.with_name("theirs.safetensors").replace(hidden)
    (warning,) = settle()
    assert os.fsdecode(HIDDEN) in warning
    assert hidden.read_bytes() == theirs


def test_what_was_changed_since_is_left_and_said(interrupted: Path, settle: Callable[[], tuple[str, ...]]) -> None:
    """Until its owner has decided: the old file stays hidden, and the warning names both."""
    lora(interrupted, {"title": "of another program"}, seed=5)
    changed = interrupted.read_bytes()
    for _ in range(2):
        (warning,) = settle() or edit(interrupted, title="z", apply=True).warnings
        assert os.fsdecode(HIDDEN) in warning
        assert str(interrupted) in warning
    assert interrupted.read_bytes() == changed
    (interrupted.parent / os.fsdecode(HIDDEN)).unlink()
    assert edit(interrupted, title="z", apply=True).warnings == ()


def test_a_folder_that_is_away_is_waited_for(interrupted: Path, settle: Callable[[], tuple[str, ...]]) -> None:
    folder = interrupted.parent
    folder.rename(folder.with_name("away"))
    assert "cannot be settled" in settle()[0]
    folder.with_name("away").rename(folder)
    assert edit(undo=(1,)).files[0].state == "undone"
    assert not left(folder)


def test_a_damaged_row_stops_no_other(
    interrupted: Path, settle: Callable[[], tuple[str, ...]], state: Path
) -> None:
    connection = sqlite3.connect(state / "edits.sqlite")
    with connection:
        connection.execute("UPDATE files SET old = x'00'")
    connection.close()
    assert "damaged" in settle()[0]
    assert left(interrupted.parent) == [os.fsdecode(HIDDEN)]


def test_edits_at_the_same_time_wait_for_each_other(tmp_path: Path) -> None:
    """All are done, each with its own number."""
    paths = [lora(tmp_path / f"{number}.safetensors", seed=number) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda path: edit(path, title="x", apply=True), paths))
    assert {each.files[0].state for each in found} == {"done"}
    assert len({each.id for each in found}) == 8
    assert not left(tmp_path)
