"""Where the bytes of a question lie in a file: the runs that a loader reads."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import msgspec

from loracore.tensorfile import Arrangement
from lorad.catalog import Catalog
from lorad.library import LayoutShape, Piece, Question
from lorad.pipeline.dispatch import Plan
from lorad.pipeline.protocol import Run


class Plans:
    """By the numbers of layouts and arrangements, of which some are kept at hand."""

    def __init__(self, catalog: Catalog) -> None:
        self._arrangement = lru_cache(256)(catalog.arrangements.get)
        self._layout = lru_cache(32)(catalog.layouts.get)
        self.plan = lru_cache(512)(self._plan)

    def forget(self) -> None:
        """Numbers of layouts and arrangements may have got another meaning."""
        for cache in (self._arrangement, self._layout, self.plan):
            cache.cache_clear()

    def shape(self, layout: int, arrangement: int) -> LayoutShape:
        """A layout's sizes, and its order in files of this arrangement."""
        sizes, places = self._layout(layout).sizes, self._arrangement(arrangement)
        records = places.records or [0] * len(sizes)
        order = sorted(range(len(sizes)), key=lambda layer: (records[layer], places.offsets[layer]))
        return LayoutShape(sizes, order, frozenset(places.strided))

    def layer_names(self, layout: int) -> list[str]:
        return [layer.name for layer in self._layout(layout).layers]

    def _plan(self, layout: int, arrangement: int, question: Question, missing: Sequence[int]) -> Plan:
        """Where the missing pieces of a question lie in files of this arrangement."""
        places = self._arrangement(arrangement)
        runs = [(self._run(places, question.pieces[place], layout), place) for place in missing]
        runs.sort(key=lambda pair: (pair[0].record or 0, pair[0].offset))
        order = [place for _, place in runs]
        return Plan(
            runs=msgspec.msgpack.encode(_joined([run for run, _ in runs])),
            pieces=len(runs),
            length=sum(question.pieces[place].length for place in missing),
            order=None if order == list(range(len(question.pieces))) else order,
        )

    def _run(self, places: Arrangement, piece: Piece, layout: int) -> Run:
        offset = places.offsets[piece.layer]
        record = places.records[piece.layer] if places.records else None
        strides = places.strided.get(piece.layer)
        if strides is None:
            return Run(offset + piece.start, [piece.length], record)
        layer = self._layout(layout).layers[piece.layer]
        return Run(offset, [piece.length], record, strides, layer.shape, layer.dtype, piece.start)


def _joined(runs: list[Run]) -> list[Run]:
    """Runs that lie back to back become one, so that they are read at once."""
    joined: list[Run] = []
    lengths: list[int] = []
    end = None
    for run in runs:
        plain = run.record is None and run.strides is None
        if plain and run.offset == end:
            lengths += run.lengths
        else:
            lengths = list(run.lengths)
            joined.append(msgspec.structs.replace(run, lengths=lengths))
        end = run.offset + run.lengths[0] if plain else None
    return joined
