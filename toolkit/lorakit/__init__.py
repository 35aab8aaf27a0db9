"""What LoRA people do all day with a file: understand it and change it. No daemon is needed for any of it.

Each function here is also a job (`loracore.jobs`), which the daemon runs beside the data. They stand in
`lorakit.api`, which is loaded when one of them is first asked for: a job alone needs none of the others' words.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

import loracore  # noqa: F401 - old import paths of this package are found by it

if TYPE_CHECKING:
    from lorakit.api import (
        bake,
        compare,
        convert,
        edit,
        extract,
        hashes,
        importance,
        merge,
        metadata,
        pca,
        plot,
        report,
        resize,
        spectrum,
    )

__all__ = [
    "bake", "compare", "convert", "edit", "extract", "hashes", "importance", "merge", "metadata", "pca", "plot",
    "report", "resize", "spectrum",
]  # fmt: skip


def __getattr__(name: str) -> object:
    if name not in (*__all__, "api"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    api = import_module("lorakit.api")
    return api if name == "api" else getattr(api, name)
