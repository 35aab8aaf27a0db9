"""The core with real children on a real file system: when it is at rest, and when it looks at blocks again."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lorad.catalog import Catalog
from lorad.index import backlog
from lorad.index.engine import Engine
from lorad.pipeline.launch import Crew
from lorad.pipeline.pipeline import Pipeline
from tests.builders import architectures
from tests.builders.weights import random_weights
from tests.builders.write import write_safetensors
from tests.integration.scanning import view

SPECS = architectures.sd15(4, width=16, every=6)
#: Many times what the core looks at between two messages of its children.
REFLINKS = 200
_FICLONE = 0x40049409
Disk = Callable[[str], str]


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipeline]:
    monkeypatch.chdir(tmp_path)
    pipeline = Pipeline(Crew(str(tmp_path), str(tmp_path), loaders=1, hasher="cpu"), told=lambda *death: None)
    yield pipeline
    pipeline.stop()


@pytest.fixture
def library(disk: Disk) -> str:
    """A file and its reflinks."""
    folder = disk("xfs")
    path = write_safetensors(f"{folder}/0.safetensors", random_weights(SPECS, 1))
    with open(path, "rb") as source:
        os.fsync(source.fileno())
        for number in range(1, REFLINKS):
            with open(f"{folder}/{number}.safetensors", "wb") as target:
                fcntl.ioctl(target.fileno(), _FICLONE, source.fileno())
    return folder


@pytest.fixture
def engine(library: str, pipeline: Pipeline, tmp_path: Path) -> Iterator[Engine]:
    catalog, root = Catalog(str(tmp_path)), os.fsencode(library)
    engine = Engine(
        catalog,
        pipeline,
        [root],
        follow=False,
        state_dir=os.fsencode(tmp_path),
        tell=lambda event: None,
        mistake=lambda *mistake: None,
    )
    engine.sweeps.add(root)
    yield engine
    catalog.close()


def finish(engine: Engine) -> None:
    while not engine.finished:
        engine.step(1.0)


def wasted(state: Path) -> int:
    return view(state, "duplicates")["wasted_bytes"]


def test_it_is_at_rest_when_all_blocks_are_looked_at(engine: Engine, tmp_path: Path) -> None:
    """What it says then is the last word."""
    finish(engine)
    assert wasted(tmp_path) == 0
    assert all(file.extents for file in engine.files)


def test_it_does_not_wait_for_news_while_there_is_something_to_look_at(
    engine: Engine, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has anything to say."""
    finish(engine)
    waited, poll = [], pipeline.poll
    monkeypatch.setattr(pipeline, "poll", lambda seconds: waited.append(seconds) or poll(0))
    for file in engine.files:
        engine.blocks.add_name(file.names[0])
    assert not engine.settled
    while not engine.settled:
        engine.step(5.0)
    engine.step(5.0)
    assert (set(waited[:-1]), waited[-1]) == ({0}, 5.0)


def test_what_is_not_on_the_disk_yet_is_looked_at_when_it_is(
    engine: Engine, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else tells of it."""
    monkeypatch.setattr(backlog, "WRITTEN", 2.0)
    finish(engine)
    path = f"{library}/1.safetensors"
    content = Path(path).read_bytes()
    with open(path, "r+b", buffering=0) as file:
        file.write(content)
    engine.looks.touched(os.fsencode(path))
    finish(engine)
    assert wasted(tmp_path) == 0
    os.sync()
    while wasted(tmp_path) != len(content):
        engine.step(0.1)


def test_a_new_folder_opens_no_old_file(engine: Engine, library: str) -> None:
    """It is looked through for itself."""
    finish(engine)
    for file in engine.files:
        file.extents = None
    os.mkdir(f"{library}/new")
    os.link(f"{library}/0.safetensors", f"{library}/new/0.safetensors")
    engine.looks.touched(os.fsencode(f"{library}/new"))
    engine.sweeps.add(os.fsencode(f"{library}/new"))
    finish(engine)
    (looked_at,) = (file.names for file in engine.files if file.extents)
    assert sorted(looked_at) == [
        os.fsencode(f"{library}/{name}") for name in ("0.safetensors", "new/0.safetensors")
    ]
