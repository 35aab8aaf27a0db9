"""All layers of two models on a few threads: sums, then the decomposition of those that changed.

A large layer is cut into parts that several threads take; whoever ends its last part finishes the layer.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from math import isfinite
from time import perf_counter
from typing import Any
from zlib import crc32

import msgspec
import numpy as np

from loracore.errors import ChangedFile, FileError
from loracore.jobs.job import Context
from lorakit.difference import pairs as modules
from lorakit.difference import rows
from lorakit.difference.decompose import PASSES, Decomposition, Quality, decompose, residual, scratch
from lorakit.difference.journal import FactorPlace, Factors, Journal, Record
from lorakit.difference.measure import BLOCK, Buffers, Engine, Part, Sums, by_numpy, finish, measure
from lorakit.difference.pairs import Pair
from lorakit.difference.verdict import KNOWN, Spectrum
from lorakit.models.weights import Weights
from lorakit.modules.survey import Unfit, one_blas_thread
from lorakit.output.rounding import as_stored

#: Bytes that all threads' decompositions take at once.
ROOM = 1280 << 20
#: Entries of a part: enough that taking it costs nothing.
_PART = 64 * BLOCK
#: For energies alone, fewer passes do.
_FEW_PASSES = 2
_AGREE = ("absolute", "largest", "squares", "changed")


@dataclass(frozen=True)
class Wish:
    """What is to be found out.

    `engines`: by name; the first one's numbers count. `rank`: of factors, or None. `stored`: the dtype that these
    will have, which they are rounded to. `arrays`: numpy, or cupy, for decompositions.
    """

    threshold: float = 1e-6
    engines: Mapping[str, Engine | None] = field(default_factory=lambda: {"numpy": None})
    spectra: bool = True
    rank: int | None = None
    quality: Quality = "fast"
    stored: str = "F32"
    arrays: Any = np


def walk(
    pairs: Sequence[Pair], models: tuple[Weights, Weights], wish: Wish, journal: Journal, context: Context
) -> dict[str, Record]:
    """Finish every layer that the journal does not have. Raises ChangedFile and FileError for the output."""
    walking = _Walk(models, wish, journal)
    total = sum(pair.nbytes for pair in pairs)
    done: float = sum(pair.nbytes for pair in pairs if pair.name in journal.records)
    left = [pair for pair in pairs if pair.name not in journal.records]
    with one_blas_thread(), ThreadPoolExecutor(max(1, context.threads)) as pool:
        running = {}
        for pair in left:
            parts = _parts(pair, models)
            layer = _Layer(pair, len(parts))
            for index, span in enumerate(parts):
                running[pool.submit(walking.part, layer, index, span)] = (pair, (span[1] - span[0]) / pair.entries)
        try:
            context.progress(done, total, "")
            for future in as_completed(running):
                future.result()
                pair, share = running[future]
                done += share * pair.nbytes
                context.progress(min(done, total), total, pair.name)
        except BaseException:
            walking.stopped = True
            pool.shutdown(cancel_futures=True)
            raise
    return {pair.name: walking.records[pair.name] for pair in pairs}


def _parts(pair: Pair, models: tuple[Weights, Weights]) -> list[tuple[int, int]]:
    views = models[0].is_view(pair.base) or models[1].is_view(pair.finetuned)
    size = pair.entries if views else _PART
    return [(start, min(start + size, pair.entries)) for start in range(0, pair.entries, size)]


class _Layer:
    """A layer of which parts are under way."""

    def __init__(self, pair: Pair, count: int) -> None:
        self.pair = pair
        self.parts: list[Part | None] = [None] * count
        self.left = count
        self.seconds = 0.0
        self.fault = ""
        self.lock = threading.Lock()


class _Walk:
    def __init__(self, models: tuple[Weights, Weights], wish: Wish, journal: Journal) -> None:
        self._models = models
        self._wish = wish
        self._journal = journal
        self._room = rows.Room(ROOM)
        self._local = threading.local()
        self.records = dict(journal.records)
        self.stopped = False

    def part(self, layer: _Layer, index: int, span: tuple[int, int]) -> None:
        if self.stopped:
            return
        began = perf_counter()
        buffers, engines = self._own()
        try:
            if not layer.fault:
                layer.parts[index] = measure(
                    layer.pair,
                    self._models,
                    span,
                    threshold=self._wish.threshold,
                    engines=engines,
                    buffers=buffers,
                )
        except (Unfit, FileError) as error:
            layer.fault = layer.fault or _reason(error)
        with layer.lock:
            layer.left -= 1
            layer.seconds += perf_counter() - began
            last = not layer.left
        if last:
            record, factors = self._finished(layer, buffers)
            self.records[record.name] = self._journal.keep(record, factors)

    def _own(self) -> tuple[Buffers, list[Engine]]:
        """This thread's buffers, and the engines on them."""
        if not hasattr(self._local, "buffers"):
            buffers = self._local.buffers = Buffers()
            self._local.engines = [
                engine or (lambda pair, block, threshold: by_numpy(pair, block, threshold, buffers))
                for engine in self._wish.engines.values()
            ]
        return self._local.buffers, self._local.engines

    def _finished(self, layer: _Layer, buffers: Buffers) -> tuple[Record, Factors | None]:
        pair, began = layer.pair, perf_counter()
        record, factors = Record(pair.name, pair.shape, fault=layer.fault), None
        if not layer.fault:
            try:
                parts = [part for part in layer.parts if part is not None]
                sums = finish(pair, self._models, parts, buffers)
                record = _record(pair, sums, parts, list(self._wish.engines))
                if sums[0].largest > 0:
                    record, factors = self._decomposed(pair, record, sums[0], buffers)
            except (Unfit, FileError) as error:
                record = Record(pair.name, pair.shape, fault=_reason(error))
        return msgspec.structs.replace(record, seconds=layer.seconds + perf_counter() - began), factors

    def _decomposed(
        self, pair: Pair, record: Record, sums: Sums, buffers: Buffers
    ) -> tuple[Record, Factors | None]:
        wish = self._wish
        if not wish.spectra and wish.rank is None:
            return record, None
        reason = modules.unfit(pair)
        if reason:
            return msgspec.structs.replace(record, left_out=reason), None
        try:
            with np.errstate(all="ignore"):
                return self._spectral(pair, record, sums, buffers)
        except np.linalg.LinAlgError:
            return msgspec.structs.replace(record, left_out="its values are too large to be decomposed"), None

    def _spectral(self, pair: Pair, record: Record, sums: Sums, buffers: Buffers) -> tuple[Record, Factors | None]:
        wish, began = self._wish, perf_counter()
        known = KNOWN if wish.spectra else 0
        rank = max(wish.rank or 0, known)
        passes = PASSES if wish.rank is not None else _FEW_PASSES
        shape = rows.matrix_shape(pair.shape)
        quality = wish.quality if wish.rank is not None else "fast"
        needs = scratch(shape, rank, passes, quality)
        with rows.opened(pair, self._models, self._room, buffers, needs) as matrix:
            found = decompose(
                matrix,
                rank,
                quality=quality,
                passes=passes,
                seed=crc32(pair.name.encode("utf-8", "surrogatepass")),
                arrays=wish.arrays,
            )
            place, factors = self._factored(pair.name, matrix, found, sums)
        values = tuple(float(value) for value in found.values[:KNOWN])
        record = msgspec.structs.replace(
            record,
            spectrum=Spectrum(*shape, energy=sums.squares, floor=sums.floor, values=values),
            spectrum_seconds=perf_counter() - began,
            factors=place,
        )
        return record, factors

    def _factored(
        self, name: str, matrix: rows.Rows, found: Decomposition, sums: Sums
    ) -> tuple[FactorPlace | None, Factors | None]:
        if self._wish.rank is None:
            return None, None
        rank = min(self._wish.rank, *matrix.shape)
        factors = Factors(*(as_stored(values, self._wish.stored, name) for values in found.factors(rank)))
        left = residual(matrix, factors.outer, factors.inner)
        share = min(1.0, left / sums.squares)
        return FactorPlace(0, rank, share**0.5, 1 - share, found.exact), factors


def _record(pair: Pair, sums: Sequence[Sums], parts: Sequence[Part], engines: Sequence[str]) -> Record:
    first = sums[0]
    seconds = {name: sum(part.seconds[index] for part in parts) for index, name in enumerate(engines)}
    relative = (first.squares / first.base_squares) ** 0.5 if first.base_squares else None
    return Record(
        pair.name,
        pair.shape,
        mean_abs_diff=first.absolute / first.entries,
        max_abs_diff=first.largest,
        relative_diff=relative if first.squares else 0.0,
        changed_ratio=first.changed / first.entries,
        numpy_seconds=seconds.get("numpy"),
        torch_seconds=seconds.get("torch"),
        disagreement=_disagreement(first, sums[1]) if len(sums) > 1 else None,
    )


def _disagreement(first: Sums, second: Sums) -> float:
    """The largest relative difference between what two engines found."""
    worst = 0.0
    for name in _AGREE:
        one, other = float(getattr(first, name)), float(getattr(second, name))
        greatest = max(abs(one), abs(other))
        if greatest and isfinite(greatest):
            worst = max(worst, abs(one - other) / greatest)
    return worst


def _reason(error: Unfit | FileError) -> str:
    if isinstance(error, ChangedFile):
        raise error
    return str(error)
