"""A server to talk to, and one that acts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from loracore import config
from tests.daemon.control.acting import Acts, entry
from tests.daemon.control.serving import Library, Served, library, served, serving

__all__ = ["library", "served"]


@pytest.fixture
def acts() -> Acts:
    return Acts([entry(1), entry(2, "undone"), entry(3)])


@pytest.fixture
def acting(library: Library, tmp_path: Path, acts: Acts) -> Iterator[Served]:
    with serving(library, tmp_path / "run", deduper=acts) as served:
        roots = (str(library.folder),)
        served.server.handlers.use(
            config.Config(watch=config.Watch(roots=roots), dedupe=config.Dedupe(keep=("oldest",)))
        )
        yield served
