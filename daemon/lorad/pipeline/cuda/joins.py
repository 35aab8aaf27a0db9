"""The ends of long pieces: their tiles' chaining values are joined on the GPU, those of many pieces at once.

Its place there is kept, so that nothing is allocated, or waited for by the other batch, while slabs go through.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lorad.pipeline.cuda.device import PAD, Bytes, Device, address
from lorad.pipeline.cuda.lanes import SPAN, VALUE, Plan, plan_join

#: Bytes of that place: for the tiles of 4 GiB, what joins them, and their tables.
_ROOM = VALUE * ((4 << 30) // SPAN + 1024)
#: What it takes of the GPU's memory.
JOINS_BYTES = _ROOM + 2 * PAD


class Joins:
    """Joins tiles, on a stream of its own."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._stream, self._done = device.stream(), device.event()
        self._memory, self._host = device.allocate(_ROOM), device.pinned(_ROOM)

    def digests(self, pieces: Sequence[bytes]) -> list[bytes]:
        """The digests of pieces, of each of which these are the chaining values of its tiles, at least two."""
        if not pieces:
            return []
        plan = plan_join(np.array([len(piece) // VALUE for piece in pieces], np.int64))
        items = b"".join(stage.items.tobytes() for stage in plan.stages)
        # The values lie behind the items, in whole vectors.
        values = -(-len(items) // VALUE) * VALUE
        come = b"".join([items.ljust(values, b"\0"), *pieces])
        size = values + VALUE * plan.values
        if size <= _ROOM:
            return self._carry_out(plan, come, values, self._memory, self._host)
        memory = self._device.allocate(size)
        try:
            return self._carry_out(plan, come, values, memory, np.empty(size, np.uint8))
        finally:
            self._device.release(memory)

    def close(self) -> None:
        self._device.release(self._memory)

    def _carry_out(self, plan: Plan, come: bytes, values: int, memory: int, host: Bytes) -> list[bytes]:
        """Items and, at `values`, chaining values `come`; what they join to lies behind them."""
        host[: len(come)] = np.frombuffer(come, np.uint8)
        self._device.copy_in(memory, address(host), len(come), self._stream)
        self._device.launch(plan, 0, memory, memory + values, self._stream, joins=True)
        size = values + VALUE * plan.values - len(come)
        self._device.copy_out(address(host), memory + len(come), size, self._stream)
        self._done.record(self._stream)
        self._done.synchronize()
        first = (len(come) - values) // VALUE
        return [host[VALUE * place :][:VALUE].tobytes() for place in (plan.results - first).tolist()]
