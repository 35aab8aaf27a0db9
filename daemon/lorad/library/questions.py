"""Which bytes to ask for next, in a group of files that are still together.

A group has one sequence of questions, the same for all its files: samples, which only ever split; probe
layers; then runs of whole layers in disk order until none is left. Files that agree on a whole sequence
agree on every layer. Pure functions; what the answers were is `refinement`'s business.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

#: Bytes of one sample. Four of them are the 16 KiB that a unique file in a group costs.
SAMPLE = 4096
SAMPLES = 4
#: Smaller layers are never sampled: alphas and other tiny tensors are equal everywhere.
SAMPLED_LAYER = 2 * SAMPLE
#: What a first look costs at most. Groups with less data than this are compared whole.
FIRST_LOOK = SAMPLES * SAMPLE
#: How often samples that turn out to be zero are replaced before whole layers are read.
SAMPLE_ROUNDS = 3
PROBE_SIZES = (32 << 10, 1 << 20)
PROBES = 2
#: A run of layers reads at least this much, or a twelfth of what was compared before it, so that a
#: difference is passed by at most that much.
RUN = 2 << 20
RUN_SHARE = 12
#: Below this, probing first would only add a round trip.
UNPROBED = 4 << 20


class LayoutShape(msgspec.Struct, frozen=True, array_like=True):
    """What choosing questions needs of a layout: each layer's bytes, and the layers in disk order.

    `unsampled` are layers whose bytes do not lie together, so that a sample would cost the whole layer.
    """

    sizes: Sequence[int]
    order: Sequence[int]
    unsampled: frozenset[int] = frozenset()


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """`length` bytes from byte `start` of layer `layer` (its index in the layout)."""

    layer: int
    start: int
    length: int


class Question(msgspec.Struct, frozen=True, array_like=True):
    """Pieces that every file still together reads next. `confirms` when they are whole layers."""

    number: int
    confirms: bool
    pieces: tuple[Piece, ...]


def next_pieces(shape: LayoutShape, asked: Sequence[Question], dull: set[int]) -> tuple[bool, list[Piece]] | None:
    """What to ask after `asked`: (whole layers?, pieces), or None when every layer was asked.

    `dull` are the layers whose samples were zero, or that agreed in files that differ.
    """
    confirmed = {piece.layer for question in asked if question.confirms for piece in question.pieces}
    remaining = [layer for layer in shape.order if layer not in confirmed]
    if not remaining:
        return None
    if sum(shape.sizes) <= FIRST_LOOK:
        return True, _whole(shape, remaining)
    if not confirmed and (samples := _more_samples(shape, asked, dull)):
        return False, samples
    probes = sum(question.confirms and len(question.pieces) == 1 for question in asked)
    if probes < PROBES and sum(shape.sizes[layer] for layer in remaining) > UNPROBED:
        low, high = PROBE_SIZES
        candidates = [layer for layer in remaining if low <= shape.sizes[layer] <= high and layer not in dull]
        if candidates:
            return True, _whole(shape, [candidates[len(candidates) // 2]])
    compared = sum(shape.sizes[layer] for layer in confirmed)
    length = max(RUN, compared // RUN_SHARE) if asked else FIRST_LOOK
    return True, _whole(shape, _run(shape, remaining, length))


def spread_samples(shape: LayoutShape, layers: Sequence[int], count: int) -> list[Piece]:
    """`count` samples spread evenly over `layers` (each at least SAMPLED_LAYER long), and inside them."""
    chosen = [layers[(2 * index + 1) * len(layers) // (2 * count)] for index in range(count)]
    pieces = []
    for layer in dict.fromkeys(chosen):
        share = chosen.count(layer)
        for index in range(share):
            start = shape.sizes[layer] * (index + 1) // (share + 1) // SAMPLE * SAMPLE
            pieces.append(Piece(layer, min(start, shape.sizes[layer] - SAMPLE), SAMPLE))
    return list(dict.fromkeys(pieces))


def can_be_sampled(shape: LayoutShape, layers: Iterable[int]) -> list[int]:
    return [layer for layer in layers if shape.sizes[layer] >= SAMPLED_LAYER and layer not in shape.unsampled]


def _more_samples(shape: LayoutShape, asked: Sequence[Question], dull: set[int]) -> list[Piece]:
    """The first samples, or replacements for those that fell into dull layers; empty when enough."""
    sampled = {piece.layer for question in asked for piece in question.pieces}
    if asked:
        wanted = len({piece.layer for piece in asked[-1].pieces} & dull)
        if not wanted or len(asked) >= SAMPLE_ROUNDS:
            return []
    else:
        wanted = SAMPLES
    fresh = [layer for layer in can_be_sampled(shape, shape.order) if layer not in sampled and layer not in dull]
    if not fresh:
        return []
    large = max(shape.sizes[layer] for layer in fresh) // 16
    return spread_samples(shape, [layer for layer in fresh if shape.sizes[layer] >= large], wanted)


def _run(shape: LayoutShape, remaining: Sequence[int], length: int) -> list[int]:
    """The next layers in disk order, at least one, up to a length."""
    run: list[int] = []
    for layer in remaining:
        length -= shape.sizes[layer]
        if run and length < 0:
            break
        run.append(layer)
    return run


def _whole(shape: LayoutShape, layers: Iterable[int]) -> list[Piece]:
    return [Piece(layer, 0, shape.sizes[layer]) for layer in layers]
