"""Layers sorted into modules by what their keys say, before anything is known of shapes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from loracore.adapter.problems import Problems
from loracore.names import canonical
from loracore.names.conventions.peft import PEFT_PREFIX
from loracore.names.keys import Key, convention_of, parse_key
from loracore.tensorfile import Layer

#: An empty tensor that says what the file is (Stability's Control-LoRA).
_CONTROL_LORA = "lora_controlnet"


@dataclass
class Group:
    """A module before it is understood: what stem and roles say."""

    stem: str
    convention: str
    roles: dict[str, Layer]
    component: str = ""
    name: str = ""


def group(layers: Iterable[Layer], has_config: bool, problems: Problems) -> list[Group]:
    """Layers by stem, and canonical names for the stems.

    Whole weights and biases count only in files that are known to have them: PEFT's, and Control-LoRAs.
    """
    groups: dict[str, Group] = {}
    keys: list[tuple[Key, Layer]] = []
    plain: list[tuple[Key, Layer]] = []
    has_whole = has_config
    for layer in layers:
        key = parse_key(layer.name)
        if layer.name == _CONTROL_LORA:
            has_whole = True
        elif key is None:
            _unknown(problems, layer)
        else:
            (plain if key.convention == "plain" else keys).append((key, layer))
    chosen = _chosen_adapter({key.adapter for key, _ in keys}, problems)
    for key, layer in keys:
        if key.adapter in {"", chosen}:
            _put(groups, key, layer, has_config, problems)
    for given, layer in plain:
        # PEFT's `bias="lora_only"` saves the bias of the layer that it wraps.
        key = given._replace(stem=given.stem.removesuffix(".base_layer"), convention="")
        known = groups.get(key.stem)
        on_input = known is not None and key.role == "weight" and "on_input" in known.roles
        if on_input or has_whole or key.stem.startswith(PEFT_PREFIX):
            _put(groups, key, layer, has_config, problems)
        else:
            _unknown(problems, layer)
    found = list(groups.values())
    _name(found, has_config, problems)
    return found


def _unknown(problems: Problems, layer: Layer) -> None:
    problems.warn(layer.name, "a key of no known convention", "unknown keys")


def _chosen_adapter(adapters: set[str], problems: Problems) -> str:
    found = sorted(adapters - {""})
    if not found:
        return ""
    chosen = "default" if "default" in found else found[0]
    if len(found) > 1:
        problems.warn("", f"several adapters in one file: {', '.join(found[:10])}; {chosen!r} is read")
    return chosen


def _put(groups: dict[str, Group], key: Key, layer: Layer, has_config: bool, problems: Problems) -> None:
    found = groups.get(key.stem)
    if found is None:
        found = groups[key.stem] = Group(key.stem, "", {})
    if key.role in found.roles:
        problems.warn(key.stem, f"{layer.name!r} is a second {key.role}; the first is used", "keys twice")
        return
    found.roles[key.role] = layer
    if not found.convention:
        found.convention = convention_of(key, has_config)


def _name(groups: list[Group], has_config: bool, problems: Problems) -> None:
    peft = has_config or any(group.stem.startswith(PEFT_PREFIX) for group in groups)
    taken: set[tuple[str, str]] = set()
    for group, named in zip(groups, canonical.names(tuple(group.stem for group in groups), peft), strict=True):
        group.component, group.name = named
        if named in taken:
            problems.warn(group.stem, f"a second module for {group.name!r}", "modules twice")
            group.name = group.stem
        taken.add((group.component, group.name))
