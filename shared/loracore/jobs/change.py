"""What the jobs that change LoRAs have in common: how they write, and what they tell (SPEC section 8)."""

from __future__ import annotations

from typing import Literal

import msgspec

from loracore.jobs.results import Fault

#: What stored weights are rounded to. None in parameters: as in the first input.
Stored = Literal["float32", "float16", "bfloat16"]
Device = Literal["auto", "cpu", "cuda"]
#: A field of `Output` is called as the type.
_Path = bytes


class Writing(msgspec.Struct, frozen=True):
    """Where a result goes, and how.

    `path`: a file, whose suffix says which container, or a folder for what is one. `force`: what is there may be
    replaced. `check`: only look whether it could be done.
    """

    path: bytes
    force: bool = False
    check: bool = False
    dtype: Stored | None = None
    device: Device = "auto"


class Input(msgspec.Struct, frozen=True):
    """A LoRA that was read. `ranks`: how many modules have each rank, by rank; "none" for those without one.

    `sha256` is empty where it was only checked.
    """

    path: bytes
    family: str
    convention: str
    modules: int
    ranks: dict[str, int]
    dtypes: tuple[str, ...]
    sha256: str = ""


class Output(msgspec.Struct, frozen=True):
    """What was written, or would be: `bytes` is the file's size, None where only writing it would tell."""

    path: _Path
    container: str
    layers: int
    modules: int
    ranks: dict[str, int]
    dtype: str
    bytes: int | None = None


class Changed(msgspec.Struct, frozen=True):
    """What became of it.

    `written`: the files are there; False for a check. `is_valid`: it can be done, or was; `errors` say why not.
    `faults`: modules that are left out, and why. `error`: ‖ΔW - ΔW'‖ / ‖ΔW‖ over all modules, where the result is
    an approximation. `ranks`: of each module that is written, by name, where ranks were chosen.
    """

    operation: str
    is_valid: bool
    written: bool
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    error: float | None = None
    faults: tuple[Fault, ...] = ()
    warnings: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    ranks: dict[str, int] = {}
