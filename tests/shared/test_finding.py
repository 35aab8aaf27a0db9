"""Jobs are found by name, wherever they were installed."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from loracore.errors import MissingPackage, UsageError
from loracore.jobs import job

_PROJECT = Path(__file__).parents[2] / "pyproject.toml"


@pytest.mark.parametrize("name", ["metadata", "hashes"])
def test_quick_jobs_are_where_their_entry_points_say(name: str) -> None:
    """They are found without looking through what is installed."""
    with _PROJECT.open("rb") as file:
        registered = tomllib.load(file)["project"]["entry-points"]["lorad.jobs"]
    place = job.find(name)
    assert (place.value, place.distribution) == (registered[name], "lorad")
    assert job.load(place).name == name


def test_metadata_is_found_without_looking_through_all_packages() -> None:
    """`importlib.metadata` alone takes longer to load than a header takes to read."""
    program = (
        "import sys; from loracore.jobs import job; job.load(job.find('metadata'));"
        "assert not {'importlib.metadata', 'numpy', 'email'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_what_is_not_there_names_the_remedy() -> None:
    with pytest.raises(UsageError, match="no job 'cake'"):
        job.find("cake")
    with pytest.raises(UsageError, match="install mine anew"):
        job.load(job.Place("x", "loracore.jobs.job:NOTHING", "mine"))
    with pytest.raises(MissingPackage, match="pip install --upgrade mine"):
        job.load(job.Place("x", "package_that_nobody_has:JOB", "mine"))
