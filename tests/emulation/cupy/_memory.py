"""A GPU's memory, with a guard around each allocation, and the pinned memory of this process."""

from __future__ import annotations

import ctypes
import mmap
import weakref
from bisect import bisect_right
from collections.abc import Callable
from itertools import count
from typing import Any

from cupy._errors import ALREADY_REGISTERED, INVALID_VALUE, NO_MEMORY, NOT_REGISTERED, CUDARuntimeError

#: What fresh memory holds, what surrounds it, and what is left of pinned memory that was given up.
_FRESH, _GUARD, _GIVEN_UP = 0xA5, 0xC3, 0x5A
#: cudaMalloc's alignment, and the pinned pool's.
_ALIGNMENT, _PINNED_UNIT = 256, 512
_PAGE = mmap.PAGESIZE
_PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS

_libc = ctypes.CDLL(None, use_errno=True)


def _pages(size: int) -> int:
    """`size` in bytes, up to whole pages."""
    return -(-size // _PAGE) * _PAGE


def _address(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


class Allocation:
    """Device memory between two pages that cannot be touched.

    What is left of its own pages holds a pattern. That lies behind the memory or before it, so that, over many
    allocations, reads beyond either end hit the pages.
    """

    def __init__(self, size: int, *, at_end: bool) -> None:
        self.size = size
        body = _pages(size)
        self._pages = mmap.mmap(-1, body + 2 * _PAGE, flags=_PRIVATE)
        outside = _address(self._pages)
        self._begin, self._end = outside + _PAGE, outside + _PAGE + body
        for guard in (outside, self._end):
            if _libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(_PAGE), 0):
                raise OSError(ctypes.get_errno(), "mprotect")
        ctypes.memset(self._begin, _GUARD, body)
        self.pointer = self._end - -(-size // _ALIGNMENT) * _ALIGNMENT if at_end else self._begin
        ctypes.memset(self.pointer, _FRESH, size)

    def check(self) -> None:
        """Raises AssertionError if something wrote past an end."""
        for first, last in ((self._begin, self.pointer), (self.pointer + self.size, self._end)):
            around = ctypes.string_at(first, last - first)
            assert around.count(_GUARD) == len(around), (
                f"a kernel wrote past an allocation of {self.size} bytes: "
                f"{[first + i - self.pointer for i, byte in enumerate(around) if byte != _GUARD][:8]}"
            )

    def release(self) -> None:
        self._pages.close()


class DeviceMemory:
    """The memory of one GPU."""

    def __init__(self, total: int, free: int) -> None:
        self.total, self.free = total, free
        self._allocations: dict[int, Allocation] = {}
        self._pointers: list[int] = []
        self._turn = count()

    def allocate(self, size: int) -> int:
        if size > self.free:
            raise CUDARuntimeError(NO_MEMORY)
        if size <= 0:
            return 0
        allocation = Allocation(size, at_end=next(self._turn) % 2 == 0)
        self.free -= size
        self._allocations[allocation.pointer] = allocation
        self._pointers = sorted(self._allocations)
        return allocation.pointer

    def release(self, pointer: int) -> None:
        allocation = self._allocations.pop(pointer, None)
        if allocation is None:
            raise CUDARuntimeError(INVALID_VALUE)
        self._pointers = sorted(self._allocations)
        self.free += allocation.size
        try:
            allocation.check()
        finally:
            allocation.release()

    def holds(self, pointer: int, size: int) -> bool:
        """Whether these bytes lie within one live allocation."""
        place = bisect_right(self._pointers, pointer) - 1
        if place < 0:
            return False
        allocation = self._allocations[self._pointers[place]]
        return pointer + size <= allocation.pointer + allocation.size

    def check(self) -> None:
        for allocation in self._allocations.values():
            allocation.check()


class HostMemory:
    """Which memory of this process is pinned: allocated so, or registered."""

    def __init__(self) -> None:
        self._sizes: dict[int, int] = {}
        self._registered: set[int] = set()
        self._pool: dict[int, list[tuple[int, mmap.mmap]]] = {}

    def register(self, pointer: int, size: int) -> None:
        """Whole pages are pinned: two ranges may not share one."""
        if pointer <= 0 or size <= 0:
            raise CUDARuntimeError(INVALID_VALUE)
        first, last = pointer // _PAGE, (pointer + size - 1) // _PAGE
        if any(first <= (p + s - 1) // _PAGE and p // _PAGE <= last for p, s in self._sizes.items()):
            raise CUDARuntimeError(ALREADY_REGISTERED)
        self._sizes[pointer] = size
        self._registered.add(pointer)

    def unregister(self, pointer: int) -> int:
        """Returns the size; raises CUDARuntimeError unless it was registered from exactly there on."""
        if pointer not in self._registered:
            raise CUDARuntimeError(NOT_REGISTERED)
        self._registered.remove(pointer)
        return self._sizes.pop(pointer)

    def is_pinned(self, pointer: int, size: int) -> bool:
        """Whether all of it is; raises CUDARuntimeError where only a part is."""
        touching = [(p, s) for p, s in self._sizes.items() if p < pointer + size and pointer < p + s]
        if any(p <= pointer and pointer + size <= p + s for p, s in touching):
            return True
        if touching:
            raise CUDARuntimeError(INVALID_VALUE)
        return False

    def allocate(self, size: int) -> PinnedMemoryPointer:
        """Memory from a pool, as CuPy's: of whole units, and once given up, used again though a copy may run."""
        size = -(-max(1, size) // _PINNED_UNIT) * _PINNED_UNIT
        free = self._pool.setdefault(size, [])
        if free:
            pointer, pages = free.pop()
        else:
            pages = mmap.mmap(-1, _pages(size), flags=_PRIVATE)
            pointer = _address(pages)
        self._sizes[pointer] = size
        kind: Any = type(
            "PinnedMemoryPointer", (PinnedMemoryPointer,), {"_type_": ctypes.c_byte, "_length_": size}
        )
        memory: PinnedMemoryPointer = kind.from_address(pointer)
        weakref.finalize(memory, _give_up, pointer, size, lambda: free.append((pointer, pages))).atexit = False
        return memory


def _give_up(pointer: int, size: int, keep: Callable[[], None]) -> None:
    ctypes.memset(pointer, _GIVEN_UP, size)
    keep()


class PinnedMemoryPointer(ctypes.Array):  # type: ignore[type-arg]
    """Pinned memory with the buffer protocol."""

    _type_ = ctypes.c_byte
    _length_ = 0

    @property
    def ptr(self) -> int:
        return ctypes.addressof(self)

    def size(self) -> int:
        return ctypes.sizeof(self)
