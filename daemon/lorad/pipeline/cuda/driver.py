"""CUDA's slow steps, taken so that other threads go on meanwhile.

CuPy holds the interpreter's lock while the driver starts and while a GPU gets its context. On a large server that
takes seconds in which no thread beats, digests or hears the core. ctypes lets go of the lock, and CuPy finds done
what it comes to.
"""

from __future__ import annotations

import ctypes


class DriverError(Exception):
    """What the driver says; CuPy is not to try it again."""


def start() -> None:
    """Have the driver started. Raises DriverError."""
    if (driver := _driver()) is not None:
        _check(driver, driver.cuInit(0))


def enter(index: int) -> None:
    """Have the context made that CuPy uses on this GPU. It stays until the process ends. Raises DriverError."""
    device, context = ctypes.c_int(), ctypes.c_void_p()
    if (driver := _driver()) is not None:
        _check(driver, driver.cuDeviceGet(ctypes.byref(device), index))
        _check(driver, driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device))


def _driver() -> ctypes.CDLL | None:
    """The driver's library. Where it is missing, CuPy tells."""
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None


def _check(driver: ctypes.CDLL, status: int) -> None:
    if status:
        words = ctypes.c_char_p()
        driver.cuGetErrorString(status, ctypes.byref(words))
        raise DriverError((words.value or b"the driver's error %d" % status).decode())
