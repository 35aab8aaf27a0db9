"""The arena: one anonymous memory file that the core and its children map, cut into slabs.

It has no name, so nothing of it can outlive the processes. Its pages are reserved when it is made, so that
a full memory shows as an error then and never as a SIGBUS later. After the slabs comes one page of marks,
eight bytes for each loader, where a loader writes what it is working on: the core reads there which file
killed it.
"""

from __future__ import annotations

import mmap
import os
import struct

_MARKS = mmap.PAGESIZE
#: A slab stays in a core's L2 cache between the loader's copy and the hasher's read.
SLAB = 8 << 20
SLABS = 4


class Arena:
    """A mapping of the arena. `fd` is what children inherit."""

    def __init__(self, fd: int, slab: int, slabs: int) -> None:
        self.fd = fd
        self.slab_size = slab
        self._memory = memoryview(mmap.mmap(fd, slab * slabs + _MARKS))
        self._marks = self._memory[slab * slabs :]

    @classmethod
    def create(cls, slab: int = SLAB, slabs: int = SLABS) -> Arena:
        """Make and reserve an arena. Raises OSError when memory does not allow it."""
        fd = os.memfd_create("lorad-arena", os.MFD_CLOEXEC)
        os.posix_fallocate(fd, 0, slab * slabs + _MARKS)
        return cls(fd, slab, slabs)

    def slab(self, index: int) -> memoryview:
        return self._memory[index * self.slab_size : (index + 1) * self.slab_size]

    def mark(self, loader: int, task: int, position: int) -> None:
        """Note that a loader works on the `position`-th file of a task."""
        struct.pack_into("=II", self._marks, 8 * loader, task & 0xFFFFFFFF, position)

    def marked(self, loader: int) -> tuple[int, int]:
        """(task modulo 2^32, position) of the last mark of a loader."""
        task, position = struct.unpack_from("=II", self._marks, 8 * loader)
        return task, position
