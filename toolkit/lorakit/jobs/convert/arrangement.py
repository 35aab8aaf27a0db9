"""Which modules of the other convention a LoRA's modules become.

Most keep to themselves. Where the original model has a fused projection and diffusers several modules, a module is
cut by the rows of ΔW, or several are put below one another; both are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loracore.adapter import Module
from loracore.jobs.results import Fault
from loracore.names import originals
from loracore.names.conventions import naming
from loracore.names.families import family_named
from loracore.names.family import Part
from lorakit.modules.parts import Located


@dataclass(frozen=True)
class Rows:
    """Rows `start` to `stop` of a module's ΔW; of zeros where there is no module."""

    module: Module | None
    start: int
    stop: int


@dataclass(frozen=True)
class Target:
    """A module to be: its canonical component and name, and the rows that its ΔW consists of, from the top."""

    component: str
    name: str
    rows: tuple[Rows, ...]

    @property
    def whole(self) -> Module | None:
        """The module that it is as it was, or None."""
        first = self.rows[0]
        if len(self.rows) > 1 or first.module is None or first.start:
            return None
        return first.module if first.stop == first.module.shape[0] else None

    @property
    def modules(self) -> tuple[Module, ...]:
        """The modules that it is made of."""
        return tuple(dict.fromkeys(each.module for each in self.rows if each.module is not None))


class Uncut(Exception):
    """Modules that can be neither cut nor joined; the text says why."""


def arranged(modules: Sequence[Located], convention: str, family: str) -> tuple[list[Target], list[Fault]]:
    """The modules that these become, in their order, and those that cannot become any."""
    targets: list[Target] = []
    faults: list[Fault] = []
    joined: dict[str, dict[int, Located]] = {}
    to_original = naming(convention).is_original
    for each in modules:
        part = _part(each, family) if to_original else None
        if part is not None and part.of > 1:
            joined.setdefault(part.original, {})[part.place] = each
            continue
        try:
            targets += [_alone(each, part, family)] if to_original else _cut(each, family)
        except Uncut as error:
            faults.append(Fault(each.name, str(error)))
    for original, parts in joined.items():
        try:
            targets.append(_joined(original, parts, family))
        except Uncut as error:
            faults += [Fault(each.name, str(error)) for each in parts.values()]
    return targets, faults


def _part(each: Located, family: str) -> Part | None:
    return originals.original_part(family, each.name) if each.component == "transformer" else None


def _whole(module: Module) -> tuple[Rows, ...]:
    return (Rows(module, 0, module.shape[0] if module.shape else 1),)


def _alone(each: Located, part: Part | None, family: str) -> Target:
    """A module of diffusers' that is one of the original's, whose halves may be the other way round."""
    if part is not None and originals.is_swapped(family, part.original, each.module.shape):
        return Target(each.component, each.name, _halves(each.module))
    return Target(each.component, each.name, _whole(each.module))


def _cut(each: Located, family: str) -> list[Target]:
    """The modules of diffusers' that an original one is."""
    pieces = family_named(family).pieces(each.name) if each.component == "transformer" else None
    if pieces is None:
        return [Target(each.component, each.name, _whole(each.module))]
    if len(pieces) == 1:
        swapped = originals.is_swapped(family, each.name, each.module.shape)
        return [Target(each.component, pieces[0].name, (_halves if swapped else _whole)(each.module))]
    _check_rows(each.module)
    outputs, inputs = each.module.shape[:2]
    counts = [piece.width * inputs for piece in pieces]
    # Whatever is left is the last part's: no other model says how wide its MLP is.
    counts[-1] = outputs - sum(counts[:-1])
    if counts[-1] <= 0 or (pieces[-1].width == 1 and counts[-1] != inputs):
        raise Uncut(f"its {outputs} rows and {inputs} columns are not those of {len(pieces)} parts")
    found, start = [], 0
    for piece, count in zip(pieces, counts, strict=True):
        found.append(Target(each.component, piece.name, (Rows(each.module, start, start + count),)))
        start += count
    return found


def _joined(original: str, parts: dict[int, Located], family: str) -> Target:
    """The original module that several of diffusers' are; those that the LoRA lacks are zeros."""
    present = [each.module for each in parts.values()]
    for module in present:
        _check_rows(module)
    inputs = present[0].shape[1]
    if any(module.shape[1] != inputs for module in present):
        raise Uncut(f"the parts of {original!r} have different numbers of columns")
    pieces = family_named(family).pieces(original) or ()
    rows = []
    for place, piece in enumerate(pieces):
        count = piece.width * inputs
        if place not in parts:
            rows.append(Rows(None, 0, count))
            continue
        module = parts[place].module
        if piece.width == 1 and module.shape[0] != count:
            raise Uncut(f"it has {module.shape[0]} rows, where its part of {original!r} has {count}")
        rows.append(Rows(module, 0, module.shape[0]))
    if any(module.algorithm == "dora" for module in present) and len(parts) < len(pieces):
        raise Uncut(f"a DoRA of {original!r} needs all of its {len(pieces)} parts")
    return Target("transformer", original, tuple(rows))


def _halves(module: Module) -> tuple[Rows, ...]:
    _check_rows(module)
    half = module.shape[0] // 2
    return (Rows(module, half, 2 * half), Rows(module, 0, half))


def _check_rows(module: Module) -> None:
    if module.algorithm not in {"lora", "dora"} or len(module.shape) != 2 or module.transposed:
        raise Uncut(f"a {module.algorithm} cannot be cut or joined by rows, which the other convention needs")
