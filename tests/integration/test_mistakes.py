"""A mistake in lorad costs the file that brought it up, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lorad.pipeline.protocol import OUR_MISTAKE
from tests.builders import architectures
from tests.builders.weights import random_weights
from tests.builders.write import write_safetensors
from tests.integration.running import Running
from tests.integration.scanning import duplicate_sets, scan, view

SPECS = architectures.sd15(4, width=4, every=12)
#: Of a method, in each process of lorad: what it does where the file's name has `bad` in it.
FAILS = """
import {module} as module
right = module.{method}
def wrong(self, {argument}, *others, **named):
    if b"bad" in {path}:
        raise {error}
    return right(self, {argument}, *others, **named)
module.{method} = wrong
"""
ON_THE_WAY = {
    "met": ("lorad.index.looks", "Looks.see", "seen", "seen.path", "AssertionError"),
    "header": ("lorad.index.results", "Results._learn", "file", "file.names[0]", "OverflowError"),
    "told apart": ("lorad.index.executor", "Executor._found", "file", "file.names[0]", "KeyError"),
    "read": ("loracore.tensorfile", "read_container", "path", "path", "RecursionError"),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three names of the same weights, one of which makes lorad fail."""
    path = tmp_path / "models"
    path.mkdir()
    for name in ("a", "b", "bad"):
        write_safetensors(str(path / f"{name}.safetensors"), random_weights(SPECS, 1))
    return path


def customize(folder: Path, where: str) -> None:
    names = ("module", "method", "argument", "path", "error")
    text = FAILS.format(**dict(zip(names, ON_THE_WAY[where], strict=True)))
    (folder / "sitecustomize.py").write_text(text)


@contextmanager
def mistaken(tmp_path: Path, where: str, root: Path) -> Iterator[Running]:
    """A daemon with a mistake in it."""
    customize(tmp_path, where)
    with Running(tmp_path, [root], environment={"PYTHONPATH": str(tmp_path)}) as daemon:
        yield daemon


@pytest.mark.parametrize("where", ON_THE_WAY)
def test_a_file_that_makes_lorad_fail_is_set_aside(tmp_path: Path, root: Path, where: str) -> None:
    """It is failed with a reason for people; the log has the file and the cause, and the loop goes on."""
    with mistaken(tmp_path, where, root) as daemon:
        daemon.settle()
        good = frozenset(str(root / f"{name}.safetensors") for name in "ab")
        assert duplicate_sets(daemon.state) == {good}
        bad = str(root / "bad.safetensors")
        files = view(daemon.state, "processed")["files"]
        assert (files[bad]["status"], files[bad]["error"]) == ("failed", OUR_MISTAKE)
        lines = [json.loads(line) for line in daemon.log.read_text().splitlines()]
        told = next(line for line in lines if line["event"] == "a mistake in lorad")
        assert told["path"] == bad
        assert ON_THE_WAY[where][-1] in told["traceback"]
        write_safetensors(str(root / "c.safetensors"), random_weights(SPECS, 1))
        daemon.settle()
        assert duplicate_sets(daemon.state) == {good | {str(root / "c.safetensors")}}


@pytest.mark.parametrize("where", ["told apart", "read"])
def test_it_is_tried_again_by_a_lorad_without_the_mistake(tmp_path: Path, root: Path, where: str) -> None:
    """What was set aside is read again, and is then as any other file."""
    with mistaken(tmp_path, where, root) as daemon:
        daemon.settle()
    (tmp_path / "sitecustomize.py").unlink()
    with Running(tmp_path, [root]) as daemon:
        daemon.settle()
        assert duplicate_sets(daemon.state) == {frozenset(map(str, root.iterdir()))}


@pytest.mark.parametrize(
    ("module", "part"), [("loop", "Daemon._take_news"), ("status", "Reporter.tick"), ("loop", "Daemon._act")]
)
def test_a_mistake_of_the_loop_does_not_end_it(tmp_path: Path, root: Path, module: str, part: str) -> None:
    """Each part fails three times; then all is as it should be, and the log says what was wrong."""
    (tmp_path / "sitecustomize.py").write_text(
        f"""
import lorad.supervisor.{module} as module
right, times = module.{part}, iter(range(3))
def wrong(self, *arguments):
    if getattr(self, "status", True) is not None and next(times, None) is not None:
        raise KeyError("nobody thought of it")
    return right(self, *arguments)
module.{part} = wrong
"""
    )
    with Running(tmp_path, [root], environment={"PYTHONPATH": str(tmp_path)}) as daemon:
        daemon.settle_when_it_can()
        assert duplicate_sets(daemon.state) == {frozenset(map(str, root.iterdir()))}
        assert "nobody thought of it" in daemon.log.read_text()
        with daemon.client() as client:
            assert any("a mistake in lorad" in error.text for error in client.status().errors)


def test_a_scan_sets_it_aside_as_well(tmp_path: Path, root: Path) -> None:
    """`loractl scan` ends as it does with any file that failed."""
    customize(tmp_path, "met")
    ended = scan(root, tmp_path / "state", environment={"PYTHONPATH": str(tmp_path)})
    assert (ended.code, ended.report["failed"], ended.report["duplicate_sets"]) == (1, 1, 1)
