"""Entry points without installing anything: the metadata of a distribution in a folder on the path."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import tests
from loracore.jobs.job import GROUP
from tests.daemon.jobs import samples

_ROOT = str(Path(tests.__file__).parent.parent)
#: What is registered besides the sample jobs: nothing that can be loaded.
_BROKEN = {"hollow": "package_that_nobody_has:JOB", "gone": f"{samples.__name__}:GONE"}


def register(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process, and those that it starts, find the sample jobs."""
    place = folder / "samples-1.0.dist-info"
    place.mkdir(parents=True)
    (place / "METADATA").write_text("Metadata-Version: 2.1\nName: samples\nVersion: 1.0\n")
    jobs = {name.lower(): f"{samples.__name__}:{name}" for name in vars(samples) if name.isupper()}
    lines = [f"{name} = {value}" for name, value in (jobs | _BROKEN).items()]
    (place / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *lines, ""]))
    monkeypatch.syspath_prepend(str(folder))
    before = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), _ROOT, *([before] if before else [])]))
