"""PEFT adapter folders: a weight file beside `adapter_config.json` (peft 0.19, `save_pretrained`)."""

from __future__ import annotations

import json
import os
from typing import Any

import msgspec

from loracore.errors import MalformedFile, UnknownFormat
from loracore.tensorfile.container import Container
from loracore.tensorfile.readers import SUFFIXES, open_regular, read_container
from loracore.tensorfile.recognise import recognised

CONFIG = b"adapter_config.json"
_WEIGHTS = b"adapter_model"
#: A longer configuration is not one.
_MAX_CONFIG = 1 << 20


def weight_file(folder: bytes) -> bytes | None:
    """The adapter's weight file: safetensors first, then `.bin`, then any other with a reader; or None."""
    preferred = [b".safetensors", b".bin"]
    for suffix in [*preferred, *sorted(set(SUFFIXES) - set(preferred))]:
        path = os.path.join(folder, _WEIGHTS + suffix)
        if os.path.isfile(path):
            return path
    return None


def read_config(folder: bytes) -> dict[str, Any]:
    """The folder's `adapter_config.json`.

    Raises:
        FileError: it is not there or is no regular file.
        MalformedFile: it is longer than 1 MiB, or no JSON object.
    """
    with open_regular(os.path.join(folder, CONFIG)) as source:
        if source.size > _MAX_CONFIG:
            raise MalformedFile(f"longer than the {_MAX_CONFIG} bytes that a PEFT configuration may have")
        try:
            config = msgspec.json.decode(source.read(0, source.size))
        except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
            raise recognised(source, MalformedFile(f"its JSON cannot be read: {error}")) from error
        if not isinstance(config, dict):
            raise MalformedFile("it is not a JSON object, as PEFT writes")
        return config


def read_folder(folder: bytes) -> tuple[bytes, Container]:
    """The weight file's path and its container, with the configuration as its metadata's `adapter_config`.

    Raises:
        UnknownFormat: the folder has no weight file.
        FileError: the configuration or the weight file cannot be used; the error names which.
    """
    path = weight_file(folder)
    if path is None:
        raise UnknownFormat(
            "a folder without adapter_model.safetensors or another weight file", os.fsdecode(folder)
        )
    config = read_config(folder)
    with open_regular(path) as source:
        container = read_container(source, path)
    metadata = container.metadata | {"adapter_config": json.dumps(config, ensure_ascii=False)}
    return path, msgspec.structs.replace(container, metadata=metadata)
