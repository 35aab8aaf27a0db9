"""What was known of a file is known of the one that an edit puts in its place, and of no other (SPEC 7)."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from loracore.control import TagFiles
from loracore.identity import TICK_NS, Edited, Identity
from loracore.jobs.edit import EditParameters
from loracore.jobs.job import Alone
from lorad import state_folder
from lorad.catalog import Catalog, Identified
from lorad.catalog.hashes import wanted_after
from lorad.index import inheritance
from lorad.index.engine import Engine
from lorad.index.records import File
from lorad.index.tagging import answer
from lorad.library import Status
from lorad.pipeline.launch import Crew
from lorad.pipeline.pipeline import Pipeline
from lorakit.jobs.edit.job import JOB
from tests.builders.architectures import sd15
from tests.builders.weights import random_weights
from tests.builders.write import write_safetensors
from tests.toolkit.jobs.edit.files import lora

Open = Callable[[], Engine]


@pytest.fixture(autouse=True)
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "edits"))


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipeline]:
    monkeypatch.chdir(tmp_path)
    pipeline = Pipeline(Crew(str(tmp_path), str(tmp_path), loaders=1, hasher="cpu"), told=lambda *death: None)
    yield pipeline
    pipeline.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files of the same weights, and one of the same layout."""
    folder = tmp_path / "loras"
    folder.mkdir()
    lora(folder / "a.safetensors")
    shutil.copy2(folder / "a.safetensors", folder / "b.safetensors")
    lora(folder / "c.safetensors", seed=3)
    return folder


@pytest.fixture
def opened(folder: Path, pipeline: Pipeline, tmp_path: Path) -> Iterator[Open]:
    """A new engine, in place of the one before."""
    catalogs: list[Catalog] = []

    def make() -> Engine:
        while catalogs:
            catalogs.pop().close()
        catalogs.append(Catalog(str(tmp_path)))
        engine = Engine(
            catalogs[0], pipeline, [os.fsencode(folder)], follow=False, state_dir=os.fsencode(tmp_path),
            tell=lambda event: None, mistake=lambda *mistake: pytest.fail(str(mistake)),
        )  # fmt: skip
        engine.sweeps.add(os.fsencode(folder))
        return finished(engine)

    yield make
    for catalog in catalogs:
        catalog.close()


@pytest.fixture
def engine(opened: Open) -> Engine:
    return opened()


def finished(engine: Engine) -> Engine:
    while not engine.finished:
        engine.step(1.0)
    return engine


def edit(*paths: Path, **options: Any) -> list[Edited]:
    """What an edit says of these files."""
    said: list[Edited] = []
    parameters = EditParameters(tuple(map(os.fsencode, paths)), **options)
    found = JOB.run(parameters, Alone(2, edited=said.extend))
    assert {file.state for file in found.files} <= {"done", "undone"}
    return said


def now(path: Path) -> Identity:
    return Identity.of(path.stat())


def touch(engine: Engine, *paths: Path) -> None:
    """Once they have settled, as in a daemon: what is read within a tick of its ctime is not certain."""
    for path in paths:
        while path.exists() and time.time_ns() - path.stat().st_ctime_ns <= 2 * TICK_NS:
            time.sleep(TICK_NS / 1e9)
        engine.looks.touched(os.fsencode(path))


def of(engine: Engine, path: Path) -> File:
    return engine.files.by_path[os.fsencode(path)]


def data_read(engine: Engine) -> int:
    """Bytes of layers, and of what lies between them."""
    return sum(engine.statistics.stages[stage].bytes for stage in ("samples", "layers", "residue"))


def test_an_edited_duplicate_is_one_without_reading_it(engine: Engine, opened: Open, folder: Path) -> None:
    """All but its header is taken over, for good; a file of the same bytes that nobody told of is read."""
    path = folder / "b.safetensors"
    before, read, residue = of(engine, path).weights, data_read(engine), of(engine, path).residue
    engine.edited(edit(path, title="Ink", apply=True))
    touch(engine, path)
    file = of(finished(engine), path)
    assert data_read(engine) == read
    assert (file.status, file.weights, file.identity) == (Status.DUPLICATE, before, now(path))
    assert file.residue not in (None, residue)
    again = opened()
    assert data_read(again) == 0
    assert (of(again, path).status, of(again, path).weights) == (Status.DUPLICATE, before)
    other = shutil.copy2(path, folder / "new.part")
    other.rename(path)
    touch(again, path)
    finished(again)
    assert data_read(again) > 0


def test_undo_and_edits_in_a_row_are_known_as_well(engine: Engine, folder: Path) -> None:
    """Seen one by one, or the last of them alone; of all files at once."""
    paths = [folder / "a.safetensors", folder / "b.safetensors"]
    weights, read = {of(engine, path).weights for path in paths}, data_read(engine)
    engine.edited(edit(*paths, title="Ink", apply=True))
    touch(engine, *paths)
    finished(engine)
    engine.edited(edit(undo=(1,)))
    engine.edited(edit(*paths, title="Oil", apply=True))
    engine.edited(edit(*paths, title="Chalk", apply=True))
    touch(engine, *paths)
    finished(engine)
    assert data_read(engine) == read
    assert {of(engine, path).weights for path in paths} == weights
    assert {of(engine, path).status for path in paths} == {Status.DUPLICATE}


def test_a_file_that_is_alone_takes_over_what_it_answered(engine: Engine, folder: Path) -> None:
    """So one of its weights is told from others, and found as its duplicate, by what was read before."""
    path, read = folder / "c.safetensors", data_read(engine)
    engine.edited(edit(path, title="Ink", apply=True))
    touch(engine, path)
    assert of(finished(engine), path).status is Status.UNIQUE
    assert data_read(engine) == read


