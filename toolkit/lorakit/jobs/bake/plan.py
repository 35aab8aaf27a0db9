"""What is to be done to a base: which layers change together, and by which modules in which order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from loracore.adapter import Module
from loracore.jobs.results import Fault
from lorakit.jobs.bake.base import Base, refuse_quantised
from lorakit.jobs.bake.targets import Rows, bias_of, places_of
from lorakit.modules.parts import Located, Part, beside, family_of_all, located, opened_parts

#: Layers that put out words, and that take them in; a language model may have one weight for both.
_HEADS = ("lm_head.weight", "embed_out.weight", "output.weight")
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight", "shared.weight")
_GENERATES = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "ForMaskedLM")


@dataclass(frozen=True)
class Change:
    """A module that is applied to the weight that consists of `rows`, and to the bias of `bias`."""

    module: Module
    strength: float
    rows: tuple[Rows, ...]
    bias: tuple[Rows, ...] = ()


@dataclass(frozen=True)
class Group:
    """Layers, by component and name, that are read and written together, and what is done to them, in order."""

    layers: tuple[tuple[str, str], ...]
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class Lora:
    """An open LoRA, or several for the models of a pipeline, and how much of it is merged."""

    path: bytes
    parts: tuple[Part, ...]
    modules: tuple[Located, ...]
    family: str
    strength: float


@contextmanager
def opened_loras(paths: Sequence[bytes], weights: Sequence[float]) -> Iterator[tuple[Lora, ...]]:
    """The LoRAs at `paths`. Raises FileError."""
    with ExitStack() as stack:
        loras = []
        for path, strength in zip(paths, weights or (1.0,) * len(paths), strict=True):
            parts = stack.enter_context(opened_parts(path))
            modules = tuple(each for part in parts for each in located(part))
            loras.append(Lora(path, parts, modules, family_of_all(parts, modules), strength))
        yield tuple(loras)


def changes_of(lora: Lora, base: Base) -> tuple[list[Change], list[Fault]]:
    """What a LoRA changes, and what of it cannot be merged."""
    faults = [fault for part in lora.parts for fault in beside(part)]
    places = places_of(lora.modules, base, lora.family)
    changes: list[Change] = []
    taken: dict[tuple[Rows, ...], str] = {}
    for each in lora.modules:
        rows = places[each]
        if rows is None:
            faults.append(Fault(each.name, _missing(each, base)))
            continue
        # A pipeline's text encoders have the same names, and one of them alone does not say which it is.
        other = taken.setdefault(rows, each.name)
        if other != each.name:
            faults.append(
                Fault(each.name, f"it would change what {other!r} changes; give the whole pipeline as --base")
            )
            continue
        found = _change(each.module, lora.strength, rows, base)
        if isinstance(found, Change):
            changes.append(found)
        else:
            faults.append(Fault(each.name, found))
    return changes, faults


def _missing(each: Located, base: Base) -> str:
    if f"{each.name}.weight".endswith(_HEADS) and _is_tied(base):
        return "the base has one weight for it and its embeddings (tie_word_embeddings), which would change both"
    return "the base has no such module"


def _change(module: Module, strength: float, rows: tuple[Rows, ...], base: Base) -> Change | str:
    """What a module does, or why it cannot."""
    for each in rows:
        quantised = refuse_quantised(base, each.component, base.layers[each.component][each.layer].layer)
        if quantised is not None:
            return quantised
        if each.component == "" and each.layer.endswith((*_HEADS, *_EMBEDDINGS)) and _is_tied(base):
            return "the base has one weight for its embeddings and its output, which would both change"
    shape = shape_of(rows, base)
    if shape is None or not module.fits(shape):
        return f"it is made for a weight of {list(module.shape)}, the base's is {list(shape or ())}"
    if not _has_bias(module):
        return Change(module, strength, rows)
    bias = bias_of(rows, base.layers)
    if bias is None:
        return "it changes a bias, which the base has not"
    return Change(module, strength, rows, bias)


def _has_bias(module: Module) -> bool:
    return len(module.layers) > 1 and bool({"up_bias", "diff_b", "b_norm", "bias"} & module.layers.keys())


def shape_of(rows: Sequence[Rows], base: Base) -> tuple[int, ...] | None:
    """The shape of rows below one another; None where they do not fit together."""
    shapes = [base.layers[each.component][each.layer].layer.shape for each in rows]
    if len(rows) == 1 and rows[0].stop is None:
        return shapes[0]
    if any(not shape or shape[1:] != shapes[0][1:] for shape in shapes):
        return None
    count = sum(
        (shape[0] if row.stop is None else row.stop) - row.start for row, shape in zip(rows, shapes, strict=True)
    )
    return (count, *shapes[0][1:])


def _is_tied(base: Base) -> bool:
    text = base.config.get("text_config")
    for config in (base.config, text if isinstance(text, dict) else {}):
        if isinstance(config.get("tie_word_embeddings"), bool):
            return bool(config["tie_word_embeddings"])
    generates = any(str(name).endswith(_GENERATES) for name in base.config.get("architectures") or ())
    return generates and not any(name.endswith(_HEADS) for name in base.layers.get("", {}))


def grouped(changes: Sequence[Change]) -> list[Group]:
    """Changes by the layers that they have in common, each group on its own."""
    root: dict[tuple[str, str], tuple[str, str]] = {}

    def find(layer: tuple[str, str]) -> tuple[str, str]:
        while root.setdefault(layer, layer) != layer:
            layer = root[layer]
        return layer

    touched = [tuple((each.component, each.layer) for each in (*one.rows, *one.bias)) for one in changes]
    for layers in touched:
        for layer in layers:
            root[find(layer)] = find(layers[0])
    members: dict[tuple[str, str], dict[tuple[str, str], None]] = {}
    work: dict[tuple[str, str], list[Change]] = {}
    for change, layers in zip(changes, touched, strict=True):
        first = find(layers[0])
        work.setdefault(first, []).append(change)
        members.setdefault(first, {}).update(dict.fromkeys(layers))
    return [Group(tuple(members[first]), tuple(found)) for first, found in work.items()]
