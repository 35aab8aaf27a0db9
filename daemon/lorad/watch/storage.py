"""On what storage files lie, as far as it bears on which of them may be kept: read-only, or in memory.

`look` asks the mount table, and of local file systems the folders themselves, since a read-only subvolume of Btrfs
is no mount: access(2) says EROFS. A server that does not answer is not asked. What was seen is data that the
catalogue keeps with a generation; `Finder` looks it up and does no I/O.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Mapping, Sequence

import msgspec

from lorad.watch import timed_calls
from lorad.watch.mounts import Mount, find, inside, is_remote, is_volatile, read_mounts

_access = ctypes.CDLL(None, use_errno=True).access


class Part(msgspec.Struct, frozen=True, array_like=True):
    """A mount: all in this folder, but what another mount below it has."""

    folder: bytes
    read_only: bool = False
    volatile: bool = False


class Storage(msgspec.Struct, frozen=True, array_like=True):
    """`parts`: mounts that differ from what they are mounted in, above which all can be written and lasts.

    `subvolumes`: devices that cannot be written to although their mount can, and the folder where each begins.
    """

    parts: tuple[Part, ...] = ()
    subvolumes: tuple[tuple[int, bytes], ...] = ()


def look(devices: Mapping[int, bytes], roots: Sequence[bytes] = (b"/",)) -> Storage:
    """The storage of what is below `roots`; `devices`: of each device of files, a folder on it without links."""
    mounts = read_mounts()
    relevant: dict[bytes, Mount] = {}
    for root in roots:
        around = find(mounts, root)
        relevant |= ({around.point: around} if around else {}) | inside(mounts, root)
    parts: dict[bytes, Part] = {}
    for point, mount in sorted(relevant.items()):
        part = Part(point, mount.read_only, is_volatile(mounts, mount))
        outer = Finder(Storage(tuple(parts.values()))).part(point)
        if (part.read_only, part.volatile) != (outer.read_only, outer.volatile):
            parts[point] = part
    subvolumes = {}
    for device, folder in sorted(devices.items()):
        lies_on = find(mounts, folder)
        if not lies_on or lies_on.read_only or is_remote(lies_on):
            continue
        if _is_read_only(folder, device):
            subvolumes[device] = _beginning(folder, device)
    return Storage(tuple(parts.values()), tuple(subvolumes.items()))


class Finder:
    """`Storage` by path. Each folder is looked up once."""

    def __init__(self, storage: Storage) -> None:
        self._folders = {b"/": Part(b"/")} | {part.folder: part for part in storage.parts}
        self._subvolumes = dict(storage.subvolumes)
        self.plain = not storage.parts and not storage.subvolumes

    def part(self, folder: bytes) -> Part:
        """What a folder lies on."""
        below = []
        while folder not in self._folders:
            below.append(folder)
            folder = os.path.dirname(folder)
        found = self._folders[folder]
        self._folders.update(dict.fromkeys(below, found))
        return found

    def read_only(self, path: bytes, device: int) -> bytes | None:
        """Where what is read-only around a file begins; None for a file that can be written to."""
        part = self.part(os.path.dirname(path))
        return part.folder if part.read_only else self._subvolumes.get(device)

    def volatile(self, path: bytes) -> bool:
        """Whether a file lies in memory."""
        return self.part(os.path.dirname(path)).volatile


def _is_read_only(folder: bytes, device: int) -> bool:
    try:
        there = timed_calls.stat(timed_calls.through(folder)).st_dev == device
    except OSError:
        return False
    return there and _access(folder, os.W_OK) != 0 and ctypes.get_errno() == errno.EROFS


def _beginning(folder: bytes, device: int) -> bytes:
    """The outermost folder on a device, from one that lies on it."""
    while folder != b"/":
        outer = os.path.dirname(folder)
        try:
            if os.stat(outer).st_dev != device:
                break
        except OSError:
            break
        folder = outer
    return folder
