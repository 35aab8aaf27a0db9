"""What the job `resize` takes and gives: a LoRA of other ranks (SPEC section 8)."""

from __future__ import annotations

import os
import re
from typing import Literal

import msgspec

from loracore.causes import explained
from loracore.errors import FileError, UsageError
from loracore.jobs.change import Changed, Writing
from loracore.jobs.job import Spec
from loracore.paths import shown
from loracore.whole import regular

#: `svd` is the best approximation of ΔW; `truncate` and `pad` cut off and add rows and columns of the factors.
Method = Literal["svd", "truncate", "pad"]
#: No table of ranks that a person wrote is larger.
_MAX_BYTES = 1 << 20
_RANKS = msgspec.json.Decoder(dict[str, int])
_UNITS = {"": 1, "B": 1, "K": 10**3, "M": 10**6, "G": 10**9, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}


class ResizeParameters(msgspec.Struct, frozen=True):
    """`path`: a file, or a PEFT adapter folder.

    `rank`: of every module, or the most that a rule may choose. `block_ranks`: of the blocks whose names match a
    pattern (`*` and `?`), by the first that does; 0 leaves the block out. `prune`: blocks outside the smallest set
    that holds this share of ‖ΔW‖² are left out. `budget`: bytes of the file. Of the rules at most one is given:
    `sv_ratio` keeps singular values above the first over this; `sv_fro` the least rank that holds this share of
    ‖ΔW‖; `sv_cumulative` that of the sum of singular values; `sv_knee` up to where they lie farthest below a
    straight line.
    """

    path: bytes
    writing: Writing
    rank: int | None = None
    method: Method = "svd"
    block_ranks: dict[str, int] = {}
    prune: float | None = None
    budget: int | None = None
    sv_ratio: float | None = None
    sv_fro: float | None = None
    sv_cumulative: float | None = None
    sv_knee: bool = False


SPEC = Spec("resize", ResizeParameters, Changed, help="A LoRA of other ranks, or of another size.")


def read_block_ranks(path: str | bytes | os.PathLike[str]) -> dict[str, int]:
    """A table of ranks by pattern, JSON or TOML as the name ends. Raises FileError and UsageError."""
    name = shown(os.fsencode(path))
    try:
        with open(path, "rb", opener=regular) as file:
            text = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise FileError(f"it cannot be read: {explained(error)}", name) from error
    if len(text) > _MAX_BYTES:
        raise UsageError(f'{name}: too large for a table of ranks; give {{"pattern": rank}}')
    try:
        if name.lower().endswith(".toml"):
            # What TOML has beyond JSON, such as dates, becomes a text, which is no rank.
            import tomllib  # noqa: PLC0415 - every client loads this module, and few read such a file

            text = msgspec.json.encode(tomllib.loads(text.decode("utf-8-sig")))
        ranks = _RANKS.decode(text)
    except (ValueError, RecursionError, msgspec.MsgspecError) as error:
        wanted = 'JSON such as {"down_blocks.*": 8}, or TOML such as "down_blocks.*" = 8'
        raise UsageError(f"{name}: {str(error).splitlines()[0]}; it takes {wanted}") from error
    return ranks


def parse_size(text: str) -> int:
    """Bytes of `20MB`, `1.5 GiB`, `800k`. Raises UsageError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKMG]?i?)[bB]?\s*", text)
    unit = match[2].replace("k", "K") if match else "?"
    if match is None or unit not in _UNITS:
        raise UsageError(f"{text[:40]!r} is no size; give one such as 20MB or 1.5GiB")
    return int(float(match[1]) * _UNITS[unit])
