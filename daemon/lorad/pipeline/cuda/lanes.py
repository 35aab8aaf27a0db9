"""Where the chunks of many pieces lie on the kernel's lanes, and how their trees are joined. No GPU in here.

The kernel (blake3.cu) digests a chunk a lane and joins the chunks of a tile of `TILE` lanes. A piece of up to
`TILE` chunks lies within a tile, at a multiple of the power of two that holds it; a longer one takes whole
tiles. Laying the longest out first gives all of them such a place without a search.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: Bytes of a chunk, and chunks of a tile.
CHUNK, TILE = 1024, 128
#: Bytes of a tile, and of a chaining value or digest.
SPAN, VALUE = CHUNK * TILE, 32
#: `Item` in blake3.cu.
ITEM = np.dtype(
    [
        ("offset", "u8"), ("length", "u8"), ("counter", "u8"),
        ("start", "u4"), ("output", "u4"), ("root", "u4"), ("unused", "u4"),
    ]
)  # fmt: skip

Numbers = NDArray[np.int64]

_POWER_OF_TWO = np.array([0, *(1 << (leaves - 1).bit_length() for leaves in range(1, TILE + 1))])


class Pieces(NamedTuple):
    """`lengths` in bytes, lying at `offsets`.

    `counters` are the numbers of their first chunks, a multiple of `TILE`; where `roots` is False, what lies
    here is a part of a longer piece.
    """

    offsets: Numbers
    lengths: Numbers
    counters: Numbers
    roots: NDArray[np.bool_]


class Stage(NamedTuple):
    """A launch: its items (of `ITEM`) in the order of their lanes, and how many tiles they take."""

    items: NDArray[np.void]
    tiles: int


class Plan(NamedTuple):
    """Launches, one after the other: `chunks`, then `parents` as often as there are values to join.

    `results` tells for each piece the place of its digest among all `values`; for one whose tree does not end
    here, that of its first tile's chaining value, after which those of its other tiles lie.
    """

    stages: list[Stage]
    results: Numbers
    values: int


def plan_pieces(pieces: Pieces) -> Plan:
    """Digest these pieces."""
    if not len(pieces.lengths):
        return Plan([], pieces.offsets, 0)
    leaves = np.maximum(1, -(-pieces.lengths // CHUNK))
    stage, outputs, tiles = _stage(pieces, leaves, 0)
    joins = _joins(outputs, np.where(pieces.roots, tiles, 1), int(tiles.sum()))
    return Plan([stage, *joins.stages], joins.results, joins.values)


def plan_join(counts: Numbers) -> Plan:
    """Join, of each piece, so many values of its tiles, at least 2, which lie one piece's after the other's."""
    ends = np.cumsum(counts)
    return _joins(ends - counts, counts, int(ends[-1]))


def _joins(results: Numbers, counts: Numbers, values: int) -> Plan:
    """Join, of each piece, the `counts` values that lie from `results` on; new ones come after `values`."""
    stages = []
    results, counts = results.copy(), counts.copy()
    while (several := np.flatnonzero(counts > 1)).size:
        lengths = counts[several]
        nodes = Pieces(results[several], lengths, np.zeros_like(lengths), np.ones(len(several), bool))
        stage, results[several], counts[several] = _stage(nodes, lengths, values)
        stages.append(stage)
        values += int(counts[several].sum())
    return Plan(stages, results, values)


def _stage(pieces: Pieces, leaves: Numbers, values: int) -> tuple[Stage, Numbers, Numbers]:
    """A launch whose results come after `values`; for each piece, its first result and its tiles."""
    tiles = -(-leaves // TILE)
    lanes = np.where(leaves > TILE, tiles * TILE, _POWER_OF_TWO[np.minimum(leaves, TILE)])
    order = np.argsort(-lanes, kind="stable")
    ends = np.cumsum(lanes[order])
    outputs = np.empty_like(leaves)
    outputs[order] = values + np.cumsum(tiles[order]) - tiles[order]
    items = np.zeros(len(leaves), ITEM)
    for name, column in zip(("offset", "length", "counter", "root"), pieces, strict=True):
        items[name] = column[order]
    items["start"], items["output"] = ends - lanes[order], outputs[order]
    return Stage(items, -(-int(ends[-1]) // TILE)), outputs, tiles
