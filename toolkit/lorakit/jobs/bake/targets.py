"""Which layers of a base model a LoRA's module changes, whatever both call it.

A module is looked for under every name that its model is known to have: diffusers', the original's, CLIP's as
OpenCLIP has it. Where the base has a fused projection and the LoRA its parts, or the other way round, a module is
rows of a layer, or several layers below one another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from loracore.names import originals
from loracore.names.conventions.diffusers import part_of
from loracore.names.families import family_named, prefixes
from lorakit.jobs.bake.base import Base, Place
from lorakit.modules.parts import Located

#: What a language model's names may have in front, or lack.
_LANGUAGE = ("model.", "transformer.", "language_model.", "model.language_model.", "base_model.")


class Rows(NamedTuple):
    """Rows of a layer of the base; `stop` None for all of them."""

    component: str
    layer: str
    start: int = 0
    stop: int | None = None


class _Piece(NamedTuple):
    """A layer without its prefix, and which part of it; `widths` of its parts are multiples of its columns."""

    layer: str
    place: int = 0
    widths: tuple[int, ...] = (1,)
    swapped: bool = False


def places_of(modules: Sequence[Located], base: Base, family: str) -> dict[Located, tuple[Rows, ...] | None]:
    """The rows that each module's weight consists of, from the top; None where the base has no such module."""
    language = [each for each in modules if each.component == "llm"]
    found: dict[Located, tuple[Rows, ...] | None] = dict(_language(language, base)) if language else {}
    return found | {each: _place(each, base, family) for each in modules if each.component != "llm"}


def _language(modules: Sequence[Located], base: Base) -> Iterator[tuple[Located, tuple[Rows, ...] | None]]:
    """One rule for all modules of a LoRA: names as they are, with something in front, or without it."""
    names = {each: _weight(each.name) for each in modules}
    layers = base.layers.get("", {})
    rules = [("", ""), *(("", prefix) for prefix in _LANGUAGE), *((prefix, "") for prefix in _LANGUAGE)]
    hits = Counter(
        {rule: sum(_ruled(name, rule) in layers for name in names.values()) for rule in dict.fromkeys(rules)}
    )
    best = max(rules, key=lambda rule: hits[rule])
    for each, name in names.items():
        ruled = _ruled(name, best)
        yield each, ((Rows("", ruled),) if ruled in layers else None)


def _ruled(name: str, rule: tuple[str, str]) -> str:
    return rule[1] + name.removeprefix(rule[0])


def _weight(name: str) -> str:
    """A module that is a bias alone is called so."""
    return name if name.endswith(".bias") else f"{name}.weight"


def _place(each: Located, base: Base, family: str) -> tuple[Rows, ...] | None:
    part = part_of(each.component, family_named(family))
    for component, layers in base.layers.items():
        # A folder of a diffusers model holds one component; other models all that they have in one place.
        if component and component != part:
            continue
        for form in _forms(each, family):
            for prefix in ("",) if component else prefixes(each.component):
                rows = _rows(each, component, prefix, form, layers)
                if rows is not None:
                    return rows
    return None


def _rows(
    each: Located, component: str, prefix: str, form: Sequence[_Piece], layers: Mapping[str, Place]
) -> tuple[Rows, ...] | None:
    found: list[Rows] = []
    for piece in form:
        place = layers.get(prefix + piece.layer)
        if place is None:
            return None
        name, shape = place.layer.name, place.layer.shape
        if piece.swapped:
            half = shape[0] // 2
            found += [Rows(component, name, half, 2 * half), Rows(component, name, 0, half)]
        elif len(piece.widths) > 1:
            start, stop = _part(piece, shape, each.module.shape[0])
            found.append(Rows(component, name, start, stop))
        else:
            found.append(Rows(component, name))
    return tuple(found)


def _part(piece: _Piece, shape: tuple[int, ...], rows: int) -> tuple[int, int]:
    """Which rows of a fused layer a part is; the last is whatever the others leave."""
    counts = [width * shape[1] for width in piece.widths]
    start = sum(counts[: piece.place])
    return start, shape[0] if piece.place == len(counts) - 1 else start + min(rows, counts[piece.place])


def _forms(each: Located, family: str) -> Iterator[tuple[_Piece, ...]]:
    """Under which layers the module's weight may lie."""
    if each.component == "unet":
        yield (_Piece(_weight(each.name)),)
        for like in ("sdxl", "sd15"):
            original = originals.original_unet(each.name, like)
            if original is not None:
                yield (_Piece(_weight(original)),)
    elif each.component == "transformer":
        yield from _transformer_forms(each, family)
    else:
        inner = each.name.removeprefix(f"{each.component}.")
        yield (_Piece(_weight(inner)),)
        yield (_Piece(_weight(inner.removeprefix("text_model."))),)
        yield from _open_clip(inner)


def _transformer_forms(each: Located, family: str) -> Iterator[tuple[_Piece, ...]]:
    shape, known = each.module.shape, family_named(family)
    yield (_Piece(_weight(each.name)),)
    pieces = known.pieces(each.name)
    if pieces is not None:
        swapped = originals.is_swapped(family, each.name, shape)
        yield tuple(_Piece(_weight(piece.name), swapped=swapped) for piece in pieces)
    part = known.part(each.name)
    if part is not None:
        swapped = originals.is_swapped(family, part.original, shape)
        yield (_Piece(_weight(part.original), part.place, known.widths(part.original), swapped),)


def _open_clip(inner: str) -> Iterator[tuple[_Piece, ...]]:
    clip = family_named("clip")
    part = clip.part(inner.removeprefix("text_model."))
    if part is not None:
        # A parameter of torch's `MultiheadAttention`, which is no module.
        layer = f"{part.original}_weight" if part.original.endswith(".in_proj") else _weight(part.original)
        yield (_Piece(layer, part.place, clip.widths(part.original)),)


def bias_of(rows: Sequence[Rows], layers: Mapping[str, Mapping[str, Place]]) -> tuple[Rows, ...] | None:
    """The biases beside the weights that these rows are of; None where one is missing."""
    found = []
    for each in rows:
        name = each.layer.removesuffix("weight") + "bias"
        if not each.layer.endswith("weight") or name not in layers[each.component]:
            return None
        found.append(each._replace(layer=name))
    return tuple(found)
