"""What a key says: which module (its stem), which role the tensor has in it, and which convention names it so."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from loracore.names.conventions import CONVENTIONS, beginning
from loracore.names.conventions.peft import PEFT_PREFIX


class Key(NamedTuple):
    """A key taken apart.

    `convention` is "" for roles that several share, and "plain" for whole tensors, which only some files have a
    use for; `adapter` is PEFT's adapter name.
    """

    stem: str
    role: str
    convention: str = ""
    adapter: str = ""


#: Suffixes to role and convention: of all conventions.
_SUFFIXES: Mapping[str, tuple[str, str]] = {
    suffix.text: (suffix.role, convention.name)
    for convention in CONVENTIONS.values()
    for suffix in convention.suffixes
}
#: Layouts of one model share the names of their layers; so many, of up to so many characters, are kept at hand.
_KEYS, _LENGTH = 1 << 14, 256
_FORMS = tuple((convention.form, convention.name) for convention in CONVENTIONS.values() if convention.form)


def parse_key(name: str) -> Key | None:
    """Take a layer's name apart; None where no convention knows it."""
    return _parsed_once(name) if len(name) <= _LENGTH else _parsed(name)


def _parsed(name: str) -> Key | None:
    one = name.rfind(".")
    two = name.rfind(".", 0, one)
    for dot in (name.rfind(".", 0, two), two, one):
        # The longest suffix first, behind a stem that is not empty.
        if dot > 0 and (known := _SUFFIXES.get(name[dot + 1 :])) is not None:
            return Key(name[:dot], *known)
    for form, convention in _FORMS:
        if (match := form.fullmatch(name)) is not None:
            return _formed(match.groupdict(), match.lastgroup or "", convention)
    stem, _, last = name.rpartition(".")
    return Key(stem, last, "plain") if stem and last in {"weight", "bias"} else None


_parsed_once = lru_cache(_KEYS)(_parsed)


def forget_names() -> None:
    """Take names apart anew, for measurements."""
    _parsed_once.cache_clear()


def _formed(groups: Mapping[str, str | None], last: str, convention: str) -> Key | None:
    """The key that a convention's `form` has found the parts of."""
    stem, suffix = groups["stem"] or "", groups.get("suffix")
    if suffix is None:
        return Key(stem, last, convention)
    what, adapter = groups["what"] or "", groups["adapter"] or ""
    if suffix == "modules_to_save":
        return Key(stem, what[1:], convention, adapter) if what else None
    found = _SUFFIXES.get(suffix + (what if what == ".bias" else "")) or _SUFFIXES.get(suffix)
    return Key(stem, found[0], convention, adapter) if found else None


def convention_of(key: Key, has_config: bool) -> str:
    """PEFT's names are also those of newer diffusers, which has other prefixes and no `adapter_config.json`."""
    if key.convention == "peft" and not has_config and not key.stem.startswith(PEFT_PREFIX):
        return "diffusers" if _DIFFUSERS.match(key.stem) else "peft"
    if key.convention == "lycoris" and has_config:
        return "peft"
    return key.convention


_DIFFUSERS = beginning((prefix.text for prefix in CONVENTIONS["diffusers"].prefixes), any_number=True)


def convention_of_file(found: set[str]) -> str:
    """One word for the conventions of all modules: "mixed" where they do not belong together."""
    if len(found) < 2:
        return next(iter(found), "unknown")
    joined = (name for name, each in CONVENTIONS.items() if name in found and found == {name} | each.joins)
    return next(joined, "mixed")
