"""What is said of a file beside its tensors that changes what they do to a base model, as digests.

Files of the same tensors have the same function where two digests are equal: that of the header, and that of the
`adapter_config.json` beside the file. What is not known to make no difference makes one. Not here: the scale of
each module, which `adapter.peft` reads.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from blake3 import blake3

from loracore.adapter.peft import DIFFUSERS_METADATA
from loracore.names.keys import parse_key
from loracore.tensorfile import Source, read_container
from loracore.tensorfile.peft import CONFIG

#: A longer configuration is not parsed.
MAX_CONFIG = 1 << 20
#: Fields of PEFT's configurations that do not change what the tensors do.
BESIDE = frozenset(
    {"base_model_name_or_path", "revision", "inference_mode", "peft_version", "task_type", "auto_mapping",
     "lora_dropout", "peft_type"}
)  # fmt: skip
#: All others of LoRA, LoHa and LoKr in peft 0.21 but rank and alpha, and what is meant where they are not given.
DEFAULTS: Mapping[str, object] = {
    "target_modules": None, "exclude_modules": None, "target_parameters": None, "modules_to_save": None,
    "layers_to_transform": None, "layers_pattern": None, "layer_replication": None,
    "trainable_token_indices": None, "rank_pattern": {}, "alpha_pattern": {}, "fan_in_fan_out": False,
    "bias": "none", "lora_bias": False, "use_rslora": False, "use_dora": False, "init_lora_weights": True,
    "init_weights": True, "ensure_weight_tying": False, "loftq_config": {}, "eva_config": None,
    "corda_config": None, "lora_ga_config": None, "velora_config": None, "monteclora_config": None,
    "arrow_config": None, "kasa_config": None, "use_bdlora": None, "alora_invocation_tokens": None,
    "use_qalora": False, "qalora_group_size": 16, "megatron_config": None, "megatron_core": "megatron.core",
    "merge_weights": False, "rank_dropout": 0, "module_dropout": 0, "rank_dropout_scale": False,
    "use_effective_conv2d": False, "decompose_both": False, "decompose_factor": -1,
}  # fmt: skip
#: Rank and alpha where a configuration gives none, and the kinds of adapters that call it `alpha` alone.
_USUAL = 8
_WITHOUT_LORA = ("LOHA", "LOKR")
#: The order of these makes no difference. That of `target_parameters` and of patterns does.
_UNORDERED = frozenset({"target_modules", "exclude_modules", "modules_to_save", "layers_to_transform"})
#: Fields that some writers put into the header one by one, with the part of the model before a dot.
_FIELDS = frozenset(DEFAULTS) | {"r", "lora_alpha"}
#: What kohya's scripts and their like write into the header; it counts only where no tensor says it.
_RANKS = ("ss_network_dim", "ss_network_rank", "network_dim", "network_rank")
_ALPHAS = ("ss_network_alpha", "network_alpha", "alpha")
_ARGUMENTS = ("ss_network_args", "network_args")
#: More characters of tensors' names, and more parts of one or of a model, are not compared with `target_modules`.
_MAX_NAMES = 4 << 20
_MAX_PARTS = 64


def header_function(metadata: Mapping[str, str], layers: Sequence[str] = ()) -> bytes | None:
    """The digest of what a header's metadata say, None where that is nothing. `layers`: the tensors' names."""
    try:
        return _digest(_header_said(metadata, layers))
    except RecursionError:
        return _unread(json.dumps(sorted(metadata.items())).encode())


def may_say_function(key: str) -> bool:
    """Whether an entry of this name in a header's metadata is one that `header_function` goes by."""
    if key == DIFFUSERS_METADATA or key.rpartition(".")[2] in _FIELDS:
        return True
    return key in (*_RANKS, *_ALPHAS, *_ARGUMENTS)


