"""Canonical names: component and dotted module name of a stem.

Underscored names are mapped forward from the models' real module names (`loracore.names.families`): an
underscored stem is looked up among the underscored forms of these. Nothing is guessed from underscores; what no
table knows keeps its stem.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from itertools import chain, zip_longest

from loracore.names import unet
from loracore.names.conventions import PREFIXES, UNDERSCORED, beginning
from loracore.names.conventions.peft import PEFT_PREFIX
from loracore.names.families import heads, pattern, starts, tables

_UNDERSCORED = beginning(UNDERSCORED)
_DOTTED = beginning(prefix for prefix in PREFIXES if prefix not in UNDERSCORED)
#: Many files have the same names; those of so many, of up to so many characters, are kept at hand.
_FILES, _LENGTH = 64, 1 << 18
_NUMBER = re.compile(r"(?<![^_])(\d+)(?![^_])")


def names(stems: tuple[str, ...], peft: bool) -> tuple[tuple[str, str], ...]:
    """Component and canonical name of all stems of a file; for `peft` see `split_stem`."""
    return _named_once(stems, peft) if sum(map(len, stems)) <= _LENGTH else _named(stems, peft)


def _named(stems: tuple[str, ...], peft: bool) -> tuple[tuple[str, str], ...]:
    found = [split_stem(stem, peft) for stem in stems]
    known = {
        kind: dotted((rest for component, rest, flat in found if flat and _kind(component) == kind), kind)
        for kind in {_kind(component) for component, _, flat in found if flat}
    }
    named = []
    for stem, (component, rest, flat) in zip(stems, found, strict=True):
        name = known[_kind(component)].get(rest) if flat else rest
        named.append((component, stem) if name is None else canonical(component, name))
    return tuple(named)


_named_once = lru_cache(_FILES)(_named)


def forget_names() -> None:
    """Find names anew, for measurements."""
    _named_once.cache_clear()


def _kind(component: str) -> str:
    return "te" if component.startswith("te") else ""


def split_stem(stem: str, peft: bool) -> tuple[str, str, bool]:
    """Component, name without its prefix, and whether the name is underscored.

    `peft` says that the file is PEFT's, where a name without a known beginning is a language model's.
    """
    if "." not in stem:
        if (found := _UNDERSCORED.match(stem)) is not None:
            return PREFIXES[found[0]], stem[found.end() :], True
        return _component_of(stem, peft), stem, False
    if stem.startswith(PEFT_PREFIX):
        return _component_of(stem[len(PEFT_PREFIX) :], True), stem[len(PEFT_PREFIX) :], False
    found = _DOTTED.match(stem)
    if found is not None and (
        not stem.startswith(starts()) or pattern("own").match(stem.removeprefix("transformer."))
    ):
        return PREFIXES[found[0]], stem[found.end() :], False
    return _component_of(stem, peft), stem, False


def _component_of(name: str, peft: bool) -> str:
    head = name.split(".", 1)[0]
    if head in heads("unet"):
        return "unet"
    if head == "text_model" or name.startswith(("encoder.block.", "encoder.layers.")):
        return "te3" if name.startswith("encoder.block.") and not peft else "te1"
    if head in heads("transformer") or pattern("inside").search(name):
        return "transformer"
    return "llm" if peft or _LANGUAGE.search(name) else "transformer"


_LANGUAGE = re.compile(
    r"(^|\.)(model\.layers|h|gpt_neox\.layers|decoder\.layers|self_attn|lm_head|embed_tokens)(\.|$)"
)


def dotted(names: Iterable[str], component: str) -> dict[str, str]:
    """Dotted names of those underscored `names` of one component that a table knows.

    Several architectures have names that differ in dots alone (`img_attn.qkv`, `img_attn_qkv`): the one that
    knows most of the file's names is asked first.
    """
    # What stands between numbers, and the numbers, in turn.
    parts = {name: _NUMBER.split(name) for name in names}
    templates = {name: "#".join(found[::2]) for name, found in parts.items()}
    wanted = set(templates.values())
    known = tables("te", "llm") if component.startswith("te") else tables("unet", "transformer", "llm")
    ranked = sorted(known, key=lambda table: -len(wanted & table.keys()))
    forms: dict[str, list[str]] = {}
    for table in ranked:
        for template in wanted & table.keys() - forms.keys():
            forms[template] = table[template].split("#")
    return {
        name: "".join(chain(*zip_longest(forms[template], parts[name][1::2], fillvalue="")))
        for name, template in templates.items()
        if template in forms
    }


def canonical(component: str, name: str) -> tuple[str, str]:
    """Component and canonical name of a dotted name: UNets get diffusers' names, text encoders one beginning."""
    name = name.replace(".processor.", ".")
    if name.endswith("_lora"):
        name = _processor(name[: -len("_lora")], component)
    if component in {"unet", "transformer"}:
        head = name.split(".", 1)[0]
        if head in heads("unet") and not pattern("own").match(name):
            return "unet", unet.from_original(name)
        language = component == "unet" and head not in heads("transformer") and _LANGUAGE.search(name)
        return "llm" if language else "transformer", name
    if component.startswith("te"):
        return component, f"{component}.{'text_model.' if name.startswith('encoder.layers.') else ''}{name}"
    return component, name


def _processor(name: str, component: str) -> str:
    """The module that an attention processor's factor adapts; `to_out` is a list in a UNet."""
    if component.startswith("te"):
        stem, _, last = name.rpartition(".")
        return f"{stem}.{last.replace('to_', '')}_proj"
    return f"{name}.0" if name.endswith(".to_out") else name
