"""CuPy for tests: the emulated one of `tests/emulation`, or the real one, never both at a time."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

EMULATION = Path(__file__).parents[1] / "emulation"

#: Its compiled modules can be imported once in a process: they are kept.
_real: dict[str, ModuleType] = {}


def emulated_environment(**settings: object) -> dict[str, str]:
    """What to add to a child's environment, so that it finds the emulated GPU, and finds it so."""
    paths = [str(EMULATION), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths), "LORAD_EMULATED_GPU": json.dumps(settings)}


def _loaded() -> list[str]:
    packages = {"cupy", "cupyx", "cupy_backends"}
    return [name for name in sys.modules if name.partition(".")[0] in packages]


@contextmanager
def _apart() -> Iterator[None]:
    """Whatever CuPy is imported within is forgotten afterwards, and what was there is back."""
    before = {name: sys.modules.pop(name) for name in _loaded()}
    try:
        yield
    finally:
        for name in _loaded():
            del sys.modules[name]
        sys.modules.update(before)


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ModuleType]]:
    """Imports the emulated CuPy afresh, with these settings (see `tests/emulation/cupy/_settings.py`)."""

    def fresh(**settings: object) -> ModuleType:
        for name in _loaded():
            del sys.modules[name]
        monkeypatch.setenv("LORAD_EMULATED_GPU", json.dumps(settings))
        try:
            return import_module("cupy")
        except ImportError as error:
            pytest.skip(str(error))

    with _apart():
        monkeypatch.syspath_prepend(str(EMULATION))
        yield fresh


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The installed CuPy, where there is a GPU."""
    monkeypatch.setattr(sys, "path", [path for path in sys.path if Path(path) != EMULATION])
    with _apart():
        sys.modules.update(_real)
        try:
            with warnings.catch_warnings(action="ignore"):
                cupy = import_module("cupy")
        except ImportError:
            pytest.skip("CuPy is not installed")
        _real.update({name: sys.modules[name] for name in _loaded()})
        try:
            cupy.cuda.runtime.getDeviceCount()
        except cupy.cuda.runtime.CUDARuntimeError as error:
            pytest.skip(f"no GPU: {error}")
        yield cupy


@pytest.fixture(params=["emulated", "real"])
def cupy(request: pytest.FixtureRequest) -> ModuleType:
    """Both, one after the other."""
    found = request.getfixturevalue(request.param)
    cupy: ModuleType = found() if request.param == "emulated" else found
    return cupy
