"""Slabs in, digests out, by a GPU: in batches, two of them under way, long pieces over as many slabs as they take.

Of a piece that goes on in the next slab, whole tiles are digested as they come. The rest, of 1 to `SPAN` bytes,
stays here and goes before the next slab's bytes; the tiles' chaining values wait here for the end of the piece.
A slab is only read until its digests are told, and until then all that it takes to digest it otherwise is kept.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import NamedTuple

import numpy as np

from lorad.pipeline.arena import Arena
from lorad.pipeline.cuda.buffer import PIECES, Buffer, Sizes
from lorad.pipeline.cuda.device import Bytes, Device, address
from lorad.pipeline.cuda.joins import Joins
from lorad.pipeline.cuda.lanes import SPAN, TILE, Numbers, Pieces, Plan, plan_pieces
from lorad.pipeline.digesting import CpuBackend, keep
from lorad.pipeline.protocol import Digested, Filled

#: Batches under way: one is copied while the other is digested.
DEPTH = 2


class _Stream:
    """A piece whose end has not come: its digested `tiles` with their `values`, and the bytes after them."""

    def __init__(self) -> None:
        self.tiles = 0
        self.values: list[bytes] = []
        self.tail = b""


class _Part(NamedTuple):
    """A part of a long piece in a batch: its place among the plan's results, and how many values it gives."""

    stream: _Stream
    place: int
    values: int


class _Share:
    """What a batch holds of a slab: the piece that ends a long one, whole pieces in order, one that goes on.

    `whole` are their places among the plan's results. `own` are their digests where they were too many for the
    GPU's tables.
    """

    def __init__(self, filled: Filled) -> None:
        self.filled = filled
        self.ended: _Part | None = None
        self.whole = slice(0, 0)
        self.own = b""
        self.begun: _Part | None = None


class _Batch(NamedTuple):
    buffer: Buffer
    plan: Plan
    shares: list[_Share]


class _Pieces:
    """The pieces of a batch, as they are found."""

    def __init__(self) -> None:
        nothing = np.empty(0, np.int64)
        self._parts = [Pieces(nothing, nothing, nothing, nothing > 0)]
        self.count = 0

    def add(self, offsets: Numbers, lengths: Numbers, counter: int = 0, *, root: bool = True) -> slice:
        """The places of their results among the plan's."""
        first, self.count = self.count, self.count + len(lengths)
        self._parts.append(Pieces(offsets, lengths, np.full_like(lengths, counter), np.full(len(lengths), root)))
        return slice(first, self.count)

    def plan(self) -> Plan:
        offsets, lengths, counters, roots = map(np.concatenate, zip(*self._parts, strict=True))
        return plan_pieces(Pieces(offsets, lengths, counters, roots))


