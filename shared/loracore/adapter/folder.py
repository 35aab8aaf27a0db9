"""Which folders are one adapter: their files have fixed names, by which they mean something together."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

from loracore.tensorfile import has_reader

#: What PEFT and diffusers call the weights of a folder.
_FIXED = (b"adapter_model", b"pytorch_lora_weights")
#: A part of several, as the index beside them (`X.safetensors.index.json`) names it.
_SHARD = re.compile(rb"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.[a-z]+)")
#: What Transformers and Accelerate put beside the weights to go on with a training: no models.
_STATE = re.compile(
    rb"(optimizer|scheduler|sampler|scaler|rng_state|training_args|random_states)(_\d+)*\.(pt|pth|bin|safetensors)"
)


def may_be_part(name: bytes) -> bool:
    """Whether weights in an adapter folder may have this name."""
    return name.rpartition(b".")[0] in _FIXED or _SHARD.fullmatch(name) is not None


def is_one_of_several(name: bytes) -> bool:
    """Whether a file is a part of something by its name, also while other parts or the index are not there."""
    shard = _SHARD.fullmatch(name)
    return shard is not None and int(shard["count"]) > 1


def weight_parts(names: Iterable[bytes]) -> frozenset[bytes] | None:
    """Of the names at the top of a folder, those of its weights; None where it is no adapter folder.

    One holds `adapter_model.*`, `pytorch_lora_weights.*` or all shards of an `*.index.json`, and no other model
    file. The state of a training beside them is none.
    """
    names = frozenset(names)
    models = {name for name in names if has_reader(name) and not _STATE.fullmatch(name)}
    weights = {name for name in models if name.rpartition(b".")[0] in _FIXED} | _shards(names)
    return frozenset(weights) if weights and weights == models else None


def _shards(names: frozenset[bytes]) -> set[bytes]:
    """Those that an index is beside, where none of them lacks."""
    found: dict[tuple[bytes, bytes, int], dict[int, bytes]] = defaultdict(dict)
    for name in names:
        if (shard := _SHARD.fullmatch(name)) is not None and has_reader(name):
            key = (shard["stem"], shard["suffix"], int(shard["count"]))
            found[key][int(shard["number"])] = name
    return {
        name
        for (stem, suffix, count), shards in found.items()
        if stem + suffix + b".index.json" in names and shards.keys() == set(range(1, count + 1))
        for name in shards.values()
    }
