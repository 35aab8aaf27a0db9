"""Readers of LoRA containers: safetensors, torch checkpoints, PEFT adapter folders.

Every reader turns a file into the same thing, a `Container`: the layout, where each layer's bytes lie, and
the metadata. The same weights in two containers give the same layout and the same layer digests. What the
layers mean as an adapter (modules, rank, ΔW) is not known here.
"""

from __future__ import annotations

import os

from loracore.tensorfile.container import DTYPE_BITS, Arrangement, Container, Layer, Layout, Strides
from loracore.tensorfile.peft import read_folder
from loracore.tensorfile.readers import (
    SUFFIXES,
    has_reader,
    name_for_reader,
    open_regular,
    read_container,
    residue,
)
from loracore.tensorfile.source import Source

__all__ = [
    "DTYPE_BITS",
    "SUFFIXES",
    "Arrangement",
    "Container",
    "Layer",
    "Layout",
    "Source",
    "Strides",
    "has_reader",
    "name_for_reader",
    "open_container",
    "open_regular",
    "read_container",
    "residue",
]  # fmt: skip


def open_container(path: bytes | str) -> Container:
    """The container at `path`: a file that some reader knows, or a PEFT adapter folder.

    Raises:
        FileError: it cannot be opened, is no regular file (a link, a pipe), or `read_container` refused it;
            the error names the file.
    """
    name = os.fsencode(path)
    if os.path.isdir(name):
        return read_folder(name)[1]
    with open_regular(name) as source:
        return read_container(source, name)
