"""Find the adapter of a language model that is meant by a name: `loractl.resolve`, and `resolve` of both clients.

What a name may be is in `loractl.adapter_names`; the first kind of name that files for the base model have
decides. Several files are one adapter where they are duplicates of one function, and an error otherwise.

What the daemon says of a file is held against the disk before it is used. What is not a PEFT folder yet is made
one by `loractl.converted`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal

import msgspec

from loracore import control
from loracore.errors import AmbiguousError, ChangedFile, FileError, NoAdapterError
from loracore.names.recognition import Shown, stated_family
from loracore.paths import AnyPath, shown
from loractl.adapter_config import is_uniform, read_config
from loractl.adapter_names import Hit, Kind, checked, hits_of, kinds
from loractl.converted import converted
from loractl.steps import Steps, ask

#: How well it fits the base model that was asked for: none was; it states that one; it is one of the same family.
Fit = Literal["any", "base", "family"]

#: A base model's name of so many characters may be the beginning of a longer one, in facts.
_CUT = 300
#: Files that a message names.
_NAMED = 10


class Resolved(msgspec.Struct, frozen=True):
    """An adapter that can be loaded.

    `path`: a PEFT folder. `name`: what was asked for, found as a `kind`. `base`: the base model that its file
    states, which fits as `fit` says. `source`: the weight file in the library. `converted`: the folder is a copy
    in the cache. `uniform`: `lora_alpha / r` of its configuration (rsLoRA: by √r) is the scale of all its modules;
    readers that know no patterns, as vLLM, would apply another function otherwise.
    """

    path: str
    name: str
    kind: Kind
    base: str | None
    fit: Fit
    source: str
    converted: bool
    uniform: bool


def resolving(name: str, base: str | None, cache: AnyPath | None, timeout: float | None) -> Steps[Resolved]:
    """The steps of `resolve`."""
    wanted = checked(name, "a name of an adapter")
    if ".." in wanted.split("/"):
        raise NoAdapterError(f"{shown(wanted[:60])}: a name of an adapter has not '..' in it")
    base = None if base is None else checked(base, "a name of a base model")
    others: dict[bytes, Hit] = {}
    for kind in kinds(wanted):
        hits = yield from hits_of(kind, wanted, timeout)
        fitting, fit = _fitting(hits, base)
        if fitting:
            hit = yield from _one(wanted, fitting, timeout)
            config = _checked_file(hit)
            folder = hit.folder or os.fsencode((yield from _converted(hit, cache, timeout)))
            config = config if hit.folder else read_config(folder)
            return Resolved(
                path=os.fsdecode(folder),
                name=wanted,
                kind=kind,
                base=hit.facts.base,
                fit=fit,
                source=os.fsdecode(hit.path),
                converted=not hit.folder,
                uniform=is_uniform(config),
            )
        others.update((hit.path, hit) for hit in hits)
    raise NoAdapterError(_nothing(wanted, base, list(others.values())))


def _fitting(hits: Sequence[Hit], base: str | None) -> tuple[list[Hit], Fit]:
    """Those for the base model: that state it as a whole, or by its last part, or that are of its family."""
    if base is None:
        return list(hits), "any"
    whole = base.casefold()
    last = os.path.basename(whole)
    stated = [(hit, (hit.facts.base or "").casefold().rstrip("/")) for hit in hits]
    exact = [hit for hit, text in stated if text == whole]
    exact = exact or [hit for hit, text in stated if os.path.basename(text) == last]
    if exact:
        return exact, "base"
    family = _family(base)
    return [hit for hit in hits if family and hit.facts.family == family], "family"


def _family(base: str) -> str:
    """The family of a language model by its name; empty where it does not tell."""
    family = stated_family(Shown("", language=True), {"base_model_name_or_path": base}, {})
    return "" if family == "unknown" else family


def _one(wanted: str, hits: Sequence[Hit], timeout: float | None) -> Steps[Hit]:
    """One of files of one function: a PEFT folder first, then the kept one. Raises AmbiguousError."""
    if len(hits) == 1:
        return hits[0]
    first = yield from ask(control.Show(hits[0].path), control.Shown, timeout)
    same = {path for path, _ in first.duplicates} | {first.kept}
    if not {hit.path for hit in hits} <= same - set(first.differing):
        text = f"{shown(wanted)}: files of different functions have this name; give a path, or a hash:"
        raise AmbiguousError(text, sorted(_told(hit) for hit in hits))
    return min(hits, key=lambda hit: (not hit.folder, hit.path != first.kept, hit.path))


def _told(hit: Hit) -> str:
    facts = hit.facts
    made_for = facts.base or facts.family
    return f"{shown(hit.place)}{f' (for {shown(made_for)})' if made_for else ''}"


def _nothing(wanted: str, base: str | None, others: Sequence[Hit]) -> str:
    if not others:
        return f"{shown(wanted)}: no adapter in lorad's library has this path, name, title, trigger word or hash"
    listed = sorted(_told(hit) for hit in others)
    more = [f"and {len(listed) - _NAMED:,} more"] if len(listed) > _NAMED else []
    return "\n  ".join(
        [f"{shown(wanted)}: none of this name is for {shown(base or '')}:", *listed[:_NAMED], *more]
    )


def _checked_file(hit: Hit) -> dict[str, object]:
    """The configuration of a PEFT folder, empty for a file. Raises FileError for what is no adapter."""
    place, facts = hit.place, hit.facts
    _check_unchanged(hit)
    if hit.state == "pending" and not facts.modules:
        raise ChangedFile("lorad has not read it yet; ask again after `loractl wait`", place)
    if hit.state == "failed" or not facts.sound:
        raise FileError(facts.problem or f"it cannot be read; see `loractl show {shown(hit.path)}`", place)
    config = _config(hit) if hit.folder else {}
    if set(facts.components) != {"llm"} and config.get("task_type") != "CAUSAL_LM":
        made_for = facts.family or ", ".join(facts.components) or "an unknown model"
        raise FileError(f"a LoRA for {made_for} is no adapter of a language model", place)
    return config


def _converted(hit: Hit, cache: AnyPath | None, timeout: float | None) -> Steps[str]:
    if hit.facts.convention == "peft":
        text = "its scale is not known: PEFT states it in an adapter_config.json beside the weights"
        raise FileError(text, hit.place)
    return converted(hit.path, lambda: _check_unchanged(hit), cache, timeout)


def _check_unchanged(hit: Hit) -> None:
    """Raises ChangedFile where the file is not the one that the daemon knows."""
    try:
        found = os.stat(hit.path)
    except OSError as error:
        raise ChangedFile(f"lorad knows it, but it cannot be found here: {error.strerror}", hit.place) from error
    if (found.st_size, found.st_mtime_ns) != (hit.size, hit.mtime_ns):
        raise ChangedFile("it was changed since lorad read it; ask again after `loractl wait`", hit.place)


def _config(hit: Hit) -> dict[str, object]:
    """The configuration of a PEFT folder, as it is now. Raises FileError where it is not what the daemon knows."""
    try:
        config: dict[str, object] = read_config(hit.folder)
    except FileError as error:
        raise FileError(f"its adapter_config.json cannot be read: {error.reason}", hit.place) from error
    if (type_ := config.get("peft_type")) != "LORA":
        raise FileError(f"it is no LoRA: its adapter_config.json has the peft_type {str(type_)[:40]!r}", hit.place)
    stated, known = str(config.get("base_model_name_or_path") or "").strip(), hit.facts.base or ""
    if stated and stated != known and not (len(known) >= _CUT and stated.startswith(known)):
        raise ChangedFile("its adapter_config.json was changed; ask again after `loractl wait`", hit.place)
    return config
