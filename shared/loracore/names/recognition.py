"""Which base family an adapter is made for, from the marks of all families."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from functools import cache
from itertools import compress, count, islice
from operator import attrgetter
from typing import Any, NamedTuple

from loracore.names.families import families
from loracore.names.family import Mark, Seen


class Named(NamedTuple):
    """What the family is recognised by: a module's component, canonical name, and the dimensions of its ΔW."""

    component: str
    name: str
    shape: tuple[int, ...]


class _Sign(NamedTuple):
    """Marks that have one regular expression, and their families."""

    search: Callable[[str], re.Match[str] | None]
    marks: tuple[tuple[Mark, str], ...]

    def family(self, shape: tuple[int, ...], components: Set[str]) -> str:
        """That of the first mark that fits a ΔW of this shape, in a file of these components."""
        return next(
            (
                family
                for mark, family in self.marks
                if mark.fits(shape) and (not mark.beside or mark.beside in components)
            ),
            "",
        )


_NAME = attrgetter("name")
_TEXT = frozenset({"te1", "te2", "te3"})
_UNET = _TEXT | {"unet"}


class Shown(NamedTuple):
    """What names and shapes show: the family, "" where they do not suffice, and whether it is a language model."""

    family: str
    language: bool = False


def family_of(modules: Iterable[Named], config: Mapping[str, Any], metadata: Mapping[str, str]) -> str:
    """The base family, from names and shapes; where these do not suffice, from what the file says of itself."""
    return stated_family(shown_family(modules), config, metadata)


def shown_family(modules: Iterable[Named]) -> Shown:
    """The base family as far as names and shapes show it."""
    modules = list(modules)
    components = {module.component for module in modules}
    if "unet" in components or (components and components <= _TEXT):
        return Shown(_first({of: _of(modules, of, components) for of in _UNET & components}))
    if "transformer" in components:
        return Shown(_first({"transformer": _of(modules, "transformer", components)}))
    if "llm" in components:
        # Of any component: a text encoder may be a language model.
        return Shown(_first({"llm": modules}), language=True)
    return Shown("")


def stated_family(shown: Shown, config: Mapping[str, Any], metadata: Mapping[str, str]) -> str:
    """The base family, where names and shapes leave it open by what the file says of itself; else "unknown"."""
    if shown.language:
        return _named_by_base(shown.family, config)
    return shown.family or _stated(config, metadata) or "unknown"


def _of(modules: Sequence[Named], component: str, components: Set[str]) -> Sequence[Named]:
    return modules if len(components) == 1 else [module for module in modules if module.component == component]


@cache
def _signs() -> Sequence[tuple[Seen, Sequence[_Sign]]]:
    """All marks in their order, those of one number together, and what they look at."""
    orders: dict[tuple[int, Seen], dict[str, list[tuple[Mark, str]]]] = {}
    for family in families().values():
        for mark in family.marks:
            signs = orders.setdefault((mark.order, mark.seen), {})
            signs.setdefault(mark.name, []).append((mark, family.name))
    return [
        (seen, [_Sign(re.compile(name).search, tuple(marks)) for name, marks in signs.items()])
        for (_, seen), signs in sorted(orders.items())
    ]


def _first(modules: Mapping[Any, Sequence[Named]]) -> str:
    """The family of the first mark that modules have, by what they are seen as; "" where they have none."""
    for seen, signs in _signs():
        listed = modules.get(seen, ())
        best, family = len(listed), ""
        for sign in signs:
            hits = map(sign.search, map(_NAME, islice(listed, best)))
            for place in compress(count(), hits):
                if found := sign.family(listed[place].shape, modules.keys()):
                    best, family = place, found
                    break
        if family:
            return family
    return ""


def _named_by_base(found: str, config: Mapping[str, Any]) -> str:
    """Language models that share Llama's names differ by the base model's name."""
    if found and not families()[found].shares_names:
        return found
    base = str(config.get("base_model_name_or_path") or "").lower()
    return _first({"base": [Named("base", base, ())]}) or found or "unknown"


def _stated(config: Mapping[str, Any], metadata: Mapping[str, str]) -> str:
    """What kohya's `ss_base_model_version`, ModelSpec's architecture or the base model's name say."""
    words = " ".join(
        (
            metadata.get("ss_base_model_version", ""),
            metadata.get("modelspec.architecture", ""),
            metadata.get("ss_base_model", ""),
            str(config.get("base_model_name_or_path") or ""),
        )
    ).lower()
    return _first({"words": [Named("words", words, ())]})
