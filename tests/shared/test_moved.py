"""Import paths of earlier versions still work, and say where their contents are now."""

from __future__ import annotations

import importlib
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType

import pytest

from loracore.moved import MOVED, Moved, install

OLD = sorted(old for old, new in MOVED.items() if new is not None)
EMPTY = sorted(old for old, new in MOVED.items() if new is None)


@pytest.fixture(autouse=True)
def nothing_loaded() -> None:
    for old in MOVED:
        sys.modules.pop(old, None)


def imported(name: str) -> tuple[ModuleType, list[str]]:
    """The module, and what was warned of on the way."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        module = importlib.import_module(name)
    assert all(each.category is DeprecationWarning for each in caught)
    return module, [str(each.message) for each in caught]


@pytest.mark.parametrize("old", OLD)
def test_an_old_path_is_the_same_module_and_warns(old: str) -> None:
    new = MOVED[old]
    assert new is not None
    found, warned = imported(old)
    assert found is importlib.import_module(new)
    assert found.__spec__ is not None
    assert found.__name__ == found.__spec__.name == new
    assert warned[-1].startswith(f"{old} is {new} now")
    assert imported(old) == (found, [])


@pytest.mark.parametrize("old", [old for old in OLD if old.rpartition(".")[0] in MOVED])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_old_module_is_found_in_its_package(old: str) -> None:
    """`from OLD import NAME`, also where the package is another one now."""
    package, _, name = old.rpartition(".")
    found: dict[str, object] = {}
    exec(f"from {package} import {name} as found", found)
    assert found["found"] is importlib.import_module(str(MOVED[old]))


@pytest.mark.parametrize("old", MOVED)
def test_no_old_path_hides_a_module(old: str) -> None:
    root, *rest = old.split(".")
    home = Path(str(importlib.import_module(root).__file__)).parent.joinpath(*rest)
    assert not home.with_suffix(".py").exists()
    assert not (home / "__init__.py").exists()


def test_modules_below_a_renamed_package_are_not_loaded_twice() -> None:
    old, _ = imported("lorakit.change.models.weights")
    assert old is importlib.import_module("lorakit.models.weights")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "name",
    [
        "lorakit.nothing",
        "lorakit.change.nothing",
        "lorakit.facts.nothing",
        "lorakit.hashing.nothing",
        "loractl.nothing",
    ],
)
def test_a_wrong_name_is_still_none(name: str) -> None:
    with pytest.raises(ModuleNotFoundError, match="nothing"):
        importlib.import_module(name)


@pytest.mark.parametrize("old", EMPTY)
def test_a_package_that_held_only_modules_is_there_for_them(old: str) -> None:
    assert not vars(importlib.import_module(old))["__path__"]


def test_each_package_has_it_from_its_import_on() -> None:
    """In a new process, by `from`; installed once, whatever is imported."""
    install()
    assert sys.meta_path.count(Moved) == 1
    for line in ("from loractl import units", "from lorakit.change import ranks"):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", line], capture_output=True, text=True, check=False
        )
        assert "DeprecationWarning: " in done.stderr
        assert f"{line.split()[1]}.{line.split()[-1]} is " in done.stderr
