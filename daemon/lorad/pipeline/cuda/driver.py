"""CUDA's slow steps, taken so that other threads go on meanwhile.

CuPy holds the interpreter's lock while the driver starts and while a GPU gets its context. On a large server that
takes seconds in which no thread beats, digests or hears the core. ctypes lets go of the lock, and CuPy finds done
what it comes to. What fails here fails there again, with words.
"""

from __future__ import annotations

import ctypes


def start() -> None:
    """Have the driver started."""
    if (driver := _driver()) is not None:
        driver.cuInit(0)


def enter(index: int) -> None:
    """Have the context made that CuPy uses on this GPU. It stays until the process ends."""
    device, context = ctypes.c_int(), ctypes.c_void_p()
    driver = _driver()
    if driver is not None and not driver.cuDeviceGet(ctypes.byref(device), index):
        driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)


def _driver() -> ctypes.CDLL | None:
    """The driver's library, where it is."""
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
