"""Where the algebra of changes is done: numpy, or CuPy, which has numpy's names for arrays on a GPU."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from loracore.errors import MissingPackage, UsageError


def array_module(device: str) -> Any:
    """`numpy` or `cupy`. `auto` takes the GPU where CuPy works, else the CPU.

    Raises MissingPackage for `cuda` without CuPy, UsageError where CuPy finds no GPU that it can use.
    """
    if device == "cpu":
        return np
    try:
        return _cupy()
    except ModuleNotFoundError as error:
        if device == "auto":
            return np
        raise MissingPackage("--device cuda needs CuPy: pip install 'lorad[gpu]', or take --device cpu") from error
    except Exception as error:
        # CuPy has errors of its own for a driver, a runtime and a compiler that are not there.
        if device == "auto":
            return np
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"--device cuda: {reason[:200]}; take --device cpu") from error


def on_host(values: Any) -> Any:
    """An array of either module as numpy's."""
    return values.get() if hasattr(values, "get") else values


def _cupy() -> Any:
    cupy: Any = import_module("cupy")
    # A device that is counted may still be one that nothing runs on.
    if float(cupy.linalg.eigvalsh(cupy.eye(2))[0]) != 1.0:
        raise RuntimeError("the GPU computes nothing that is right")
    return cupy
