"""A whole adapter: its layers sorted into modules, and what is wrong with it."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from loracore.adapter.algorithms import UNSCALED, Form, Misfit, form_of, scale_of
from loracore.adapter.grouping import Group, group
from loracore.adapter.modules import Module
from loracore.adapter.peft import PeftConfig, diffusers_configs
from loracore.adapter.problems import Problem, Problems
from loracore.adapter.reading import TensorReader
from loracore.errors import ChangedFile, FileError, UnknownFormat
from loracore.names.blocks import block_of, order_key
from loracore.names.conventions.peft import PEFT_PREFIX
from loracore.names.keys import convention_of_file
from loracore.names.recognition import Named, family_of
from loracore.tensorfile import Layer
from loracore.tensorfile.peft import CONFIG, read_config, weight_file

if TYPE_CHECKING:
    from loracore.adapter.values import Array

#: Roles that make no module by themselves.
_BESIDE = frozenset({"alpha", "reshape_weight", "magnitude", "dora_scale", "rescale", "up_bias"})

#: What is said of a file in which nothing is an adapter.
NO_MODULE = "no module of any convention that is known"


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

    @property
    def layers(self) -> Mapping[str, Layer]:
        """All layers by name, those of no module too."""
        return self._reader.layers

    def stored(self, name: str) -> bytes:
        """A layer's bytes as they are stored: little-endian, in C order. Raises FileError."""
        return self._reader.stored(name)

    def values(self, name: str) -> Array:
        """A layer's values in float32, in its shape. Raises FileError."""
        return self._reader.read(name)

    def check_unchanged(self) -> None:
        """Raises ChangedFile where the file, or PEFT's configuration beside it, is not what was read."""
        self._reader.check_unchanged()
        if self.config and read_config(os.path.dirname(os.fsencode(self.path))) != self.config:
            raise ChangedFile(f"its {os.fsdecode(CONFIG)} changed while it was read; do it again", self.path)

    def sha256(self) -> str:
        """Of the file that is open. Raises FileError."""
        return self._reader.sha256()

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


def understood(layers: Iterable[Layer], peft: PeftConfig | None, problems: Problems) -> list[tuple[Group, Form]]:
    """Layers sorted into modules, each with its form, by names and shapes; what fits no form is a problem."""
    groups = group(layers, peft is not None, problems)
    # Most modules have the shapes of others.
    forms: dict[object, Form] = {}
    return [(found, form) for found in groups if (form := _form(found, peft, problems, forms)) is not None]


def _form(found: Group, peft: PeftConfig | None, problems: Problems, forms: dict[object, Form]) -> Form | None:
    transposed = _transposed(found, peft)
    key = (transposed, *((role, layer.shape) for role, layer in found.roles.items()))
    form = forms.get(key)
    if form is None:
        if found.roles.keys() <= _BESIDE:
            roles = " and ".join(sorted(found.roles))
            problems.error(found.stem, f"{roles} without factors", "modules without factors")
            return None
        try:
            form = forms[key] = form_of(found.roles, transposed)
        except Misfit as misfit:
            problems.error(found.stem, str(misfit), "modules that do not fit")
            return None
    if form.algorithm in {"full", "norm"} and found.roles.keys() <= {"diff_b", "b_norm", "bias"}:
        found.name += ".bias"
    return form


def _transposed(found: Group, peft: PeftConfig | None) -> bool:
    return peft is not None and peft.fan_in_fan_out and found.convention == "peft"


