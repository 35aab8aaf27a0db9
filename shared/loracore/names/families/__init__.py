"""One record a base family: a module here holds all that is known of one, as `FAMILIES`.

A new family is a new module; nothing else lists them. Their type is `loracore.names.family`, what is asked of them
`loracore.names.{recognition,canonical,originals}`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import TopologicalSorter
from importlib import import_module
from itertools import pairwise
from pkgutil import iter_modules

from loracore.names.family import Family


@cache
def families() -> Mapping[str, Family]:
    """All families by name. Read at first use: what parses keys alone does without them."""
    modules = sorted(module.name for module in iter_modules(__path__))
    found = [family for name in modules for family in import_module(f"{__name__}.{name}").FAMILIES]
    return {family.name: family for family in found}


def family_named(name: str) -> Family:
    """The record of a family; that of "unknown" where there is none of this name."""
    found = families()
    return found.get(name) or found["unknown"]


def _of(component: str) -> Iterator[Family]:
    return (family for family in families().values() if family.component == component)


@cache
def heads(component: str) -> frozenset[str]:
    """First parts of names that a module of a UNet, or of a transformer, is known by."""
    return frozenset().union(*(family.heads for family in _of(component)))


@cache
def positions() -> Mapping[str, int]:
    """First parts of names, numbered as data passes them. Raises CycleError where families contradict."""
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for order in dict.fromkeys(family.order for family in families().values()):
        for before, after in pairwise(order):
            sorter.add(after, before)
    return {head: number for number, head in enumerate(sorter.static_order(), 1)}


@cache
def pattern(field: str) -> re.Pattern[str]:
    """Any family's regular expression of this field: `own`, `inside` or `only_original`."""
    parts = (getattr(family, field) for family in families().values())
    return re.compile("|".join(f"(?:{part})" for part in parts if part))


@cache
def starts() -> tuple[str, ...]:
    """Beginnings of language models' names that are no prefix."""
    return tuple(sorted({f"transformer.{start}" for family in _of("llm") for start in family.starts}))


@cache
def prefixes(component: str) -> tuple[str, ...]:
    """What may stand before a component's names in a checkpoint of one file."""
    found = dict.fromkeys(
        prefix for family in families().values() for prefix in family.prefixes.get(component, ())
    )
    return (*found, f"{component}.", "")


@cache
def tables(*components: str) -> tuple[Mapping[str, str], ...]:
    """Underscored template to dotted template: a table for each family of these components, and each naming."""
    names = dict.fromkeys(
        listed
        for component in components
        for family in _of(component)
        for listed in (family.original, family.diffusers)
        if listed
    )
    return tuple({name.replace(".", "_"): name for name in listed} for listed in names)
