"""Metadata that say how a file was made: kohya's and ModelSpec's keys, and our own under `lorad.`."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from loracore import __version__
from loracore.jobs.change import Input
from loracore.names.families import family_named
from loracore.paths import shown

#: What speaks of the bytes of the file that it was, and would be wrong of the one that is made.
STALE = frozenset({
    "sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256", "modelspec.date", "modelspec.merged_from",
    "modelspec.thumbnail", "format",
})  # fmt: skip
#: Stands for the hash of what is only checked, so that the size of the result is known to the byte.
_NOT_READ = "0" * 64


def stamp(
    operation: str,
    inputs: Sequence[Input],
    *,
    output: bytes,
    ranks: Iterable[int | None],
    alphas: Iterable[float | None],
    parameters: Mapping[str, Any],
    carried: Mapping[str, str] | None = None,
    merged: bool = False,
    models: Iterable[tuple[str, str]] = (),
) -> dict[str, str]:
    """Metadata of a result.

    `models`: files of models that were read, with their BLAKE3.
    `carried`: what the first input says of itself; what was true of its bytes alone is dropped. `ranks` and
    `alphas` are those of the modules that are written; "Dynamic" is kohya's word for several.
    """
    kept = {key: value for key, value in (carried or {}).items() if key not in STALE}
    family = inputs[0].family if inputs else ""
    title = os.path.splitext(os.path.basename(output))[0]
    made = {
        "ss_network_dim": _one(ranks),
        "ss_network_alpha": _one(alphas),
        "ss_output_name": shown(title),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.title": shown(title),
        "modelspec.date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "lorad.version": __version__,
        "lorad.operation": operation,
        "lorad.parameters": json.dumps(dict(parameters), sort_keys=True),
        "lorad.inputs": json.dumps([
            *({"name": shown(os.path.basename(each.path)), "sha256": each.sha256 or _NOT_READ} for each in inputs),
            *({"name": name, "blake3": digest} for name, digest in models),
        ]),
    }  # fmt: skip
    if architecture := family_named(family).modelspec:
        made.setdefault("modelspec.architecture", kept.get("modelspec.architecture", architecture))
    if merged:
        made["modelspec.merged_from"] = ", ".join(shown(os.path.basename(each.path)) for each in inputs)
    if "ss_network_module" not in kept:
        made["ss_network_module"] = "networks.lora"
    return {_text(key): _text(value) for key, value in (kept | made).items()}


def _one(values: Iterable[float | None]) -> str:
    found = {value for value in values if value is not None}
    return f"{found.pop():g}" if len(found) == 1 else "Dynamic" if found else "None"


def _text(value: str) -> str:
    """Half a surrogate pair is no text that a header can hold."""
    return value.encode("utf-8", "replace").decode()
