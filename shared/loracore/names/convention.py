"""What is known of a naming convention: the type of the tables in `loracore.names.conventions`.

A key is a stem, which names a module, and behind it a suffix, which names the tensor's role.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

import msgspec

from loracore.errors import UsageError
from loracore.names.families import pattern
from loracore.names.family import Family


class Nameless(UsageError):
    """A convention has no name for a module, or for one of its tensors; the text says for which, and why."""


class Suffix(msgspec.Struct, frozen=True):
    """What follows the stem and a dot, its role, and for which components it is written; all are read."""

    text: str
    role: str
    written: Literal["always", "text", "denoiser", "never"] = "always"


class Prefix(msgspec.Struct, frozen=True):
    """What stands before a module's name, the component that it says, and those that it is written for."""

    text: str
    component: str
    written: tuple[str, ...] = ()


class Convention(msgspec.Struct, frozen=True, kw_only=True):
    """A naming convention. `name` is "" for what several share."""

    name: str
    suffixes: tuple[Suffix, ...] = ()
    prefixes: tuple[Prefix, ...] = ()
    #: Suffixes of others that it writes, too.
    borrowed: tuple[Suffix, ...] = ()
    #: Keys that are no stem and suffix: groups `stem`, and `role` or `suffix`; `adapter` is PEFT's adapter name.
    form: re.Pattern[str] | None = None
    #: Conventions whose modules in one file with this one's are this one's.
    joins: frozenset[str] = frozenset()
    #: The stem of a module by component, canonical name and family; None where it is only read. Raises Nameless.
    stem: Callable[[str, str, Family], str] | None = None
    #: Whether its modules are the original model's, with fused projections, where diffusers has others.
    is_original: bool = False
    #: Whether it has names for stems that no table knows, which are its own.
    keeps_stems: bool = False

    def suffix(self, role: str, component: str = "") -> str:
        """What follows the stem in the name of the tensor that has this role. Raises Nameless."""
        kinds = ("always", "text" if component.startswith("te") else "denoiser")
        for suffix in (*self.suffixes, *self.borrowed):
            if suffix.role == role and suffix.written in kinds:
                return f".{suffix.text}"
        raise Nameless(f"{self.name} has no name for {role}")

    def has(self, role: str, component: str = "") -> bool:
        """Whether it has a name for the tensor that has this role."""
        kinds = ("always", "text" if component.startswith("te") else "denoiser")
        return any(each.role == role and each.written in kinds for each in (*self.suffixes, *self.borrowed))

    def prefix(self, component: str) -> str | None:
        """What is written before the name of a module of this component."""
        return next((prefix.text for prefix in self.prefixes if component in prefix.written), None)

    def lent(self, *roles: str, written: Literal["always", "denoiser"] = "always") -> tuple[Suffix, ...]:
        """The suffixes that it writes, for another convention; of these roles, or of all."""
        return tuple(
            Suffix(suffix.text, suffix.role, written)
            for suffix in self.suffixes
            if suffix.written == "always" and (not roles or suffix.role in roles)
        )


def model_name(component: str, name: str, family: Family) -> str:
    """The module's name in the model of diffusers or transformers. Raises Nameless."""
    if component.startswith("te"):
        return name.removeprefix(f"{component}.")
    if component != "transformer":
        return name
    pieces = family.pieces(name)
    if pieces is None:
        if pattern("only_original").match(name):
            raise Nameless(f"{name!r} of family {family.name} has no name in diffusers that is known here")
        return name
    if len(pieces) > 1:
        listed = ", ".join(piece.name for piece in pieces)
        raise Nameless(f"{name!r} is {len(pieces)} modules in diffusers: {listed}")
    return pieces[0].name


def bare(component: str, name: str) -> str:
    """The name by which PEFT's patterns find a module in every version of its model.

    transformers 5 has dropped `text_model` from the names in CLIP's text model.
    """
    return name.removeprefix(f"{component}.").removeprefix("text_model.") if component.startswith("te") else name
