"""The arena: one anonymous memory file that the core and its children map, cut into slabs.

It has no name, so nothing of it can outlive the processes. Its pages are reserved when it is made, so that
a full memory shows as an error then and never as a SIGBUS later. After the slabs comes one page of notes,
a line of it for each child: there a child counts the seconds it lives and the steps it gets on, and a loader
writes what it is working on. The core reads it without asking: which file killed a loader, who hangs.
"""

from __future__ import annotations

import mmap
import os
import struct
from typing import NamedTuple

_PAGE = mmap.PAGESIZE
#: Bytes of a child's line of notes, and of a field in it.
_LINE, _FIELD = 32, 8
#: A slab stays in a core's L2 cache between the loader's copy and the hasher's read.
SLAB = 8 << 20
SLABS = 4
#: A GPU takes several at a time, two batches under way and one being filled.
SLABS_FOR_GPU = 16
#: Children that there is a line for.
LINES = _PAGE // _LINE


class Pulse(NamedTuple):
    """Seconds that a child counted, and steps that it got on."""

    beats: int
    steps: int


class Arena:
    """A mapping of the arena. `fd` is what children inherit."""

    def __init__(self, fd: int, slab: int, slabs: int) -> None:
        self.fd = fd
        self.slab_size = slab
        self.count = slabs
        self._memory = memoryview(mmap.mmap(fd, slab * slabs + _PAGE))
        self._notes = self._memory[slab * slabs :]

    @classmethod
    def create(cls, slab: int = SLAB, slabs: int = SLABS) -> Arena:
        """Make and reserve an arena. Raises OSError when memory does not allow it."""
        fd = os.memfd_create("lorad-arena", os.MFD_CLOEXEC)
        os.posix_fallocate(fd, 0, slab * slabs + _PAGE)
        return cls(fd, slab, slabs)

    @property
    def slabs(self) -> memoryview:
        """The memory of all slabs, one after the other."""
        return self._memory[: len(self._memory) - _PAGE]

    def slab(self, index: int) -> memoryview:
        return self._memory[index * self.slab_size : (index + 1) * self.slab_size]

    def mark(self, line: int, task: int, position: int) -> None:
        """Note that a loader works on the `position`-th file of a task."""
        struct.pack_into("=II", self._notes, _LINE * line, task & 0xFFFFFFFF, position)

    def marked(self, line: int) -> tuple[int, int]:
        """(task modulo 2^32, position) of the last mark of a loader."""
        task, position = struct.unpack_from("=II", self._notes, _LINE * line)
        return task, position

    def beat(self, line: int) -> None:
        """Count a second of a child's life."""
        self._count(_LINE * line + _FIELD)

    def step(self, line: int) -> None:
        """Count a step of a child's work."""
        self._count(_LINE * line + 2 * _FIELD)

    def pulse(self, line: int) -> Pulse:
        return Pulse(*struct.unpack_from("=QQ", self._notes, _LINE * line + _FIELD))

    def _count(self, at: int) -> None:
        (count,) = struct.unpack_from("=Q", self._notes, at)
        struct.pack_into("=Q", self._notes, at, (count + 1) % 2**64)
