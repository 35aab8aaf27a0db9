"""What the job `plot` takes and gives: a picture of one file or several (SPEC section 7)."""

from __future__ import annotations

import os
from typing import Literal, get_args

import msgspec

from loracore.errors import UsageError
from loracore.jobs.job import Spec
from loracore.jobs.results import Fault
from loracore.paths import shown

Kind = Literal["distribution", "heatmap", "rank", "comparison", "pca", "importance"]
Format = Literal["png", "svg"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class PlotParameters(msgspec.Struct, frozen=True):
    """`comparison` takes two files or more, the other kinds take one. `threshold`: of `importance`."""

    kind: Kind
    paths: tuple[bytes, ...]
    format: Format = "png"
    threshold: float = 0.9


class PlotResult(msgspec.Struct, frozen=True):
    """`image`: the bytes of a file of that format."""

    image: bytes
    format: Format
    faults: tuple[Fault, ...] = ()
    warnings: tuple[str, ...] = ()


SPEC = Spec("plot", PlotParameters, PlotResult, help="A picture of what is in the weights.", short=True)


def format_of(output: str) -> Format:
    """The format that a name asks for. Raises UsageError."""
    match os.path.splitext(output)[1].lower():
        case ".png":
            return "png"
        case ".svg":
            return "svg"
    raise UsageError(f"{shown(output)}: pictures are written as .png or .svg; give it such a name")
