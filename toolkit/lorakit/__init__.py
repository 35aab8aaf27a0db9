"""What LoRA people do all day with a file: understand it and change it. No daemon is needed for any of it.

Each function here is also a job (`loracore.jobs`), which the daemon runs beside the data; what a job does is in
`lorakit.jobs`, and what several need in the packages beside that. Results are plain dicts; printing is the
client's.
"""

from __future__ import annotations

import os
from typing import Any

from loracore.jobs.job import needed, ours
from lorakit.api import (
    bake,
    compare,
    convert,
    extract,
    importance,
    merge,
    pca,
    plot,
    report,
    resize,
    spectrum,
)

__all__ = [
    "bake", "compare", "convert", "extract", "hashes", "importance", "merge", "metadata", "pca", "plot", "report",
    "resize", "spectrum",
]  # fmt: skip

Path = str | bytes | os.PathLike[str]


@needed(ours("hashes"))
def hashes(path: Path) -> dict[str, Any]:
    """All identity hashes of a file, by the fields of `loracore.jobs.hashes.HashesResult`. Raises FileError."""
    from loracore.jobs.hashes import HashesParameters  # noqa: PLC0415
    from loracore.jobs.job import Alone  # noqa: PLC0415 - each function loads what it needs
    from loracore.jobs.results import plain  # noqa: PLC0415
    from lorakit.jobs.hashes.job import run  # noqa: PLC0415

    found: dict[str, Any] = plain(run(HashesParameters(os.fsencode(path)), Alone(len(os.sched_getaffinity(0)))))
    return found


@needed(ours("metadata"))
def metadata(path: Path, *, values: bool = False) -> dict[str, Any]:
    """What a file is and says about itself, by the fields of `loracore.jobs.metadata`.

    `values`: look for NaN and Inf, too. Raises FileError.
    """
    from loracore.jobs.job import Alone  # noqa: PLC0415
    from loracore.jobs.metadata import MetadataParameters  # noqa: PLC0415
    from loracore.jobs.results import plain  # noqa: PLC0415
    from lorakit.jobs.metadata.job import run  # noqa: PLC0415

    found: dict[str, Any] = plain(run(MetadataParameters(os.fsencode(path), values), Alone()))
    return found
