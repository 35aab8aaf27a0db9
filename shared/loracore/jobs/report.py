"""What the job `report` takes and gives: a folder that `compare` or `extract` wrote, in short and as pictures."""

from __future__ import annotations

import msgspec

from loracore.jobs.job import Spec
from loracore.jobs.plot import Format
from loracore.jobs.results import Table


class ReportParameters(msgspec.Struct, frozen=True):
    """`path`: the folder. `format`: also draw the pictures; `overview`: one picture of all instead of several."""

    path: bytes
    format: Format | None = None
    overview: bool = False


class Picture(msgspec.Struct, frozen=True):
    """The bytes of a file, and the name that is proposed for it, without a suffix."""

    name: str
    image: bytes


class ReportResult(msgspec.Struct, frozen=True):
    """`totals`: what there is to say of the whole, by a name for people.

    `layers`: all that were compared, the most modified first; `kinds` and `blocks`: the same, together. `lora`: a
    row for each matrix that changed. `factors`: a row for each module of an extraction.
    """

    path: bytes
    base: str
    finetuned: str
    totals: dict[str, str | int | float]
    layers: Table
    kinds: Table
    blocks: Table
    lora: Table
    factors: Table
    pictures: tuple[Picture, ...] = ()
    warnings: tuple[str, ...] = ()


SPEC = Spec(
    "report", ReportParameters, ReportResult, help="A finished comparison, in short and as pictures.", short=True
)
