"""Whether a root is there, and where: a disk that was unmounted is not a folder whose files were deleted."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from lorad.watch import calls
from lorad.watch.mounts import Mount, find


def resolved(folders: Iterable[str], before: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Where the configured folders lead to now: paths without symbolic links, which their files are known by.

    `before`: where they led, which holds while their file systems do not answer.
    """
    paths = list(map(os.fsencode, folders))
    return {path: calls.real(path, before.get(path, b"")) for path in paths}


class Place(NamedTuple):
    """Where a root's path leads. `device` and `inode` are None where another run of the daemon saw it."""

    device: int | None
    inode: int | None
    #: The mount that it lies on.
    mount: bytes


class Absent(Exception):
    """A root is not there; the message says why."""


def locate(root: bytes, mounts: Sequence[Mount], before: Place | None) -> Place:
    """Where a root's path leads now. `before`: where it led when it was last there.

    Raises Absent where there is no folder, or there is one that came to light when the disk on it was unmounted:
    it is on another device, and lies on a mount further up than before, or is empty.
    """
    try:
        status = os.stat(root)
    except OSError as error:
        raise _absent(error) from None
    if not stat.S_ISDIR(status.st_mode):
        raise Absent("it is not a folder")
    mount = find(mounts, root)
    place = Place(status.st_dev, status.st_ino, mount.point if mount else b"")
    if before is not None and _came_to_light(root, place, before):
        raise Absent(f"what was mounted at {os.fsdecode(before.mount)} is not; mount it again")
    return place


def _came_to_light(root: bytes, place: Place, before: Place) -> bool:
    """Whether this folder was hidden below a mount before."""
    # Both lie above the root, so the shorter one is further up.
    deeper = len(place.mount) - len(before.mount)
    if before.device is None:
        # The system numbers devices anew when it starts. A folder with files in it has taken the disk's place.
        return deeper < 0 and _is_empty(root)
    return place.device != before.device and (deeper < 0 or (deeper == 0 and _is_empty(root)))


def _is_empty(folder: bytes) -> bool:
    try:
        with os.scandir(folder) as listing:
            return next(listing, None) is None
    except OSError:
        return False


def _absent(error: OSError) -> Absent:
    return Absent(f"it cannot be reached: {(error.strerror or str(error)).lower()}")
