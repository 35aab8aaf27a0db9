"""The hashes that a header states of its own data, computed anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256

import msgspec

from loracore.errors import FileError
from loracore.tensorfile import Source
from lorakit.filehash.legacy import LegacyHash
from lorakit.filehash.shared_read import Lane, behind, read_once
from lorakit.jobs.edit.header import Header

_MODEL, _LEGACY, _SPEC = "sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256"
STATED = (_MODEL, _LEGACY, _SPEC)


def repaired(
    source: Source, header: Header, metadata: Mapping[str, str], threads: int, told: Callable[[int], object]
) -> dict[str, str]:
    """The entries with true hashes for those that are there. Raises FileError where one is not defined."""
    found = dict(metadata)
    if not any(key in found for key in STATED):
        return found
    data = sha256()
    # kohya's legacy hash covers the entries that it wrote itself, as they will be.
    legacy = LegacyHash(msgspec.structs.replace(header.container, metadata=found)) if _LEGACY in found else None
    lanes: list[Lane] = [behind(header.container.base, data.update)]
    if legacy is not None:
        lanes.append(legacy.excerpt.feed)
    read_once(source, lanes, threads, told)
    if _MODEL in found:
        found[_MODEL] = data.hexdigest()
    if _SPEC in found:
        found[_SPEC] = "0x" + data.hexdigest()
    if legacy is not None:
        value = legacy.hexdigest()
        if value is None:
            raise FileError(f"its {_LEGACY} is not defined for so long a header; take it out: --unset {_LEGACY}")
        found[_LEGACY] = value
    return found


def stale(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[str, ...]:
    """A warning where a hash stays that covers entries that changed."""
    ours = [{key: value for key, value in each.items() if key.startswith("ss_")} for each in (before, after)]
    if _LEGACY in after and ours[0] != ours[1]:
        return (f"its {_LEGACY} covers ss_ entries that change; --repair-hashes computes it anew",)
    return ()
