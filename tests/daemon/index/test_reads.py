"""In which order what is wanted is read."""

from __future__ import annotations

import os
from pathlib import Path

from lorad.pipeline.dispatch import HeaderJob
from tests.builders.architectures import LayerSpec
from tests.builders.write import write_sparse
from tests.daemon.inline import Life, write


def test_headers_that_may_be_long_are_read_after_others(tmp_path: Path) -> None:
    """Whichever came first: so many megabytes of names never hold up a small file."""
    root = tmp_path / "models"
    root.mkdir()
    life = Life(tmp_path / "state", [root]).settle()
    large = [
        write_sparse(str(root / f"{n}.safetensors"), [LayerSpec(f"{n}", "U8", (n << 20,))]) for n in (1, 2, 9)
    ]
    life.pipeline.holds = True
    for path in large:
        life.engine.looks.touched(os.fsencode(path))
    small = write(root / "small.safetensors", 1)
    life.engine.looks.touched(os.fsencode(small))
    life.pipeline.holds = False
    life.settle()
    headers = [path for job, paths in life.pipeline.started if job is HeaderJob for path in paths]
    assert headers == [os.fsencode(path) for path in (small, *large)]
