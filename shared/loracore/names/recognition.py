"""Which base family an adapter is made for, from the marks of all families."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from loracore.names.families import families
from loracore.names.family import Mark, Seen


class Named(NamedTuple):
    """What the family is told from: a module's component, canonical name, and the dimensions of its ΔW."""

    component: str
    name: str
    shape: tuple[int, ...]


class _Sign(NamedTuple):
    """Marks that have one regular expression, and their families."""

    seen: Seen
    search: Callable[[str], re.Match[str] | None]
    marks: tuple[tuple[Mark, str], ...]


_TEXT = frozenset({"te1", "te2", "te3"})
_UNET = _TEXT | {"unet"}


def family_of(modules: Iterable[Named], config: Mapping[str, Any], metadata: Mapping[str, str]) -> str:
    """The base family, from names and shapes; from what the file says of itself only where these do not tell."""
    modules = list(modules)
    components = {module.component for module in modules}
    if "unet" in components or (components and components <= _TEXT):
        found = _first(_UNET, modules)
    elif "transformer" in components:
        found = _first(frozenset({"transformer"}), modules)
    elif "llm" in components:
        # Of any component: a text encoder may be a language model.
        named = [module._replace(component="llm") for module in modules]
        return _named_by_base(_first(frozenset({"llm"}), named), config)
    else:
        found = ""
    return found or _stated(config, metadata) or "unknown"


@cache
def _signs(seen: frozenset[Seen]) -> Sequence[Sequence[_Sign]]:
    """The marks of what is seen: in their order, those of one number together."""
    orders: dict[int, dict[tuple[Seen, str], list[tuple[Mark, str]]]] = {}
    for family in families().values():
        for mark in family.marks:
            if mark.seen in seen:
                signs = orders.setdefault(mark.order, {})
                signs.setdefault((mark.seen, mark.name), []).append((mark, family.name))
    return [
        [_Sign(of, re.compile(name).search, tuple(marks)) for (of, name), marks in signs.items()]
        for _, signs in sorted(orders.items())
    ]


def _first(seen: frozenset[Any], modules: Sequence[Named]) -> str:
    components = {module.component for module in modules}
    parts = {of: [module for module in modules if module.component == of] for of in components}
    for signs in _signs(seen):
        if len(signs) == 1:
            listed = parts.get(signs[0].seen, [])
        else:
            listed = [module for module in modules if any(module.component == sign.seen for sign in signs)]
        for component, name, shape in listed:
            for sign in signs:
                if sign.seen == component and sign.search(name):
                    for mark, family in sign.marks:
                        if mark.fits(shape) and (not mark.beside or mark.beside in components):
                            return family
    return ""


def _named_by_base(found: str, config: Mapping[str, Any]) -> str:
    """Language models that share Llama's names are told by the base model's name."""
    if found and not families()[found].shares_names:
        return found
    base = str(config.get("base_model_name_or_path") or "").lower()
    return _first(frozenset({"base"}), [Named("base", base, ())]) or found or "unknown"


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
    return _first(frozenset({"words"}), [Named("words", words, ())])
