"""Kernels: compiled by g++ together with `lanes.cpp`, once for all processes, and launched."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache

import numpy as np
from cupy._errors import ILLEGAL_ADDRESS, INVALID_VALUE, NOT_FOUND, CompileException, CUDARuntimeError, Hung
from cupy._gpu import GPUS, SETTINGS, Operation, driver_call
from cupy.cuda._stream import current_queue

_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_SOURCES = tuple(os.path.join(_HERE, name) for name in ("cuda_words.hpp", "lanes.cpp"))
_FLAGS = (
    *("-std=c++17", "-O2", "-fPIC", "-shared", "-pthread", "-Wall", "-Werror"),
    # GPU compilers' own pragmas; jumps between stacks, which hardening takes for an attack; and the shared memory
    # of two versions of a kernel in one process, which must not become one.
    *("-Wno-unknown-pragmas", "-U_FORTIFY_SOURCE", "-fno-gnu-unique"),
)
#: Words that `lanes.cpp` passes to a kernel.
_WORDS = 6
#: Outcomes of `lanes.cpp`.
_FINE, _PARTED, _ILLEGAL = 0, 1, 2
_TYPES = {"u32": np.uint32, "u64": np.uint64}

_COMPILER = shutil.which("g++") or ""
if not _COMPILER:
    raise ImportError("the emulated CuPy runs kernels on the CPU and needs g++ to compile them, which is missing")


@cache
def _compiler() -> str:
    asked = subprocess.run([_COMPILER, "--version"], capture_output=True, text=True, check=True)
    return f"{asked.stdout} {platform.machine()}"


def _folder() -> str:
    """Of this user's compiled kernels."""
    folder = os.path.join(tempfile.gettempdir(), f"lorad-emulation-{os.getuid()}")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    if os.stat(folder).st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to somebody else: remove it")
    return folder


@cache
def _library(code: str, options: tuple[str, ...]) -> ctypes.CDLL:
    """Compile, unless that was done before, by whatever process."""
    hashed = hashlib.sha256("\0".join([code, *options, *_FLAGS, _compiler()]).encode())
    for source in _SOURCES:
        with open(source, "rb") as file:
            hashed.update(file.read())
    path = os.path.join(_folder(), f"{hashed.hexdigest()}.so")
    if not os.path.exists(path):
        _compile(code, options, path)
    return ctypes.CDLL(path)


def _compile(code: str, options: tuple[str, ...], path: str) -> None:
    with tempfile.TemporaryDirectory(dir=_folder()) as scratch:
        kernel, library = os.path.join(scratch, "kernel.cu"), os.path.join(scratch, "kernel.so")
        with open(kernel, "w") as file:
            file.write(code)
        defines = [option for option in options if option.startswith("-D")]
        includes = ("-include", _SOURCES[0], "-include", kernel)
        command = [_COMPILER, *_FLAGS, *defines, *includes, _SOURCES[1], "-o", library]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CompileException(done.stderr)
        os.replace(library, path)


class RawModule:
    """CUDA source, compiled when first needed. Options are NVRTC's; only definitions mean something here."""

    def __init__(self, code: str | None = None, *, options: tuple[str, ...] = (), backend: str = "nvrtc") -> None:
        if not isinstance(code, str) or not isinstance(options, tuple):
            raise TypeError("code must be a str, and options a tuple")
        if backend != "nvrtc":
            raise ValueError(f"no backend {backend!r} here")
        if wrong := [option for option in options if not option.startswith("-")]:
            raise CompileException(f"nvrtc: error: invalid option {wrong[0]!r}")
        self.code, self.options, self.backend = code, options, backend

    @driver_call
    def compile(self, log_stream: object = None) -> None:
        _library(self.code, self.options)

    @driver_call
    def get_function(self, name: str) -> RawKernel:
        library = _library(self.code, self.options)
        found = re.search(rf"__global__[^;{{}}]*?\b{re.escape(name)}\s*\(([^)]*)\)\s*{{", self.code)
        if found is None:
            raise CUDARuntimeError(NOT_FOUND)
        return RawKernel(library, name, found[1].split(","))


class RawKernel:
    """A function of a module. `parameters` as its source declares them."""

    def __init__(self, library: ctypes.CDLL, name: str, parameters: Sequence[str]) -> None:
        self.name = name
        self._library = library
        self._function = ctypes.cast(library[name], ctypes.c_void_p)
        self._types = [np.uint64 if "*" in p else _TYPES[p.split()[-2]] for p in parameters]
        assert len(self._types) <= _WORDS

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[np.generic, ...]) -> None:
        """Queue a launch on the current stream."""
        if not isinstance(grid, tuple) or not isinstance(block, tuple):
            raise TypeError("grid and block must be tuples")
        given = [type(argument) for argument in args]
        assert given == self._types, f"{self.name} takes {self._types}, and was given {given}"
        self._launch(grid, block, args)

    @driver_call
    def _launch(self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[np.generic, ...]) -> None:
        blocks, lanes = _only_x(grid), _only_x(block)
        if not 1 <= blocks < 2**31 or not 1 <= lanes <= 1024:
            raise CUDARuntimeError(INVALID_VALUE)
        words = (ctypes.c_uint64 * _WORDS)(*(int(argument) for argument in args))
        hangs = GPUS.count_launch()

        def run() -> None:
            if hangs:
                raise Hung
            _check(
                self._library.launch_kernel(self._function, words, blocks, lanes, ctypes.c_int64(SETTINGS.lanes)),
                self.name,
            )

        current_queue().add(Operation(run))


def _only_x(size: tuple[int, ...]) -> int:
    x, *others = size
    assert all(other == 1 for other in others), "only one dimension is emulated"
    return x


def _check(outcome: int, name: str) -> None:
    assert outcome != _PARTED, f"{name}: some lanes of a block wait at a barrier, others have ended"
    if outcome == _ILLEGAL:
        GPUS.lost = ILLEGAL_ADDRESS
        raise CUDARuntimeError(ILLEGAL_ADDRESS)
    assert outcome == _FINE, f"{name}: no memory for the lanes' stacks"
