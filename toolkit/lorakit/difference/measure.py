"""Sums over the entries of a layer's difference, in blocks that stay in the processor's cache.

Equal blocks are told by their bytes alone and never become numbers, unless the layer differs elsewhere: then the
base's entries count for its norm. A layer whose bytes are all equal has no difference, whatever they mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from loracore.tensorfile import DTYPE_BITS
from lorakit.difference.pairs import Pair
from lorakit.difference.widening import MANTISSA, float_type, widen
from lorakit.models.weights import Tensor, Weights
from lorakit.modules.survey import Unfit

#: Entries of a block: what stays in a cache, and takes long enough that threads seldom wait for the interpreter.
BLOCK = 1 << 18
Floats = NDArray[np.floating[Any]]


class Block(NamedTuple):
    """Raw bytes of both sides; valid until the next one is read."""

    base: NDArray[np.uint8]
    finetuned: NDArray[np.uint8]
    start: int
    entries: int


@dataclass
class Sums:
    """Of d = fine-tuned - base. `floor`: what ‖d‖² would be if each entry were rounded alone, by ulp² / 12."""

    entries: int = 0
    changed: int = 0
    absolute: float = 0.0
    largest: float = 0.0
    squares: float = 0.0
    base_squares: float = 0.0
    floor: float = 0.0

    def add(self, other: Sums) -> None:
        self.entries += other.entries
        self.changed += other.changed
        self.absolute += other.absolute
        self.largest = max(self.largest, other.largest)
        self.squares += other.squares
        self.base_squares += other.base_squares
        self.floor += other.floor


#: The sums of one block: its sides, and the threshold.
Engine = Callable[[Pair, Block, float], Sums]


@dataclass
class Part:
    """What came of some entries of a layer. `equal`: ranges that are equal by their bytes, not in the sums.

    `seconds`: of each engine, without reading.
    """

    sums: list[Sums]
    seconds: list[float]
    equal: list[tuple[int, int]] = field(default_factory=list)


class Buffers:
    """A thread's own arrays, for blocks of any dtype."""

    def __init__(self) -> None:
        self._raw = np.empty((2, 8 * BLOCK), np.uint8)
        self._floats = np.empty((3, 8 * BLOCK), np.uint8)
        self.spare = np.empty(BLOCK, np.uint32)
        self.mask = np.empty(BLOCK, np.bool_)
        self._views: list[tuple[Tensor, NDArray[np.uint8]] | None] = [None, None]

    def floats(self, count: int, kind: type[np.floating[Any]]) -> tuple[Floats, Floats, Floats]:
        first, second, third = (row.view(kind)[:count] for row in self._floats)
        return first, second, third

    def raw(self, side: int, weights: Weights, tensor: Tensor, start: int, count: int) -> NDArray[np.uint8]:
        """The bytes of some entries of a layer. Raises FileError."""
        width = DTYPE_BITS[tensor.dtype] // 8
        if weights.is_view(tensor):
            return self._ordered(side, weights, tensor)[start * width : (start + count) * width]
        data = self._raw[side, : count * width]
        weights.read_into(tensor, data.data, start * width)
        return data

    def _ordered(self, side: int, weights: Weights, tensor: Tensor) -> NDArray[np.uint8]:
        """A view's bytes put in order once, for all of its blocks."""
        kept = self._views[side]
        if kept is None or kept[0] is not tensor:
            data = np.empty(tensor.nbytes, np.uint8)
            weights.read_into(tensor, data.data, 0)
            kept = self._views[side] = (tensor, data)
        return kept[1]


def measure(
    pair: Pair,
    models: tuple[Weights, Weights],
    span: tuple[int, int],
    *,
    threshold: float,
    engines: list[Engine],
    buffers: Buffers,
) -> Part:
    """The sums over the entries from `span[0]` to `span[1]`, by each engine. Raises Unfit and FileError."""
    part = Part([Sums() for _ in engines], [0.0 for _ in engines])
    comparable = pair.base.dtype == pair.finetuned.dtype
    for block in _blocks(pair, models, span, buffers):
        began = perf_counter()
        equal = comparable and _equal(block.base, block.finetuned, buffers.mask)
        part.seconds[0] += perf_counter() - began
        if equal:
            _note(part.equal, block)
        for index, engine in enumerate(engines):
            # A second engine is timed on every block, also where the first one has nothing to do.
            if equal and not index:
                continue
            began = perf_counter()
            found = engine(pair, block, threshold)
            part.seconds[index] += perf_counter() - began
            if not equal:
                part.sums[index].add(found)
    return part


def finish(pair: Pair, models: tuple[Weights, Weights], parts: list[Part], buffers: Buffers) -> list[Sums]:
    """The sums over the whole layer, by each engine. Raises Unfit and FileError."""
    sums = [Sums() for _ in parts[0].sums]
    for part in parts:
        for total, one in zip(sums, part.sums, strict=True):
            total.add(one)
    equal = [span for part in parts for span in part.equal]
    if sums[0].entries:
        squares = sum(_base_squares(pair, models[0], span, buffers) for span in equal)
        for total in sums:
            total.base_squares += squares
    for total in sums:
        total.entries += sum(stop - start for start, stop in equal)
    return sums


