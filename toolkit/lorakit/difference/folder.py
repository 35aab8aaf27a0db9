"""The output folder: what may be there before, and what is written when all layers are finished."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import msgspec

from loracore.errors import UsageError
from loracore.whole import write_whole
from lorakit.difference import journal
from lorakit.difference.journal import Key
from lorakit.models.weights import Weights
from lorakit.output.draft import cannot


def key_of(models: tuple[Weights, Weights], question: Mapping[str, Any]) -> Key:
    """What a run on these models with these parameters is known by."""
    asked = {"base": os.fsdecode(models[0].path), "finetuned": os.fsdecode(models[1].path)}
    identity = [
        (os.fsdecode(path), file.dev, file.ino, file.size, file.mtime_ns, file.ctime_ns)
        for model in models
        for path, file in model.identities
    ]
    return Key(asked | {name: str(value) for name, value in question.items()}, identity)


def check(path: bytes, models: tuple[Weights, Weights], key: Key, *, force: bool) -> str:
    """Whether results may go into the folder `path`; returns what is to be known of it, or nothing.

    A run of the same parameters on the same files goes on; where a file changed since, it starts anew. Raises
    UsageError for anything else that is there, unless with `force`, and for a folder that belongs to a model.
    """
    shown = os.fsdecode(path)
    target = os.path.realpath(path)
    for model in models:
        source = os.path.realpath(model.path)
        if target == source or (os.path.isdir(source) and target.startswith(source + b"/")):
            raise UsageError(f"{shown}: it is in a model's folder, which is read for this; give another -o")
    if not os.path.lexists(path):
        parent = os.path.dirname(target)
        if not os.path.isdir(parent):
            raise UsageError(f"{shown}: there is no folder {os.fsdecode(parent)}; make it first")
        return ""
    if not os.path.isdir(path):
        raise UsageError(f"{shown}: it is there and no folder; give another -o")
    before = journal.read_key(path)
    if before == key:
        return ""
    if not force and before is not None and before.question == key.question:
        return f"{shown}: a model changed since this was begun, so it starts anew"
    if not force and set(os.listdir(path)):
        raise UsageError(f"{shown}: it is there already; give another -o, or --force to replace what is in it")
    return ""


def made(path: bytes) -> None:
    """Make the folder, if it is not there. Raises FileError."""
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise cannot(path, error) from error


def write_text(folder: bytes, name: str, text: str) -> None:
    """A file of the folder, whole or not at all. Raises FileError."""
    path = os.path.join(folder, name.encode())
    try:
        write_whole(path, text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise cannot(path, error) from error


def write_json(folder: bytes, name: str, document: Any) -> None:
    """As `write_text`. Infinite numbers become null."""
    write_text(folder, name, msgspec.json.format(msgspec.json.encode(document), indent=1).decode() + "\n")