def config_function(text: bytes, layers: Sequence[str] = ()) -> bytes | None:
    """The digest of what an `adapter_config.json` says; None where the scale is 1 and it says nothing else.

    `layers` are the names of the tensors beside it: `target_modules` that name just their modules say nothing. A
    text that is no JSON object, or has a key twice, has a digest of its own.
    """
    try:
        return _digest(_said(_parsed(text), layers, usual=_USUAL))
    except (ValueError, RecursionError):
        return _unread(text)


def config_text(folder: int) -> bytes | None:
    """The `adapter_config.json` in the folder of this descriptor, links followed; None where there is none.

    What is no regular file of at most 1 MiB, or cannot be read, gives a text that is no JSON and no other file's.
    It never blocks on a pipe or a device.
    """
    try:
        fd = os.open(CONFIG, os.O_PATH | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        try:
            return _nameless(os.stat(CONFIG, dir_fd=folder, follow_symlinks=False))
        except FileNotFoundError:
            return None
        except OSError:
            return _nameless(os.fstat(folder))
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_CONFIG:
            return _nameless(status)
        with open(f"/proc/self/fd/{fd}", "rb", opener=_open) as file:
            text = file.read(MAX_CONFIG + 1)
    except OSError:
        return _nameless(status)
    finally:
        os.close(fd)
    return text if len(text) <= MAX_CONFIG else _nameless(status)


def function_at(fd: int, name: bytes, folder: int) -> tuple[bytes | None, bytes | None]:
    """What the header of an open file says, and what the configuration in its open folder says.

    Raises:
        FileError: the file's header cannot be read.
    """
    container = read_container(Source(fd, os.fstat(fd).st_size), name)
    layers = [layer.name for layer in container.layout.layers]
    text = config_text(folder)
    return header_function(container.metadata, layers), None if text is None else config_function(text, layers)


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def _nameless(status: os.stat_result) -> bytes:
    return b"\0%d %d %d %d" % (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


# What counts


def _said(stated: Mapping[str, object], layers: Sequence[str], usual: int | None = None) -> dict[str, object]:
    """What counts of one configuration: not what is as usual, nor a rank and an alpha that make a scale of 1.

    `usual`: rank and alpha where it gives none.
    """
    alpha = "alpha" if stated.get("peft_type") in _WITHOUT_LORA else "lora_alpha"
    given = {"r": usual, alpha: usual} | {key: value for key, value in stated.items() if value is not None}
    said = {
        key: _sorted(value) if key in _UNORDERED else value
        for key, value in given.items()
        if key not in BESIDE and not _same(value, DEFAULTS.get(key))
    }
    if _are_modules_of(said.get("target_modules"), layers):
        del said["target_modules"]
    patterns = said.keys() & {"rank_pattern", "alpha_pattern"}
    if not patterns and _is_one(said.get("r"), said.get(alpha), said.get("use_rslora")):
        said = {key: value for key, value in said.items() if key not in {"r", alpha, "use_rslora"}}
    return said


def _is_one(rank: Any, alpha: Any, rslora: object) -> bool:
    """Whether the scale is 1."""
    if not {type(rank), type(alpha)} <= {int, float}:
        return False
    return bool(alpha > 0 and (alpha * alpha if rslora is True else alpha) == rank)


def _same(value: object, other: object) -> bool:
    """Whether two values out of JSON are equal; 1 is not true."""
    return type(value) is type(other) and value == other


def _sorted(value: object) -> object:
    if isinstance(value, list) and (
        all(type(item) is str for item in value) or all(type(item) is int for item in value)
    ):
        return sorted(set(value))
    return value


def _are_modules_of(targets: object, layers: Sequence[str]) -> bool:
    """Whether these are just the modules that the tensors have: each is the end of a name, and none lacks."""
    if not isinstance(targets, list) or sum(map(len, layers)) > _MAX_NAMES:
        return False
    wanted = {target for target in targets if type(target) is str}
    modules = _modules(tuple(layers))
    met: set[str] = set()
    for module in modules:
        parts = module.rsplit(".", _MAX_PARTS)
        ends = {".".join(parts[at:]) for at in range(len(parts))} & wanted
        if not ends:
            return False
        met |= ends
    return bool(modules) and len(met) == len(targets)


@lru_cache(4)
def _modules(layers: tuple[str, ...]) -> frozenset[str]:
    keys = (parse_key(name) for name in layers)
    return frozenset(key.stem for key in keys if key is not None and key.convention != "plain")


# Where it is said


def _header_said(metadata: Mapping[str, str], layers: Sequence[str]) -> dict[str, object]:
    """What counts of a header's metadata, by where it stands."""
    flat: dict[str, dict[str, object]] = {}
    for key, text in metadata.items():
        part, _, field = key.rpartition(".")
        if field in _FIELDS:
            flat.setdefault(part, {})[field] = _value(text)
    said = _parts_said("", flat, layers)
    if DIFFUSERS_METADATA in metadata:
        said |= _diffusers(metadata[DIFFUSERS_METADATA], layers)
    if not any(name.endswith(".alpha") for name in layers):
        said |= _network(metadata)
    return said


def _parts_said(
    source: str, parts: Mapping[str, Mapping[str, object]], layers: Sequence[str]
) -> dict[str, object]:
    """What counts of the configurations of a model's parts."""
    said: dict[str, object] = {}
    if len(parts) > _MAX_PARTS:
        layers = ()
    for part, stated in parts.items():
        own = [name for name in layers if name.startswith(f"{part}.")] if part else layers
        if counts := _said(stated, own):
            said[f"{source} {part}"] = counts
    return said


def _diffusers(text: str, layers: Sequence[str]) -> dict[str, object]:
    parts: dict[str, dict[str, object]] = {}
    try:
        for key, value in _parsed(text.encode()).items():
            part, dot, field = key.partition(".")
            parts.setdefault(part if dot else "", {})[field if dot else key] = value
    except (ValueError, RecursionError):
        return {DIFFUSERS_METADATA: text}
    return _parts_said(DIFFUSERS_METADATA, parts, layers)


def _network(metadata: Mapping[str, str]) -> dict[str, object]:
    """What is said of rank, alpha and the network's arguments; nothing where that is a scale of 1 alone."""
    values = {key: _value(metadata[key]) for key in (*_RANKS, *_ALPHAS, *_ARGUMENTS) if key in metadata}
    said = {key: value for key, value in values.items() if value not in (None, {}, "")}
    ranks, alphas = ([said[key] for key in keys if key in said] for keys in (_RANKS, _ALPHAS))
    if any(key in said for key in _ARGUMENTS):
        return said
    return {} if all(_is_one(rank, alpha, None) for rank in ranks or [None] for alpha in alphas) else said


def _value(text: str) -> object:
    """A value that stands alone in a header: JSON, or as Python writes it."""
    if text in {"True", "False", "None"}:
        return {"True": True, "False": False, "None": None}[text]
    try:
        return _decoded(text.encode())
    except (ValueError, RecursionError):
        return text


# JSON


def _parsed(text: bytes) -> dict[str, Any]:
    """Raises ValueError for what is no JSON object, and ValueError or RecursionError for what is no JSON."""
    value = _decoded(text)
    if not isinstance(value, dict):
        raise ValueError("not an object")  # noqa: TRY004 - as all that is wrong with a text
    return value


def _decoded(text: bytes) -> object:
    if len(text) > MAX_CONFIG:
        raise ValueError("too long")
    return json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_number)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key stands there twice")
    return made


def _refuse(text: str) -> object:
    raise ValueError(f"{text} is no number")


def _number(text: str) -> float:
    """A number with a point, as an integer where it is one."""
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError("beyond all numbers")
    return int(number) if number.is_integer() else number


def _digest(said: Mapping[str, object]) -> bytes | None:
    """BLAKE3-256 of the JSON with sorted fields; what is nested keeps its order."""
    if not said:
        return None
    return blake3(json.dumps(sorted(said.items()), separators=(",", ":")).encode()).digest()


def _unread(text: bytes) -> bytes:
    return blake3(b"unread\0" + text).digest()
