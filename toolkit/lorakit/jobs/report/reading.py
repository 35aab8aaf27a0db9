"""The files that `compare` and `extract` write, read back; each of them may be missing, but not all."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import msgspec

from loracore.errors import FileError, MalformedFile
from loracore.framing import from_json
from loracore.tensorfile import open_regular

#: The reports of the largest model are a tenth of this.
_LONGEST = 256 << 20


class Layer(msgspec.Struct, frozen=True):
    """Of `weight_differences.json`."""

    mean_abs_diff: float
    max_abs_diff: float
    changed_ratio: float
    shape: tuple[int, ...]
    relative_diff: float | None = None


class Performance(msgspec.Struct, frozen=True):
    total_time: float = 0.0
    avg_layer_time: float = 0.0
    max_layer_time: float = 0.0
    layer_times: dict[str, float] = {}


class Differences(msgspec.Struct, frozen=True):
    """`weight_differences.json`."""

    modified_layers: list[str] = []
    all_differences: dict[str, Layer] = {}
    performance: Performance = Performance()


class Spectral(msgspec.Struct, frozen=True):
    """A layer of `lora_analysis.json`."""

    shape: tuple[int, ...]
    effective_rank: float
    energies: dict[str, float]
    looks_like_lora: bool
    only_rounding: bool
    suggested_rank: int
    signal_rank: int | None = None
    frobenius_norm: float = 0.0


class Analysis(msgspec.Struct, frozen=True):
    """`lora_analysis.json`."""

    looks_like_lora: bool = False
    suggested_rank: int = 0
    target_modules: list[str] = []
    only_rounding: list[str] = []
    other_changes: dict[str, str] = {}
    layers: dict[str, Spectral] = {}


class Side(msgspec.Struct, frozen=True):
    path: str = ""
    layers: int = 0
    parameters: int = 0
    size: int = msgspec.field(name="bytes", default=0)


class Architecture(msgspec.Struct, frozen=True):
    """`architecture_comparison.json`."""

    identical: bool = True
    base: Side = Side()
    finetuned: Side = Side()
    only_in_base: list[str] = []
    only_in_finetuned: list[str] = []
    shape_mismatches: dict[str, msgspec.Raw] = {}
    not_compared: dict[str, str] = {}


class Factors(msgspec.Struct, frozen=True):
    """A layer of `lora_metadata.json`."""

    rank: int
    error: float
    energy_captured: float
    frobenius_norm: float = 0.0
    shape: tuple[int, ...] = ()


class Extracted(msgspec.Struct, frozen=True):
    """`lora_metadata.json`."""

    rank: int = 0
    error: float = 0.0
    base_model: str = ""
    finetuned_model: str = ""
    convention: str = ""
    dtype: str = ""
    layers: dict[str, Factors] = {}
    not_extracted: dict[str, str] = {}


_FILES: dict[str, type[msgspec.Struct]] = {
    "weight_differences.json": Differences, "lora_analysis.json": Analysis,
    "architecture_comparison.json": Architecture, "lora_metadata.json": Extracted,
}  # fmt: skip


@dataclass(frozen=True)
class Folder:
    """What a folder holds. `missing`: names of files that are not there."""

    differences: Differences
    analysis: Analysis
    architecture: Architecture
    extracted: Extracted
    missing: tuple[str, ...] = field(default=())


def read(folder: bytes) -> Folder:
    """Raises FileError for a folder without any of the files, and for one that is none of ours."""
    if not os.path.isdir(folder):
        raise FileError("no folder; give one that `loractl compare -o` wrote", os.fsdecode(folder))
    missing = [name for name in _FILES if not os.path.exists(os.path.join(folder, name.encode()))]
    if "weight_differences.json" in missing and "lora_metadata.json" in missing:
        unfinished = os.path.exists(os.path.join(folder, b".comparison-journal"))
        reason = "a comparison that is not finished; start it again" if unfinished else "no comparison in it"
        raise FileError(f"{reason}; give a folder that `loractl compare -o` wrote", os.fsdecode(folder))
    found = {
        name: kind() if name in missing else _decoded(os.path.join(folder, name.encode()), kind)
        for name, kind in _FILES.items()
    }
    differences, analysis, architecture, extracted = found.values()
    assert isinstance(differences, Differences)
    assert isinstance(analysis, Analysis)
    assert isinstance(architecture, Architecture)
    assert isinstance(extracted, Extracted)
    return Folder(differences, analysis, architecture, extracted, tuple(missing))


def _decoded(path: bytes, kind: type[msgspec.Struct]) -> msgspec.Struct:
    try:
        with open_regular(path) as source:
            if source.size > _LONGEST:
                raise MalformedFile(f"longer than {_LONGEST:,} bytes, which no report is")
            return from_json(source.read(0, source.size), kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise MalformedFile(f"not as `loractl compare` writes it: {error}", os.fsdecode(path)) from error
