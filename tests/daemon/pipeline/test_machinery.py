"""The running pipeline, without an engine: what it says of its hasher when that dies or is replaced."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from lorad.pipeline.launch import Crew
from lorad.pipeline.machinery import Machinery
from lorad.pipeline.protocol import Using


class Pipeline:
    """A pipeline of one loader, and what it told."""

    def __init__(self, folder: Path) -> None:
        self.deaths: list[tuple[str, str]] = []
        self.said: list[Using] = []
        crew = Crew(str(folder), str(folder), loaders=1, hasher="auto")
        self.machinery = Machinery(crew, told=lambda *death: self.deaths.append(death), uses=self.said.append)

    def until(self, come: Callable[[], object]) -> None:
        deadline = time.monotonic() + 20
        while not come():
            assert time.monotonic() < deadline
            assert not list(self.machinery.poll(0.1))

    def hasher_ready(self) -> bool:
        return self.machinery.states()["hasher"][0] == "ready"


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipeline]:
    monkeypatch.chdir(tmp_path)
    pipeline = Pipeline(tmp_path)
    pipeline.until(pipeline.hasher_ready)
    yield pipeline
    pipeline.machinery.stop()


@pytest.mark.skipif(find_spec("cupy") is not None, reason="CuPy is installed")
def test_without_cupy_no_gpu_is_accused(pipeline: Pipeline) -> None:
    """`auto` then is the CPU, as often as its process dies."""
    for count in (1, 2):
        pipeline.machinery._children.kill("hasher")
        pipeline.until(lambda count=count: len(pipeline.deaths) == count and pipeline.hasher_ready())
    assert pipeline.machinery.using == Using("cpu")
    assert not pipeline.said
