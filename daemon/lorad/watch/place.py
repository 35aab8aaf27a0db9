"""Whether a root is there, and on which mount: a disk that was unmounted is not a folder whose files were deleted.

The mounts that the roots were on are kept for the next run: a disk may be late, or fail, when the system starts.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from loracore.whole import regular, write_whole
from lorad.watch import timed_calls
from lorad.watch.mounts import Mount, find


def resolved(folders: Iterable[str], before: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Where the configured folders lead to now: paths without symbolic links, which their files are known by.

    `before`: where they led, which holds while their file systems do not answer.
    """
    paths = list(map(os.fsencode, folders))
    return {path: timed_calls.real(path, before.get(path, b"")) for path in paths}


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


#: Bytes of the file that are read.
_MOST = 1 << 20


class Memory:
    """Where each root was last. On which mount that is, is kept in a file."""

    def __init__(self, path: bytes) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._mounts = self._read()
        self._places: dict[bytes, Place] = {}

    def place(self, root: bytes) -> Place | None:
        """Where a root was last, as far as that is known."""
        mount = self._mounts.get(os.fsdecode(root))
        return self._places.get(root) or (None if mount is None else Place(None, None, os.fsencode(mount)))

    def keep(self, root: bytes, place: Place) -> None:
        """A root is there."""
        mount = os.fsdecode(place.mount)
        with self._lock:
            self._places[root] = place
            if self._mounts.get(os.fsdecode(root)) != mount:
                self._mounts[os.fsdecode(root)] = mount
                self._write()

    def forget(self, root: bytes) -> None:
        """A root is looked after no more."""
        with self._lock:
            self._places.pop(root, None)
            if self._mounts.pop(os.fsdecode(root), None) is not None:
                self._write()

    def _read(self) -> dict[str, str]:
        try:
            with open(self._path, "rb", opener=regular) as file:
                return _checked(json.loads(file.read(_MOST)))
        except (OSError, ValueError, RecursionError):
            return {}

    def _write(self) -> None:
        # It is a precaution, which a full disk may do without.
        with contextlib.suppress(OSError):
            write_whole(self._path, json.dumps(self._mounts).encode("ascii"))


def _checked(read: object) -> dict[str, str]:
    if not isinstance(read, dict) or not all(isinstance(word, str) for pair in read.items() for word in pair):
        raise ValueError("not as it was written")
    return read
