"""From the object that a checkpoint holds to its named tensors: a state dict, however it is wrapped.

Containers are walked with an explicit stack and a budget, for a hostile object contains itself or the same
part a million times.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from loracore.errors import MalformedFile, UnknownFormat
from loracore.tensorfile.container import MAX_LAYERS
from loracore.tensorfile.pickle_names import Foreign, Mapping, Tensor

#: Values visited, names' characters in all, and levels of nesting; far above any real checkpoint.
_MAX_VISITS = 1_000_000
_MAX_CHARACTERS = 32 << 20
_MAX_NAME = 4096
_MAX_DEPTH = 64

#: Metadata that is kept: entries, and characters of one and of all.
_MAX_ENTRIES = 1000
_MAX_TEXT = 64 << 10
_MAX_TEXTS = 1 << 20

#: Under these keys trainers put the one state dict of a checkpoint, beside epoch, step and options.
WRAPPERS = frozenset(
    {"state_dict", "model", "module", "model_state_dict", "model_state", "weights", "params", "network",
     "net", "lora", "lora_state_dict", "lora_weights", "adapter", "generator", "params_ema", "ema"}
)  # fmt: skip


class _Budget(msgspec.Struct):
    visits: int = _MAX_VISITS
    characters: int = _MAX_CHARACTERS

    def visit(self) -> None:
        self.visits -= 1
        if self.visits < 0:
            raise MalformedFile(f"it holds more than {_MAX_VISITS} values, or itself")

    def name(self, text: str) -> str:
        self.characters -= len(text)
        if self.characters < 0 or len(text) > _MAX_NAME:
            raise MalformedFile("its tensors' names are longer than any model's")
        return text


def named_tensors(value: object) -> dict[str, Tensor]:
    """The tensors by name; names of nested containers are joined with dots.

    A single state dict under one of `WRAPPERS` keeps its own names, so that it has the bare one's layout.

    Raises:
        UnknownFormat: the object is no container.
        MalformedFile: two tensors have one name, a tensor has none or is no plain array, or the object is
            larger or deeper than any checkpoint.
    """
    if type(value) not in (list, tuple) and not isinstance(value, Mapping):
        raise UnknownFormat("it holds no dict of tensors")
    budget = _Budget()
    parts = [(name, part, _walk(name, part, budget)) for name, part in _entries(value, budget)]
    holding = [entry for entry in parts if entry[2]]
    if len(holding) == 1 and holding[0][0] in WRAPPERS and isinstance(holding[0][1], Mapping):
        return _plain(holding[0][2])
    joined: dict[str, Tensor | Foreign] = {}
    for prefix, _, tensors in holding:
        for name, tensor in tensors.items():
            _put(joined, _join(prefix, name, budget), tensor)
    return _plain(joined)


def simple_metadata(value: object) -> dict[str, str]:
    """The texts and numbers beside the tensors, as text; what is too long or too many is left out."""
    metadata: dict[str, str] = {}
    room = _MAX_TEXTS
    for name, entry in _entries(value, _Budget()) if isinstance(value, Mapping) else ():
        if name is None or type(entry) not in (str, int, float, bool) or len(metadata) >= _MAX_ENTRIES:
            continue
        text = str(entry)
        room -= len(name) + len(text)
        if room >= 0 and len(text) <= _MAX_TEXT and _encodable(name) and _encodable(text):
            metadata[name] = text
    return metadata


def _walk(key: str | None, value: object, budget: _Budget) -> dict[str, Tensor | Foreign]:
    """The tensors in `value`, which lies under `key`, by their names relative to it."""
    found: dict[str, Tensor | Foreign] = {}
    waiting: list[tuple[str | None, int, object]] = [("" if key is not None else None, 0, value)]
    while waiting:
        name, depth, value = waiting.pop()
        if isinstance(value, Tensor | Foreign):
            if name is None:
                raise MalformedFile("a tensor lies under a key that is not text")
            _put(found, name, value)
        elif isinstance(value, Mapping) or type(value) in (list, tuple):
            if depth >= _MAX_DEPTH:
                raise MalformedFile(f"its objects are nested deeper than {_MAX_DEPTH}, or contain themselves")
            for own, entry in _entries(value, budget):
                if isinstance(entry, Tensor | Foreign | list | tuple):
                    below = None if own is None or name is None else _join(name, own, budget)
                    waiting.append((below, depth + 1, entry))
    return found


def _entries(value: object, budget: _Budget) -> Iterator[tuple[str | None, object]]:
    """Names and values of a container. In a dict the last value of a key counts, as it does in Python."""
    if not isinstance(value, Mapping):
        for index, entry in enumerate(value):  # type: ignore[var-annotated, arg-type]
            budget.visit()
            yield str(index), entry
        return
    named: dict[tuple[type, str], object] = {}
    for key, entry in zip(value[::2], value[1::2], strict=True):
        budget.visit()
        if type(key) in (str, int):
            named[type(key), str(key)] = entry
        else:
            yield None, entry
    for (_, text), entry in named.items():
        yield text, entry


def _join(prefix: str | None, name: str, budget: _Budget) -> str:
    if prefix is None:
        raise MalformedFile("a tensor lies under a key that is not text")
    if len(prefix) + len(name) > _MAX_NAME:
        raise MalformedFile("its tensors' names are longer than any model's")
    return budget.name(f"{prefix}.{name}" if prefix and name else prefix or name)


def _put(tensors: dict[str, Tensor | Foreign], name: str, tensor: Tensor | Foreign) -> None:
    if name in tensors:
        raise MalformedFile(f"two tensors have the name {name[:80]!r}")
    if len(tensors) >= MAX_LAYERS:
        raise MalformedFile(f"it holds more than {MAX_LAYERS} tensors")
    tensors[name] = tensor


def _plain(tensors: dict[str, Tensor | Foreign]) -> dict[str, Tensor]:
    plain: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, Foreign):
            raise MalformedFile(f"tensor {name[:80]!r} {tensor.reason}")
        if not _encodable(name):
            raise MalformedFile("a tensor's name is not text")
        plain[name] = tensor
    return plain


def _encodable(text: str) -> bool:
    """Whether the text is free of lone surrogates, which torch passes and MessagePack refuses."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
