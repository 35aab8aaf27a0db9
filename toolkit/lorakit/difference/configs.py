"""Which settings of two models differ: `config.json` and what else lies beside the weights."""

from __future__ import annotations

import os
from typing import Any

import msgspec

from loracore.errors import FileError, MalformedFile
from loracore.paths import shown
from loracore.tensorfile import open_regular
from lorakit.models import shards
from lorakit.models.weights import Weights

_NAMES = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "model_index.json",
    "scheduler_config.json",
)
#: A longer configuration is not compared.
_LONGEST = 8 << 20


def compare(base: Weights, finetuned: Weights) -> dict[str, Any]:
    """The document `config_comparison.json`: by file, keys with a dot for each level."""
    files: dict[str, Any] = {}
    for name in sorted(set(_files(base)) | set(_files(finetuned))):
        left, right = _read(base, name), _read(finetuned, name)
        if isinstance(left, str) or isinstance(right, str):
            files[name] = {"identical": False, "base": _state(left), "finetuned": _state(right)}
            continue
        common = left.keys() & right.keys()
        changed = {
            key: {"base": left[key], "finetuned": right[key]} for key in sorted(common) if left[key] != right[key]
        }
        files[name] = {
            "identical": left == right,
            "changed": changed,
            "only_in_base": {key: left[key] for key in sorted(left.keys() - common)},
            "only_in_finetuned": {key: right[key] for key in sorted(right.keys() - common)},
        }
    return {
        "base": shown(base.path),
        "finetuned": shown(finetuned.path),
        "identical": all(one["identical"] for one in files.values()),
        "files": files,
    }


def model_type(model: Weights) -> str:
    """What Transformers calls the architecture; nothing where the model does not say."""
    return setting(model, "model_type")


def setting(model: Weights, key: str) -> str:
    """A text of `config.json`, in the model's folder or beside its only file; or nothing."""
    folder = model.path if os.path.isdir(model.path) else os.path.dirname(model.path)
    alone = os.path.isdir(model.path) or os.path.basename(model.path) in shards.ALONE
    found = _load(os.path.join(folder, b"config.json")) if alone else ""
    value = "" if isinstance(found, str) else found.get(key, "")
    return value if isinstance(value, str) else ""


def _files(model: Weights) -> list[str]:
    if not os.path.isdir(model.path):
        return []
    folders = ["", *(component for component in model.components if component)]
    names = [os.path.join(folder, name) for folder in folders for name in _NAMES]
    return [name for name in names if os.path.isfile(os.path.join(model.path, os.fsencode(name)))]


def _read(model: Weights, name: str) -> dict[str, Any] | str:
    """The settings, flat; or why there are none."""
    return _load(os.path.join(model.path, os.fsencode(name))) if os.path.isdir(model.path) else "missing"


def _load(path: bytes) -> dict[str, Any] | str:
    if not os.path.isfile(path):
        return "missing"
    try:
        with open_regular(os.path.realpath(path)) as source:
            if source.size > _LONGEST:
                return "too long to be compared"
            found = msgspec.json.decode(source.read(0, source.size))
    except (FileError, MalformedFile, msgspec.DecodeError, UnicodeError, RecursionError) as error:
        return f"cannot be read: {error}"
    return _flat(found) if isinstance(found, dict) else "no JSON object"


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _state(found: dict[str, Any] | str) -> str:
    return found if isinstance(found, str) else "there"
