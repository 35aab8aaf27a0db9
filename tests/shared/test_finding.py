"""Jobs are found by name, wherever they were installed."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest
from click import Context

import loracore.jobs
from loracore.errors import MissingPackage, UsageError
from loracore.jobs import job
from loractl.cli import COMMANDS, cli

_PROJECT = Path(__file__).parents[2] / "pyproject.toml"
with _PROJECT.open("rb") as file:
    REGISTERED: dict[str, str] = tomllib.load(file)["project"]["entry-points"][job.GROUP]


@pytest.mark.parametrize("name", ["metadata", "hashes"])
def test_quick_jobs_are_where_their_entry_points_say(name: str) -> None:
    """They are found without looking through what is installed."""
    place = job.find(name)
    assert (place.value, place.distribution) == (REGISTERED[name], "lorad")
    assert job.load(place).name == name


@pytest.mark.parametrize("name", REGISTERED)
def test_a_job_is_what_its_spec_says(name: str) -> None:
    """Its implementation takes all else from it, and the list of commands, which loads no job, agrees."""
    spec = job.spec_of(name)
    assert spec
    implementation = job.load(job.Place(name, REGISTERED[name], "lorad"))
    assert implementation == spec.implemented(implementation.run)
    assert cli.get_command(Context(cli), name)
    assert COMMANDS[name][1] == spec.help


def test_all_jobs_are_registered() -> None:
    names = {module.name for module in pkgutil.iter_modules(loracore.jobs.__path__)}
    assert {name for name in names if job.spec_of(name)} == set(REGISTERED)
    assert job.spec_of("../job") is None


class Cake(msgspec.Struct, frozen=True):
    layers: int = 2


def test_a_job_of_another_package_carries_its_spec() -> None:
    """With what it takes and gives; written as SPEC or, as ever, as a Job."""
    spec = job.Spec("cake", Cake, Cake, help="Bake a cake.", short=True)
    made = spec.implemented(lambda parameters, _: parameters)
    assert (made.help, made.short, made.decoded(b"\x81\xa6layers\x03")) == ("Bake a cake.", True, Cake(3))
    assert isinstance(job.Job("cake", Cake, Cake, lambda parameters, _: parameters), job.Spec)


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
