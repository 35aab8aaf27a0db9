"""Which files are lost with the power, since their file system lies in memory: none is kept for one on a disk."""

from __future__ import annotations

import os
from collections.abc import Sequence

from lorad.dedupe.keeping import Copy
from lorad.dedupe.orders import Refused
from lorad.watch.mounts import read_mounts, volatile_devices


def with_volatile(sets: Sequence[Sequence[Copy]]) -> list[list[Copy]]:
    """The same sets, with `Copy.volatile`."""
    devices = volatile_devices(read_mounts())
    return [[copy._replace(volatile=True) if copy.dev in devices else copy for copy in copies] for copies in sets]


def refuse_volatile(kept: os.stat_result, gone: os.stat_result, path: bytes) -> None:
    """Raises Refused where the kept file would be lost with the power, and the one that goes, at `path`, not."""
    if kept.st_dev != gone.st_dev:
        devices = volatile_devices(read_mounts())
        if kept.st_dev in devices and gone.st_dev not in devices:
            raise Refused.about(
                path, "its twin lies in memory (tmpfs) and is lost at a restart; keep the one on the disk"
            )