class _Reading:
    """The steps from layers to modules, and the problems found on the way."""

    def __init__(self, reader: TensorReader, config: dict[str, Any]) -> None:
        self.reader = reader
        self.config = config
        # `open_container` puts the configuration there; here it has its own place.
        self.metadata = {key: value for key, value in reader.container.metadata.items() if key != "adapter_config"}
        self.problems = Problems()
        self.peft = PeftConfig(config) if config else None
        self.parts = diffusers_configs(self.metadata)

    def adapter(self, path: str) -> Adapter:
        known = understood(self.reader.layers.values(), self.peft, self.problems)
        named = [Named(found.component, found.name, form.shape) for found, form in known]
        family = family_of(named, self.config, self.metadata)
        modules = [module for found, form in known if (module := self._module(found, form, family)) is not None]
        modules.sort(key=lambda module: order_key(module.component, module.name))
        convention = convention_of_file({found.convention for found, _ in known if found.convention})
        self._tell_of_the_whole(convention, [found for found, _ in known])
        if not modules:
            self.problems.error("", NO_MODULE)
        return Adapter(
            path, self.reader.container.format, convention, family, tuple(modules),
            self.metadata, self.config, self.problems.all(), self.reader,
        )  # fmt: skip

    def _tell_of_the_whole(self, convention: str, groups: list[Group]) -> None:
        if convention == "mixed":
            found = Counter(group.convention or "other" for group in groups)
            listed = ", ".join(f"{name} ({count} modules)" for name, count in found.most_common())
            self.problems.warn("", f"mixed naming conventions: {listed}")
        if convention == "peft" and not self.config and not self.parts:
            missing = os.fsdecode(CONFIG)
            self.problems.warn("", f"no {missing} beside it: the scale of modules without alpha is taken as 1")
        for config in (self.peft, *self.parts.values()):
            for text in config.problems if config else ():
                self.problems.warn("", text)

    def _module(self, found: Group, form: Form, family: str) -> Module | None:
        scale = self._scale(found, form)
        if scale is None:
            return None
        return Module(
            name=found.name,
            key=found.stem,
            algorithm=form.algorithm,
            block=block_of(found.component, found.name, family),
            component=found.component,
            rank=form.rank,
            alpha=scale[0],
            scale=scale[1],
            shape=form.shape,
            dtypes=frozenset(layer.dtype for layer in found.roles.values()),
            layers=found.roles,
            needs_base=form.needs_base,
            transposed=_transposed(found, self.peft) and len(form.shape) == 2,
            convention=found.convention,
            _reader=self.reader,
        )

    # Scales

    def _scale(self, found: Group, form: Form) -> tuple[float | None, float] | None:
        """(alpha, scale); None, and a problem, where there is none that could be used."""
        peft = self.peft or self.parts.get(found.stem.split(".", 1)[0])
        if peft is not None and "alpha" not in found.roles and found.convention in {"peft", "diffusers"}:
            return self._peft_scale(found, form, peft)
        alpha = self._alpha(found)
        if alpha is not None and not math.isfinite(alpha):
            self.problems.error(found.stem, f"alpha is {alpha}", "modules whose alpha is not finite")
            return None
        if alpha == 0 and form.algorithm not in UNSCALED:
            self.problems.warn(found.stem, "alpha is 0; taken as the rank, as its trainers do", "alpha is 0")
        return alpha, scale_of(form.algorithm, form.rank, alpha)

    def _peft_scale(self, found: Group, form: Form, peft: PeftConfig) -> tuple[float | None, float] | None:
        if form.algorithm in UNSCALED:
            return None, 1.0
        module = found.stem.removeprefix(PEFT_PREFIX)
        if self.peft is None:
            module = module.partition(".")[2]
        stated = peft.rank(module)
        # A LoKr with both parts whole has a scale all the same.
        rank = form.rank or stated
        if peft.targets and rank > stated and rank % stated == 0:
            text = f"experts stacked by target_parameters ({rank // stated} of rank {stated}) are not read"
            self.problems.error(found.stem, text, "stacked experts")
            return None
        return peft.scale(module, rank)

    def _alpha(self, found: Group) -> float | None:
        layer = found.roles.get("alpha")
        if layer is None:
            return None
        if math.prod(layer.shape) != 1:
            text = f"alpha has shape {list(layer.shape)}; the scale is taken as 1"
            self.problems.warn(found.stem, text, "alpha of several numbers")
            return None
        try:
            return self.reader.number(layer.name)
        except FileError as error:
            self.problems.warn(found.stem, f"alpha cannot be read: {error.reason}", "alpha cannot be read")
            return None