class CudaDigester:
    """Digests slabs of an arena on a device, up to `batch` of them at a time.

    Raises whatever CuPy raises; what was not answered then is `unanswered`.
    """

    def __init__(self, arena: Arena, device: Device, batch: int) -> None:
        self._arena = arena
        self._device = device
        self.batch = batch
        sizes = Sizes(batch, arena.slab_size)
        self._buffers = [Buffer(device, sizes) for _ in range(DEPTH)]
        self._joins = Joins(device)
        self._memory = address(np.frombuffer(arena.slabs, np.uint8))
        self._waiting: deque[Filled] = deque()
        self._under_way: deque[_Batch] = deque()
        self._streams: dict[int, _Stream] = {}
        #: Of pieces that the GPU is not asked for.
        self._cpu = CpuBackend(threads=1)

    def __len__(self) -> int:
        """How many slabs are not answered yet."""
        return len(self._waiting) + sum(len(batch.shares) for batch in self._under_way)

    def adopt(self) -> None:
        """Called in the thread that goes on with this digester, where another one made it."""
        self._device.use()

    @property
    def full(self) -> bool:
        """Whether a batch is complete."""
        return len(self._waiting) >= self.batch

    def take(self, filled: Filled) -> None:
        """Digest this slab at the next occasion; a task's slabs come in the order of its bytes."""
        self._waiting.append(filled)

    def advance(self) -> list[Digested]:
        """Put what waits under way if there is a place, else wait for the oldest batch; what was digested."""
        if self._waiting and self._buffers:
            self._submit()
            return []
        if not self._under_way:
            return []
        batch = self._under_way[0]
        values = batch.buffer.results()
        digested = self._answers(batch, values)
        self._under_way.popleft()
        self._buffers.append(batch.buffer)
        return digested

    def unanswered(self) -> list[Filled]:
        """The slabs that were taken and not answered, in their order."""
        return [share.filled for batch in self._under_way for share in batch.shares] + list(self._waiting)

    def close(self) -> None:
        """Give the device's memory back."""
        for buffer in self._buffers:
            buffer.close()
        self._joins.close()

    def _submit(self) -> None:
        shares = [_Share(filled) for filled in islice(self._waiting, self.batch)]
        buffer, pieces = self._buffers[-1], _Pieces()
        for place, share in enumerate(shares):
            self._put(share, place, buffer, pieces)
        plan = pieces.plan()
        buffer.digest(plan)
        self._buffers.pop()
        self._under_way.append(_Batch(buffer, plan, shares))
        for _ in shares:
            self._waiting.popleft()

    def _put(self, share: _Share, place: int, buffer: Buffer, pieces: _Pieces) -> None:
        """Copy a slab in, and add its pieces."""
        filled = share.filled
        lengths = np.array(filled.segments, np.int64)
        ends = np.cumsum(lengths)
        size = int(ends[-1]) if len(ends) else 0
        stream = self._streams.pop(filled.task) if filled.continued else None
        before = stream.tail if stream else b""
        start = buffer.put(place, self._memory + filled.slab * self._arena.slab_size, size, before)
        offsets = start + ends - lengths
        first, last = 0, len(lengths) - filled.open
        if stream is not None:
            offsets[0] -= len(before)
            lengths[0] += len(before)
            if last:
                where = pieces.add(offsets[:1], lengths[:1], stream.tiles * TILE, root=not stream.tiles)
                tiles = max(1, -(-int(lengths[0]) // SPAN)) if stream.tiles else 1
                share.ended = _Part(stream, where.start, tiles)
                first, stream = 1, None
        if filled.open:
            share.begun = self._go_on(filled, stream or _Stream(), int(offsets[-1]), int(lengths[-1]), pieces)
        if last - first + pieces.count > PIECES:
            self._digest_here(share, filled, first, last)
        else:
            share.whole = pieces.add(offsets[first:last], lengths[first:last])

    def _go_on(self, filled: Filled, stream: _Stream, offset: int, length: int, pieces: _Pieces) -> _Part:
        """The last piece of a slab, of which `length` bytes at `offset` are there, has no end yet."""
        tiles = max(0, length - 1) // SPAN
        place = pieces.count
        if tiles:
            one = np.ones(1, np.int64)
            pieces.add(offset * one, tiles * SPAN * one, stream.tiles * TILE, root=False)
        end = sum(filled.segments)
        rest = length - tiles * SPAN
        inside = min(rest, filled.segments[-1])
        memory = self._arena.slab(filled.slab)
        # What is left of before lies in front, and only where no tile was complete.
        stream.tail = stream.tail[: rest - inside] + bytes(memory[end - inside : end])
        stream.tiles += tiles
        keep(self._streams, filled.task, stream)
        return _Part(stream, place, tiles)

    def _digest_here(self, share: _Share, filled: Filled, first: int, last: int) -> None:
        memory = self._arena.slab(filled.slab)
        position, views = 0, []
        for length in filled.segments[:last]:
            views.append(memory[position : position + length])
            position += length
        share.own = b"".join(self._cpu.digests(views[first:]))

    def _answers(self, batch: _Batch, values: Bytes) -> list[Digested]:
        """What a batch's results say. Of long pieces that end in it, all are joined at once."""
        results = batch.plan.results
        ended: list[bytes] = []
        for share in batch.shares:
            # In the order of the slabs: a piece may begin and end in the same batch.
            for part in filter(None, (share.ended, share.begun)):
                first = int(results[part.place]) if part.values else 0
                part.stream.values.append(values[first : first + part.values].tobytes())
            if share.ended is not None and share.ended.stream.tiles:
                ended.append(b"".join(share.ended.stream.values))
        joined = iter(self._joins.digests(ended))
        answers = []
        for share in batch.shares:
            digests = share.own or values[results[share.whole]].tobytes()
            if share.ended is not None:
                stream = share.ended.stream
                digests = (next(joined) if stream.tiles else b"".join(stream.values)) + digests
            answers.append(Digested(share.filled.task, share.filled.slab, digests))
        return answers
