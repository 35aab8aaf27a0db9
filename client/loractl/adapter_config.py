"""PEFT adapter folders as the client sees them: which weight file is loaded, and what the configuration says.

`loracore.tensorfile` reads the weights too, and needs packages that the client does without.
"""

from __future__ import annotations

import os

import msgspec

from loracore.errors import FileError, MalformedFile
from loracore.whole import regular

CONFIG = b"adapter_config.json"
#: A longer configuration is not one.
_MAX_CONFIG = 1 << 20
_OBJECT = msgspec.json.Decoder(dict[str, object])
#: In the order in which PEFT and vLLM look for them.
_WEIGHTS = (b"adapter_model.safetensors", b"adapter_model.bin", b"adapter_model.pt")


def weight_file(folder: bytes) -> bytes | None:
    """The weight file that is loaded; None where there is none of the usual names."""
    paths = (os.path.join(folder, name) for name in _WEIGHTS)
    return next((path for path in paths if os.path.isfile(path)), None)


def read_config(folder: bytes) -> dict[str, object]:
    """The folder's `adapter_config.json`. Raises FileError."""
    path = os.path.join(folder, CONFIG)
    try:
        with open(path, "rb", opener=regular) as file:
            data = file.read(_MAX_CONFIG + 1)
    except OSError as error:
        raise FileError(f"{error.strerror}", os.fsdecode(path)) from error
    if len(data) > _MAX_CONFIG:
        raise MalformedFile(f"longer than the {_MAX_CONFIG:,} bytes that it may have", os.fsdecode(path))
    try:
        return _OBJECT.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise MalformedFile(f"its JSON cannot be read: {error}", os.fsdecode(path)) from error


def is_uniform(config: dict[str, object]) -> bool:
    """Whether the usual alpha and rank of a PEFT configuration give the scale of all modules."""
    ranks, alphas = config.get("rank_pattern") or {}, config.get("alpha_pattern") or {}
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(ranks, dict) or not isinstance(alphas, dict):
        return False
    power = 0.5 if config.get("use_rslora") else 1.0
    pairs = {(alphas.get(key, alpha), ranks.get(key, rank)) for key in [*ranks, *alphas]}
    try:
        return all(a / r**power == alpha / rank**power for a, r in pairs)  # type: ignore[operator]
    except (TypeError, ZeroDivisionError, OverflowError):
        return False
