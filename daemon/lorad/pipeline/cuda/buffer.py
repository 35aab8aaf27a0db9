"""A place on the GPU for a batch of slabs, and its stream: copied in, digested, and the results copied out.

Two of them take turns: while one digests, the other one's slabs are copied.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lorad.pipeline.cuda.device import PAD, Bytes, Device, address
from lorad.pipeline.cuda.lanes import ITEM, SPAN, VALUE, Plan

#: Pieces of a batch that are digested on the GPU: what the tables have room for.
PIECES = 16_384


class Sizes(NamedTuple):
    """What a buffer holds: so many slabs of `slab` bytes, each after room for the end of the slab before."""

    slabs: int
    slab: int

    @property
    def stride(self) -> int:
        return SPAN + -(-self.slab // 256) * 256 + PAD

    @property
    def values(self) -> int:
        """Results of a batch: one for each piece and each tile, and those that join tiles."""
        return PIECES + 2 * self.slabs * (self.slab // SPAN + 3)

    @property
    def tables(self) -> int:
        """Bytes of the tables of items: as many as results at most."""
        return ITEM.itemsize * self.values

    @property
    def device_bytes(self) -> int:
        return self.slabs * self.stride + self.values * VALUE + self.tables + 6 * PAD


class Buffer:
    """One such place. Its methods are called in the order in which they stand here."""

    def __init__(self, device: Device, sizes: Sizes) -> None:
        self._device = device
        self._sizes = sizes
        self._stream = device.stream()
        self._done = device.event()
        self._data = device.allocate(sizes.slabs * sizes.stride)
        self._values = device.allocate(sizes.values * VALUE)
        self._tables = device.allocate(sizes.tables)
        self._host_tables = device.pinned(sizes.tables)
        self._host_values = device.pinned(sizes.values * VALUE)
        self._heads = device.pinned(sizes.slabs * SPAN)
        self._count = 0

    def put(self, place: int, source: int, size: int, head: bytes = b"") -> int:
        """Copy `size` bytes at `source` to the place-th slab, behind a `head`; where, in offsets of plans."""
        start = place * self._sizes.stride + SPAN
        if head:
            pinned = self._heads[place * SPAN :][: len(head)]
            pinned[:] = np.frombuffer(head, np.uint8)
            self._device.copy_in(self._data + start - len(head), address(pinned), len(head), self._stream)
        self._device.copy_in(self._data + start, source, size, self._stream)
        return start

    def digest(self, plan: Plan) -> None:
        """Carry out a plan over what was put."""
        used = 0
        for stage in plan.stages:
            self._host_tables[used : used + stage.items.nbytes] = stage.items.view(np.uint8)
            used += stage.items.nbytes
        self._device.copy_in(self._tables, address(self._host_tables), used, self._stream)
        self._device.launch(plan, self._data, self._tables, self._values, self._stream)
        self._count = plan.values
        self._device.copy_out(address(self._host_values), self._values, VALUE * self._count, self._stream)
        self._done.record(self._stream)

    def results(self) -> NDArray[np.uint8]:
        """The plan's values, one of 32 bytes a row, when they are there. Overwritten by the next plan's."""
        self._done.synchronize()
        values: Bytes = self._host_values[: VALUE * self._count]
        return values.reshape(-1, VALUE)

    def close(self) -> None:
        for pointer in (self._data, self._values, self._tables):
            self._device.release(pointer)