def test_it_is_told_before_its_header_is_read_or_after(engine: Engine, folder: Path) -> None:
    """What was taken for a stranger is known as what it was, once that is said."""
    path = folder / "b.safetensors"
    (folder / "a.safetensors").unlink()
    touch(engine, folder / "a.safetensors")
    weights = of(finished(engine), path).weights
    assert (of(engine, path).status, weights is None) == (Status.UNIQUE, False)
    said = edit(path, title="Ink", apply=True)
    touch(engine, path)
    engine.edited(said)
    read = data_read(engine)
    assert (of(finished(engine), path).weights, data_read(engine)) == (weights, read)
    said = edit(path, title="Oil", apply=True)
    touch(engine, path)
    assert of(finished(engine), path).weights is None
    read = data_read(engine)
    engine.edited(said)
    assert (of(finished(engine), path).weights, data_read(engine)) == (weights, read)
    # Said once more, it is as it was.
    engine.edited(said)
    assert (engine.finished, of(engine, path).weights) == (True, weights)


def test_what_is_being_read_is_taken_up_again(engine: Engine, folder: Path) -> None:
    """It is said in the middle of it, and the duplicate is one."""
    path = folder / "b.safetensors"
    weights = of(engine, path).weights
    said = edit(path, title="Ink", apply=True)
    touch(engine, path)
    while of(engine, path).layout is None:
        engine.step(1.0)
    engine.edited(said)
    assert (of(finished(engine), path).status, of(engine, path).weights) == (Status.DUPLICATE, weights)


def test_what_took_its_place_meanwhile_is_no_heir(engine: Engine, folder: Path) -> None:
    """Other weights under the name of an edited file, or written into it."""
    path, other = folder / "b.safetensors", folder / "a.safetensors"
    engine.edited(edit(path, title="Ink", apply=True))
    lora(folder / "d.part", seed=4).rename(path)
    engine.edited(edit(other, title="Ink", apply=True))
    with other.open("rb+") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x55")
    touch(engine, path, other)
    finished(engine)
    assert {of(engine, path).status, of(engine, other).status} == {Status.UNIQUE}
    assert (of(engine, path).weights, of(engine, other).weights) == (None, None)


@pytest.mark.parametrize("lie", ["layout", "before", "name", "elsewhere", "itself"])
def test_what_does_not_fit_is_read(engine: Engine, folder: Path, lie: str) -> None:
    """Another layout, a file that was not known so, another name, a name outside of the roots."""
    path = folder / "b.safetensors"
    before, new = now(path), folder / "d.part"
    if lie == "layout":
        write_safetensors(str(new), random_weights(sd15(8, width=32, every=3), 1))
    else:
        lora(new, {"title": "other"}, seed=5)
    new.rename(path)
    name = {"name": folder / "a.safetensors", "elsewhere": Path("/b.safetensors")}.get(lie, path)
    was = {"before": now(folder / "c.safetensors"), "itself": now(path)}.get(lie, before)
    engine.edited([Edited(os.fsencode(name), was, now(path))])
    touch(engine, path)
    file = of(finished(engine), path)
    assert (file.status, file.weights) == (Status.UNIQUE, None)
    assert of(engine, folder / "a.safetensors").status is Status.UNIQUE


def test_it_is_bounded(engine: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In edits, in bytes and in time; what is dropped is read as before."""
    path = folder / "b.safetensors"
    engine.edited(edit(path, title="Ink", apply=True))
    monkeypatch.setattr(inheritance, "_EDITS", 2)
    nothing = Identity(1, 2, 3, 4, 5)
    engine.edited([Edited(os.fsencode(path), nothing, Identity(2**64 - 1, at, -1, 0, 0)) for at in range(9)])
    touch(engine, path)
    read = data_read(engine)
    assert of(finished(engine), path).status is Status.DUPLICATE
    assert data_read(engine) > read
    for bound, value in (("_BYTES", 1), ("_SECONDS", -1.0)):
        monkeypatch.setattr(inheritance, bound, value)
        engine.edited(edit(path, title=bound, apply=True))
        touch(engine, path)
        read = data_read(engine)
        assert of(finished(engine), path).status is Status.DUPLICATE
        assert data_read(engine) > read
        monkeypatch.undo()
        monkeypatch.setenv("XDG_STATE_HOME", str(folder.parent / "edits"))


def test_numbers_that_get_another_meaning_are_forgotten(engine: Engine, folder: Path) -> None:
    path = folder / "b.safetensors"
    engine.edited(edit(path, title="Ink", apply=True))
    engine.tidy()
    touch(engine, path)
    read = data_read(engine)
    assert of(finished(engine), path).status is Status.DUPLICATE
    assert data_read(engine) > read


def test_what_users_say_and_the_digest_of_the_data_are_taken_over(engine: Engine, folder: Path) -> None:
    """So nothing of it is to be hashed to see what is said of it."""
    path, digest = folder / "c.safetensors", b"d" * 32
    file = of(engine, path)
    answer(TagFiles([os.fsencode(path)], add=["good"]), engine.tags, engine.files)
    engine.identified(file.id, file.identity, Identified(sha256=b"s" * 32, model=digest))
    engine.edited(edit(path, title="Ink", apply=True))
    touch(engine, path)
    after = of(finished(engine), path)
    model = engine.tags.of(after)
    assert model is not None
    assert (after.id != file.id, model.said.tags, model.digests) == (True, ("good",), digest)
    catalog = engine._catalog
    assert catalog.hashes.of(after.id) == Identified(model=digest)
    with closing(state_folder.connect(catalog.path, "ro")) as db:
        assert wanted_after(db, 0, tagged=True) is None
        assert wanted_after(db, 0) is not None
