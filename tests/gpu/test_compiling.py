"""The kernel compiles for every GPU that lorad knows, and keeps its values in registers."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, files
from importlib.resources import files as resources
from itertools import product

import pytest

WHEEL = "nvidia-cuda-nvrtc-cu12"
SOURCE = resources("lorad.pipeline.cuda").joinpath("blake3.cu").read_bytes()
#: Pascal, Volta, Turing, Ampere, Hopper, and Blackwell in servers and in desktops.
ARCHITECTURES = (60, 70, 75, 80, 90, 100, 120)
#: Those of them that are told what to fetch.
FETCHING = (80, 90, 100, 120)


@cache
def nvrtc() -> ctypes.CDLL:
    """NVIDIA's compiler, which needs no GPU and no driver."""
    try:
        found = [str(file.locate()) for file in files(WHEEL) or [] if file.name == "libnvrtc.so.12"]
    except PackageNotFoundError:
        found = []
    if not found:
        pytest.skip(f"{WHEEL} is not installed")
    return ctypes.CDLL(found[0])


def compiled(options: Sequence[str]) -> tuple[int, str]:
    """The compiler's verdict, 0 if it is good, and what it said."""
    library = nvrtc()
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    library.nvrtcCreateProgram(ctypes.byref(program), SOURCE, b"blake3.cu", 0, None, None)
    try:
        array = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        verdict: int = library.nvrtcCompileProgram(program, len(options), array)
        library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        library.nvrtcGetProgramLog(program, log)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))
    return verdict, log.value.decode()


@pytest.mark.parametrize(
    ("architecture", "fetch"),
    [(architecture, 128) for architecture in ARCHITECTURES] + list(product(FETCHING, (0, 64, 256))),
)
def test_the_kernel_compiles_without_spills(architecture: int, fetch: int) -> None:
    """Nor with warnings: all that a lane has of its own stays in registers."""
    verdict, log = compiled(
        [f"--gpu-architecture=sm_{architecture}", "-std=c++17", f"-DFETCH={fetch}", "--ptxas-options=-v"]
    )
    assert verdict == 0, log
    for function in ("chunks", "parents"):
        report = re.search(rf"Function properties for {function}\n(.*)\n(.*)", log)
        assert report is not None, log
        assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in report[0], log
    assert "blake3.cu(" not in log, log
