"""What becomes of one file: which entries change, or why it is refused by name."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from loracore.causes import explained
from loracore.downloads import why_unfinished
from loracore.errors import ChangedFile, FileError
from loracore.identity import Identity
from loracore.jobs.edit import EditParameters, FileEdit
from loracore.tensorfile import SUFFIXES, Source, open_regular
from lorakit.jobs.edit.data import block_of
from lorakit.jobs.edit.entries import changed_entries, listed, touches_function
from lorakit.jobs.edit.header import Header, read_header, with_metadata
from lorakit.jobs.edit.hold import settled
from lorakit.jobs.edit.stated_hashes import repaired, stale
from lorakit.jobs.edit.writing import Order

_SUFFIX = b".safetensors"
#: Folders whose files are not to be changed, whatever they are.
_STORES = {
    b".git": "it lies in Git's own folder, where a file's name is a hash of it; copy it out, and edit the copy",
    b".lorad-quarantine": "it lies in lorad's quarantine; bring it back first: loractl undo",
}


def plan(
    path: bytes, wanted: EditParameters, threads: int, told: Callable[[int], object]
) -> tuple[FileEdit, Order | None]:
    """What becomes of a file, whose path has no links, and the order to write it where it changes.

    `told` hears how many bytes were read for its hashes, and may raise. What is wrong with the file is not raised.
    """
    try:
        return _plan(path, wanted, threads, told)
    except FileError as error:
        return FileEdit(path, "refused", reason=error.reason), None
    except OSError as error:
        return FileEdit(path, "refused", reason=f"it cannot be read: {explained(error)}"), None


def _plan(
    path: bytes, wanted: EditParameters, threads: int, told: Callable[[int], object]
) -> tuple[FileEdit, Order | None]:
    with opened(path, break_links=wanted.break_links) as (source, identity):
        header = read_header(source)
        after = changed_entries(wanted, header.metadata)
        if wanted.repair_hashes:
            after = repaired(source, header, after, threads, told)
        if Identity.of(os.fstat(source.fd)) != identity:
            raise ChangedFile("it changed while it was read; try again when it is complete")
        if after == header.metadata:
            return FileEdit(path, "unchanged"), None
        raw = with_metadata(header, after, block_of(source.fd))
    file = _file(path, header, after, wanted)
    if file.state == "refused":
        return file, None
    return file, Order(path, identity, header, raw, after, None if wanted.touch else identity.mtime_ns)


@contextmanager
def opened(path: bytes, *, break_links: bool) -> Iterator[tuple[Source, Identity]]:
    """A file that may be edited, and what it is. Raises FileError where it is not to be, or cannot be."""
    _check_name(path)
    with open_regular(path) as source:
        identity, status = settled(source.fd), os.fstat(source.fd)
        if why := why_unfinished(path, identity.size, None):
            raise FileError(f"{why}; edit it when it is complete")
        if status.st_nlink > 1 and not break_links:
            raise FileError(
                f"it has {status.st_nlink} names (hard links), which would be two files then; --break-links edits "
                "it under this name alone"
            )
        if not stat.S_IMODE(status.st_mode) & 0o222:
            raise FileError("it is read-only; allow writing first: chmod u+w")
        for place in (path, os.path.dirname(path)):
            if not os.access(place, os.W_OK):
                what = "it" if place == path else "its folder"
                raise FileError(
                    f"{what} may not be written here; run it as its owner, where its disk is mounted for writing"
                )
        yield Source(source.fd, identity.size), identity


def _check_name(path: bytes) -> None:
    """Raises FileError for what is no safetensors file by its name, or lies where nothing is edited."""
    for folder, why in _STORES.items():
        if folder in path.split(b"/")[:-1]:
            raise FileError(why)
    parent = os.path.dirname(path)
    if os.path.basename(parent) == b"blobs" and os.path.isdir(os.path.join(os.path.dirname(parent), b"snapshots")):
        raise FileError(
            "it lies in Hugging Face's cache, where a file's name is a hash of it; copy it out, and edit the copy"
        )
    if os.path.isdir(path):
        raise FileError(
            "a folder; give its adapter_model.safetensors, whose header can be edited (the words of an adapter "
            "folder stand in its README.md)"
        )
    suffix = os.path.splitext(path)[1].lower()
    if suffix != _SUFFIX and suffix in SUFFIXES:
        raise FileError(
            "a checkpoint, which has no header to be edited; make a safetensors file of it: loractl convert FILE "
            "-o NAME.safetensors"
        )
    if suffix != _SUFFIX and os.path.lexists(path):
        raise FileError("its name does not end in .safetensors; give it that suffix if it is such a file")


def _file(path: bytes, header: Header, after: dict[str, str], wanted: EditParameters) -> FileEdit:
    changes, entries = listed(header.metadata, after)
    keys = touches_function(header.metadata, after, header.layers)
    file = FileEdit(path, "planned", changes, entries, "", bool(keys), warnings=stale(header.metadata, after))
    if not keys or wanted.function:
        return file
    reason = (
        f"{', '.join(key[:80] for key in keys[:3])}: this changes what it does to a base model, or whether it can "
        "be loaded; --function does it all the same"
    )
    return FileEdit(path, "refused", changes, entries, reason, function=True)
