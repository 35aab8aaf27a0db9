"""A whole adapter: its layers sorted into modules, and what is wrong with it."""

from __future__ import annotations

import math
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from loracore.adapter import names
from loracore.adapter.algorithms import Form, Misfit, form_of, scale_of
from loracore.adapter.families import Named, block_of, family_of, order_key
from loracore.adapter.modules import Module
from loracore.adapter.naming import Key, convention_of, convention_of_file, parse_key
from loracore.adapter.peft import PeftConfig, diffusers_configs
from loracore.adapter.reading import TensorReader
from loracore.errors import FileError, UnknownFormat
from loracore.tensorfile import Layer
from loracore.tensorfile.peft import CONFIG, read_config, weight_file

#: Problems of one kind that are told one by one; a hostile file has a hundred thousand.
_TOLD = 100
#: Tensors that are read at once: an alpha is one number.
_SMALL = 64


@dataclass(frozen=True)
class Problem:
    """Something that is wrong. `level` is "warning" or "error"; of an error's module nothing can be computed."""

    level: str
    module: str
    text: str


@dataclass(frozen=True)
class Adapter:
    """A LoRA file, read as far as its header and small tensors go. Its file stays open until `close`."""

    path: str
    format: str
    convention: str
    family: str
    modules: Sequence[Module]
    metadata: Mapping[str, str]
    config: Mapping[str, Any]
    problems: Sequence[Problem]
    _reader: TensorReader = field(repr=False, compare=False)

    def __enter__(self) -> Adapter:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Names and shapes remain; reading values raises FileError."""
        self._reader.close()


def read_adapter(path: str) -> Adapter:
    """Read the adapter at `path`: a file, or a PEFT folder.

    What cannot be used of it is in `problems`, and the rest is read.

    Raises:
        FileError: the file cannot be read at all; the error names it.
    """
    name, config = _weights_and_config(os.fsencode(path))
    reader = TensorReader(name, os.fsdecode(name))
    try:
        return _Reading(reader, config).adapter(os.fsdecode(name))
    except BaseException:
        reader.close()
        raise


def _weights_and_config(path: bytes) -> tuple[bytes, dict[str, Any]]:
    if not os.path.isdir(path):
        folder, base = os.path.split(path)
        beside = base.startswith(b"adapter_model.") and os.path.exists(os.path.join(folder, CONFIG))
        return path, read_config(folder) if beside else {}
    weights = weight_file(path)
    if weights is None:
        # PEFT saves an adapter that is not named "default" into a folder of its name.
        inner = sorted(entry.path for entry in os.scandir(path) if entry.is_dir() and weight_file(entry.path))
        if len(inner) != 1:
            found = f"; give one of {', '.join(map(os.fsdecode, inner[:5]))}" if inner else ""
            raise UnknownFormat(f"a folder without adapter_model.safetensors{found}", os.fsdecode(path))
        return _weights_and_config(inner[0])
    return weights, read_config(path) if os.path.exists(os.path.join(path, CONFIG)) else {}


@dataclass
class _Raw:
    """A module before it is understood: what stems and roles say."""

    stem: str
    convention: str
    roles: dict[str, Layer]
    component: str = ""
    name: str = ""
    form: Form | None = None


class _Reading:
    """The steps from layers to modules, and the problems found on the way."""

    def __init__(self, reader: TensorReader, config: dict[str, Any]) -> None:
        self.reader = reader
        self.config = config
        self.metadata = {key: value for key, value in reader.container.metadata.items() if key != "adapter_config"}
        self.problems: list[Problem] = []
        self._told: Counter[str] = Counter()
        self.peft = PeftConfig(config) if config else None
        self.parts = diffusers_configs(self.metadata)

    def adapter(self, path: str) -> Adapter:
        raws = self._grouped()
        self._name(raws)
        known = [raw for raw in raws if self._understood(raw)]
        family = family_of(
            [Named(raw.component, raw.name, raw.form.shape) for raw in known if raw.form],
            self.config,
            self.metadata,
        )
        modules = [module for raw in known if (module := self._module(raw, family)) is not None]
        modules.sort(key=lambda module: order_key(module.component, module.name))
        convention = convention_of_file({raw.convention for raw in known if raw.convention})
        if convention == "mixed":
            found = Counter(raw.convention or "other" for raw in known)
            listed = ", ".join(f"{name} ({count} modules)" for name, count in found.most_common())
            self._tell("warning", "", f"mixed naming conventions: {listed}")
        if not modules:
            self._tell("error", "", "no module of any convention that is known")
        for config in [self.peft, *self.parts.values()]:
            for text in config.problems if config else ():
                self._tell("warning", "", text)
        if convention == "peft" and not self.config and not self.parts:
            self._tell(
                "warning", "", f"no {os.fsdecode(CONFIG)} beside it: the scale of each module is taken as 1"
            )
        self._tell_counts()
        return Adapter(
            path, self.reader.container.format, convention, family, tuple(modules),
            self.metadata, self.config, tuple(self.problems), self.reader,
        )  # fmt: skip

    def _tell(self, level: str, module: str, text: str, kind: str = "") -> None:
        self._told[kind] += bool(kind)
        if self._told[kind] <= _TOLD or not kind:
            self.problems.append(Problem(level, module[:300], text))

    def _tell_counts(self) -> None:
        for kind, count in self._told.items():
            if kind and count > _TOLD:
                self.problems.append(Problem("warning", "", f"{count - _TOLD} more modules or keys: {kind}"))

    # Layers to modules

    def _grouped(self) -> list[_Raw]:
        """Layers by stem. Whole tensors count only where a file is known to have them."""
        groups: dict[str, _Raw] = {}
        plain: list[tuple[Key, Layer]] = []
        adapters: Counter[str] = Counter()
        keys: list[tuple[Key, Layer]] = []
        for layer in self.reader.layers.values():
            key = parse_key(layer.name)
            if key is None:
                if not _is_marker(layer):
                    self._tell("warning", layer.name, "a key of no known convention", "unknown keys")
            elif key.convention == "plain":
                plain.append((key, layer))
            else:
                adapters[key.adapter] += bool(key.adapter)
                keys.append((key, layer))
        chosen = self._chosen_adapter(adapters)
        for key, layer in keys:
            if key.adapter in ("", chosen):
                self._put(groups, key, layer)
        has_whole = bool(self.config) or "lora_controlnet" in self.reader.layers
        for given, layer in plain:
            # PEFT's `bias="lora_only"` saves the bias of the layer that it wraps.
            key = given._replace(stem=given.stem.removesuffix(".base_layer"))
            known = groups.get(key.stem)
            if known is not None and key.role == "weight" and "on_input" in known.roles:
                known.roles["weight"] = layer
            elif has_whole or key.stem.startswith("base_model.model."):
                self._put(groups, key._replace(convention=""), layer)
            else:
                self._tell("warning", layer.name, "a key of no known convention", "unknown keys")
        return list(groups.values())

    def _chosen_adapter(self, adapters: Counter[str]) -> str:
        found = sorted(name for name in adapters if name)
        if len(found) > 1:
            chosen = "default" if "default" in found else found[0]
            self._tell("warning", "", f"several adapters in one file: {', '.join(found[:10])}; {chosen!r} is read")
            return chosen
        return found[0] if found else ""

    def _put(self, groups: dict[str, _Raw], key: Key, layer: Layer) -> None:
        raw = groups.get(key.stem)
        if raw is None:
            raw = groups[key.stem] = _Raw(key.stem, "", {})
        if key.role in raw.roles:
            self._tell("warning", key.stem, f"{layer.name!r} is a second {key.role}; the first is used", "doubles")
            return
        raw.roles[key.role] = layer
        raw.convention = raw.convention or convention_of(key, bool(self.config))

    # Names

    def _name(self, raws: list[_Raw]) -> None:
        peft = bool(self.config) or any(raw.stem.startswith("base_model.model.") for raw in raws)
        underscored: dict[str, list[tuple[_Raw, str]]] = defaultdict(list)
        for raw in raws:
            component, rest, flat = names.split_stem(raw.stem, peft)
            if flat:
                underscored["te" if component.startswith("te") else ""].append((raw, rest))
                raw.component, raw.name = component, raw.stem
            else:
                raw.component, raw.name = names.canonical(component, rest)
        for kind, found in underscored.items():
            known = names.dotted((rest for _, rest in found), kind)
            for raw, rest in found:
                if rest in known:
                    raw.component, raw.name = names.canonical(raw.component, known[rest])
        taken: set[tuple[str, str]] = set()
        for raw in raws:
            if (raw.component, raw.name) in taken:
                self._tell(
                    "warning", raw.stem, f"a second module for {raw.name!r}", "modules that are there twice"
                )
                raw.name = raw.stem
            taken.add((raw.component, raw.name))

    # Modules

    def _understood(self, raw: _Raw) -> bool:
        if set(raw.roles) <= {"alpha", "reshape_weight"} or raw.roles.keys() <= {
            "magnitude",
            "dora_scale",
            "alpha",
        }:
            self._tell("error", raw.stem, f"{' and '.join(sorted(raw.roles))} without factors", "alpha alone")
            return False
        try:
            raw.form = form_of(raw.roles, self._transposed(raw))
        except Misfit as misfit:
            self._tell("error", raw.stem, str(misfit), "modules that do not fit")
            return False
        if raw.form.algorithm in {"full", "norm"} and raw.roles.keys() <= {"diff_b", "b_norm", "bias"}:
            raw.name += ".bias"
        return True

    def _transposed(self, raw: _Raw) -> bool:
        return self.peft is not None and self.peft.fan_in_fan_out and raw.convention == "peft"

    def _module(self, raw: _Raw, family: str) -> Module | None:
        form = raw.form
        assert form is not None
        peft = self._peft_of(raw)
        if peft is not None and "alpha" not in raw.roles and raw.convention in {"peft", "diffusers"}:
            found = self._peft_scale(raw, form, peft)
            if found is None:
                return None
            alpha, scale = found
        else:
            alpha = self._alpha(raw)
            if alpha is not None and not math.isfinite(alpha):
                self._tell("error", raw.stem, f"alpha is {alpha}", "alpha is not finite")
                return None
            if alpha == 0 and form.rank is not None:
                self._tell("warning", raw.stem, "alpha is 0; taken as the rank, as its trainers do", "alpha is 0")
            scale = scale_of(form.algorithm, raw.roles, form.rank, alpha)
        transposed = self._transposed(raw) and len(form.shape) == 2
        return Module(
            raw.name, raw.stem, form.algorithm, block_of(raw.component, raw.name, family), raw.component,
            form.rank, alpha, scale, form.shape, frozenset(layer.dtype for layer in raw.roles.values()),
            raw.roles, form.needs_base, transposed, raw.convention, self.reader,
        )  # fmt: skip

    def _peft_of(self, raw: _Raw) -> PeftConfig | None:
        if self.peft is not None or not self.parts:
            return self.peft
        return self.parts.get(raw.stem.split(".", 1)[0])

    def _peft_scale(self, raw: _Raw, form: Form, peft: PeftConfig) -> tuple[float | None, float] | None:
        if form.algorithm in {"full", "norm", "oft", "ia3"}:
            return None, 1.0
        module = raw.stem.removeprefix("base_model.model.")
        if self.peft is None:
            module = module.partition(".")[2]
        stated = peft.scale(module, form.rank or 1).rank
        rank = form.rank or max(1, stated)
        if peft.targets and stated and rank > stated and rank % stated == 0:
            text = f"stacked experts (target_parameters, {rank // stated} of rank {stated}) are not read"
            self._tell("error", raw.stem, text, "stacked experts")
            return None
        found = peft.scale(module, rank)
        return found.alpha, found.scale

    def _alpha(self, raw: _Raw) -> float | None:
        layer = raw.roles.get("alpha")
        if layer is None:
            return None
        if math.prod(layer.shape) != 1 or layer.nbytes > _SMALL:
            self._tell(
                "warning",
                raw.stem,
                f"alpha has shape {list(layer.shape)}; the scale is taken as 1",
                "alpha's shape",
            )
            return None
        try:
            return float(self.reader.read(layer.name, np.float64).reshape(()))
        except FileError as error:
            self._tell("warning", raw.stem, f"alpha cannot be read: {error.reason}", "alpha cannot be read")
            return None


def _is_marker(layer: Layer) -> bool:
    """Keys that say what a file is and hold nothing."""
    return layer.name == "lora_controlnet"
