"""One table a naming convention, for reading and for writing: a module here holds all that is known of one.

A new convention is a new module with `CONVENTIONS`. Nothing else lists them, but `loracore.jobs.convert` those
that can be asked for. Their type is `loracore.names.convention`; keys are read by `loracore.names.keys`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from loracore.errors import UsageError
from loracore.names.convention import Convention, Nameless, bare
from loracore.names.families import family_named

__all__ = [
    "CONVENTIONS", "PREFIXES", "UNDERSCORED", "Nameless", "bare", "beginning", "key_of", "naming", "suffix_of",
    "written",
]  # fmt: skip

_MODULES = sorted(module.name for module in iter_modules(__path__))
CONVENTIONS: Mapping[str, Convention] = {
    convention.name: convention
    for module in _MODULES
    for convention in import_module(f"{__name__}.{module}").CONVENTIONS
}
#: What stands before a module's name, to its component: of all conventions.
PREFIXES: Mapping[str, str] = {
    prefix.text: prefix.component for convention in CONVENTIONS.values() for prefix in convention.prefixes
}


def beginning(prefixes: Iterable[str], *, any_number: bool = False) -> re.Pattern[str]:
    """Matches what begins with one of these, the longest first; or with one of another number."""
    longest = (re.escape(prefix) for prefix in sorted(prefixes, key=len, reverse=True))
    return re.compile("|".join(re.sub(r"\d", r"\\d", prefix) if any_number else prefix for prefix in longest))


UNDERSCORED = tuple(prefix for prefix in PREFIXES if prefix.endswith("_"))
#: Stems of which no table knows the real name keep their form (`loracore.names.canonical`).
_STEM = re.compile(rf"(?:{beginning(UNDERSCORED, any_number=True).pattern})[^.]+$")


def naming(convention: str) -> Convention:
    """The convention of this name that can be written. Raises UsageError."""
    found = CONVENTIONS.get(convention)
    if found is None or found.stem is None:
        *others, last = written()
        raise UsageError(f"there is no naming convention {convention!r}; there are {', '.join(others)} and {last}")
    return found


@cache
def written() -> tuple[str, ...]:
    """Conventions that can be written."""
    return tuple(name for name, convention in CONVENTIONS.items() if convention.stem is not None)


def key_of(convention: str, component: str, name: str, family: str) -> str:
    """The stem under which a convention names the module with the canonical (component, name).

    A module that another convention cuts or joins (a fused projection) has no single name there.

    Raises:
        Nameless: the convention has no name for it.
    """
    found = naming(convention)
    assert found.stem is not None
    if not _STEM.match(name):
        return found.stem(component, name, family_named(family))
    if not found.keeps_stems:
        raise Nameless(f"{name!r}: no model that is known here has a module of this name")
    return name


def suffix_of(convention: str, role: str, component: str = "") -> str:
    """What follows the stem in the name of the tensor that has this role. Raises Nameless."""
    return naming(convention).suffix(role, component)