def by_numpy(pair: Pair, block: Block, threshold: float, buffers: Buffers) -> Sums:
    """Raises Unfit where an entry is not finite."""
    kind = float_type(pair.base.dtype, pair.finetuned.dtype)
    base, finetuned, difference = buffers.floats(block.entries, kind)
    widen(pair.base.dtype, block.base, base, buffers.spare)
    widen(pair.finetuned.dtype, block.finetuned, finetuned, buffers.spare)
    with np.errstate(all="ignore"):
        np.subtract(finetuned, base, out=difference)
        sums = Sums(block.entries, squares=float(difference @ difference), base_squares=float(base @ base))
        if not np.isfinite(sums.squares) or not np.isfinite(sums.base_squares):
            check_finite(base, finetuned)
            # Finite, but their squares are too large for float32.
            base, finetuned = base.astype(np.float64), finetuned.astype(np.float64)
            difference = finetuned - base
            sums = Sums(block.entries, squares=float(difference @ difference), base_squares=float(base @ base))
        sums.floor = _floor(pair, finetuned)
        np.abs(difference, out=difference)
        sums.largest = float(difference.max())
        # A product with ones is a sum, four times as fast as numpy's.
        sums.absolute = float(difference @ _ones(difference.dtype)[: block.entries])
        mask = buffers.mask[: block.entries]
        sums.changed = int(np.count_nonzero(np.greater(difference, threshold, out=mask)))
    return sums


def check_finite(base: Floats, finetuned: Floats) -> None:
    """Raises Unfit that says which model holds NaN or Inf."""
    for model, values in (("base", base), ("fine-tuned model", finetuned)):
        if not np.isfinite(values).all():
            what = "NaN" if np.isnan(values).any() else "Inf"
            raise Unfit(f"it holds {what} in the {model}")


@np.errstate(all="ignore")
def differences(
    pair: Pair, models: tuple[Weights, Weights], span: tuple[int, int], out: Floats, buffers: Buffers
) -> None:
    """Write fine-tuned - base of the entries of `span` into `out`, which has as many."""
    kind = float_type(pair.base.dtype, pair.finetuned.dtype)
    for block in _blocks(pair, models, span, buffers):
        base, finetuned, _ = buffers.floats(block.entries, kind)
        widen(pair.base.dtype, block.base, base, buffers.spare)
        widen(pair.finetuned.dtype, block.finetuned, finetuned, buffers.spare)
        at = block.start - span[0]
        np.subtract(finetuned, base, out=out[at : at + block.entries], casting="unsafe")


def _blocks(
    pair: Pair, models: tuple[Weights, Weights], span: tuple[int, int], buffers: Buffers
) -> Iterator[Block]:
    for start in range(span[0], span[1], BLOCK):
        count = min(BLOCK, span[1] - start)
        yield Block(
            buffers.raw(0, models[0], pair.base, start, count),
            buffers.raw(1, models[1], pair.finetuned, start, count),
            start,
            count,
        )


def _equal(first: NDArray[np.uint8], second: NDArray[np.uint8], mask: NDArray[np.bool_]) -> bool:
    words = first.size // 8 * 8
    left, right = first[:words].view(np.uint64), second[:words].view(np.uint64)
    if np.not_equal(left, right, out=mask[: left.size]).any():
        return False
    return bool((first[words:] == second[words:]).all())


def _note(equal: list[tuple[int, int]], block: Block) -> None:
    stop = block.start + block.entries
    if equal and equal[-1][1] == block.start:
        equal[-1] = (equal[-1][0], stop)
    else:
        equal.append((block.start, stop))


def _base_squares(pair: Pair, base: Weights, span: tuple[int, int], buffers: Buffers) -> float:
    total = 0.0
    kind = float_type(pair.base.dtype)
    for start in range(span[0], span[1], BLOCK):
        count = min(BLOCK, span[1] - start)
        values = buffers.floats(count, kind)[0]
        widen(pair.base.dtype, buffers.raw(0, base, pair.base, start, count), values, buffers.spare)
        with np.errstate(all="ignore"):
            square = float(values @ values)
            if not np.isfinite(square):
                check_finite(values, values)
                square = float(np.square(values, dtype=np.float64).sum())
        total += square
    return total


def _floor(pair: Pair, finetuned: Floats) -> float:
    """Σ ulp² / 12 of the coarser of both dtypes: the variance of rounding to nearest (Widrow and Kollár, 2008)."""
    bits = [MANTISSA[tensor.dtype] for tensor in (pair.base, pair.finetuned) if tensor.dtype in MANTISSA]
    if not bits or finetuned.dtype != np.float32:
        return 0.0
    # Without sign and mantissa, a float32 is the power of two that its last place counts from.
    powers = finetuned.view(np.uint32)
    np.bitwise_and(powers, np.uint32(0x7F800000), out=powers)
    return float(finetuned @ finetuned) * 4.0 ** -min(bits) / 12


_ONES = {kind: np.ones(BLOCK, kind) for kind in (np.dtype(np.float32), np.dtype(np.float64))}


def _ones(kind: np.dtype[Any]) -> Floats:
    return _ONES[kind]
