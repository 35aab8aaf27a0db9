"""The running pipeline, without an engine: what it says of its hasher when that dies or is replaced."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from lorad.pipeline.launch import Crew
from lorad.pipeline.pipeline import Pipeline
from lorad.pipeline.protocol import Using


class Watched:
    """A pipeline of one loader, and what it told."""

    def __init__(self, folder: Path) -> None:
        self.deaths: list[tuple[str, str]] = []
        self.said: list[Using] = []
        crew = Crew(str(folder), str(folder), loaders=1, hasher="auto")
        self.pipeline = Pipeline(crew, told=lambda *death: self.deaths.append(death), uses=self.said.append)

    def until(self, come: Callable[[], object]) -> None:
        deadline = time.monotonic() + 20
        while not come():
            assert time.monotonic() < deadline
            assert not list(self.pipeline.poll(0.1))

    def hasher_ready(self) -> bool:
        return self.pipeline.states()["hasher"][0] == "ready"


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    monkeypatch.chdir(tmp_path)
    watched = Watched(tmp_path)
    watched.until(watched.hasher_ready)
    yield watched
    watched.pipeline.stop()


@pytest.mark.skipif(find_spec("cupy") is not None, reason="CuPy is installed")
def test_without_cupy_no_gpu_is_accused(watched: Watched) -> None:
    """`auto` then is the CPU, as often as its process dies."""
    for count in (1, 2):
        watched.pipeline.children.kill("hasher")
        watched.until(lambda count=count: len(watched.deaths) == count and watched.hasher_ready())
    assert watched.pipeline.hasher.using == Using("cpu")
    assert not watched.said


def test_a_hasher_that_has_no_use_for_its_gpu_is_replaced_and_that_is_no_death(watched: Watched) -> None:
    """Its successor is told to use the CPU."""
    before, slower = watched.pipeline.children.pids()["hasher"], Using("cpu", "the GPU is slower", spent=True)
    watched.pipeline.hasher.says(slower)
    watched.until(lambda: watched.pipeline.children.pids().get("hasher", before) != before)
    watched.until(watched.hasher_ready)
    command = Path(f"/proc/{watched.pipeline.children.pids()['hasher']}/cmdline").read_bytes()
    assert command.endswith(b"\0cpu\x000\0")
    assert watched.said == [slower]
    assert not watched.deaths
