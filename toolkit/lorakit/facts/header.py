"""The facts of one file, from its header, and the `adapter_config.json` and the model card beside it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from loracore.adapter.adapter import NO_MODULE, understood
from loracore.adapter.function import config_text
from loracore.adapter.peft import PeftConfig
from loracore.adapter.problems import Problems
from loracore.causes import explained
from loracore.facts import Facts
from loracore.names.keys import convention_of_file
from loracore.names.recognition import Named, Shown, shown_family, stated_family
from loracore.tensorfile import Container, Layer, Layout
from lorakit.facts import described
from lorakit.facts.claims import ALPHAS, RANKS, disagreements
from lorakit.facts.stated import Statements, statements
from lorakit.facts.training import saved_after, training_info

#: Layouts whose facts are kept at hand.
_LAYOUTS = 1024
#: Characters of a text, trigger words, and tags that are kept.
_TEXT, _TRIGGERS, _TAGS = 300, 20, 20


class _Shapes(NamedTuple):
    """What follows from names and shapes alone, and so is the same for all files of a layout."""

    family: Shown
    algorithm: str | None
    convention: str | None
    ranks: tuple[int, ...]
    modules: int
    components: tuple[str, ...]
    dtype: str | None
    sound: bool
    problem: str | None


def facts(container: Container, path: bytes) -> Facts:
    """What is known of the file at `path` by its header. Only what an adapter has beside it is read besides."""
    config, wrong = _config(path)
    shapes = _shapes_of(container.layout, config)
    stated = statements(container.metadata, config, path)
    training = training_info(stated, None)
    epoch, steps = saved_after(stated)
    family = stated_family(shapes.family, config, container.metadata)
    lies = next(disagreements(stated, RANKS, "rank", shapes.ranks), None)
    return Facts(
        family=None if family == "unknown" else family,
        algorithm=shapes.algorithm,
        convention=shapes.convention,
        rank=max(shapes.ranks, default=None),
        min_rank=min(shapes.ranks, default=None),
        alpha=_alpha(stated),
        modules=shapes.modules,
        components=shapes.components,
        dtype=shapes.dtype,
        sound=shapes.sound,
        problem=_cut(shapes.problem or wrong or lies),
        base=_cut(described.base_model(stated)),
        base_file=_cut(described.base_file(stated)),
        title=_cut(described.title(stated)),
        author=_cut(described.author(stated)),
        trainer=_cut(training.trainer),
        triggers=tuple(word[:_TEXT] for word in training.trigger_words[:_TRIGGERS]),
        tags=tuple((tag[:_TEXT], count) for tag, count in list(training.tag_frequencies.items())[:_TAGS]),
        epoch=epoch,
        steps=steps,
        date=_cut(training.date),
        licence=_cut(described.licence(stated)),
        output=_cut(described.output(stated)),
        session=_cut(training.session_id),
        model_hash=_cut(stated.text("sshs_model_hash")),
    )


def _config(path: bytes) -> tuple[dict[str, Any], str | None]:
    """PEFT's configuration beside a weight file, and what is wrong with it."""
    folder, name = os.path.split(path)
    if not name.startswith(b"adapter_model."):
        return {}, None
    try:
        fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            text = config_text(fd)
        finally:
            os.close(fd)
        config = {} if text is None else msgspec.json.decode(text)
    except OSError as error:
        return {}, f"adapter_config.json: {explained(error)}"
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return {}, "adapter_config.json: it cannot be read, or is no JSON"
    return (config, None) if isinstance(config, dict) else ({}, "adapter_config.json: it is no JSON object")


_known: dict[tuple[bytes, bool, bool], _Shapes] = {}


def forget_layouts() -> None:
    """Compute what follows from shapes anew, for measurements."""
    _known.clear()


def _shapes_of(layout: Layout, config: dict[str, Any]) -> _Shapes:
    peft = PeftConfig(config) if config else None
    key = (layout.signature, peft is not None, peft is not None and peft.fan_in_fan_out)
    found = _known.get(key)
    if found is None:
        if len(_known) >= _LAYOUTS:
            _known.clear()
        found = _known[key] = _shapes(layout.layers, peft)
    return found


def _shapes(layers: Iterable[Layer], peft: PeftConfig | None) -> _Shapes:
    layers, problems = list(layers), Problems()
    modules = understood(layers, peft, problems)
    if not modules:
        problems.error("", NO_MODULE)
    told = problems.all()
    algorithms = Counter(form.algorithm for _, form in modules)
    convention = convention_of_file({group.convention for group, _ in modules if group.convention})
    components = Counter(group.component for group, _ in modules)
    dtypes = Counter(layer.dtype for layer in layers if len(layer.shape) > 1)
    return _Shapes(
        family=shown_family(Named(group.component, group.name, form.shape) for group, form in modules),
        algorithm="+".join(name for name, _ in algorithms.most_common()) or None,
        convention=None if convention == "unknown" else convention,
        ranks=tuple(sorted({form.rank for _, form in modules if form.rank is not None})),
        modules=len(modules),
        components=tuple(name for name, _ in components.most_common()),
        dtype=next((dtype for dtype, _ in dtypes.most_common(1)), None),
        sound=all(problem.level != "error" for problem in told),
        problem=told[0].line if told else None,
    )


def _alpha(stated: Statements) -> float | None:
    found = stated.number(*ALPHAS)
    return float(found) if isinstance(found, int | float) else None


def _cut(text: str | None) -> str | None:
    """Of bounded length, and fit to be sent."""
    return text[:_TEXT].encode("utf-8", "backslashreplace").decode() if text else None
