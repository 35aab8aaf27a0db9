"""What is known of a file's layers, kept for the file that takes its place with another header (`loractl edit`).

An edit puts a new inode of the same layers in place, and says so (`loracore.control.NoteEdits`), before or after
the daemon sees it. So what a name led to is kept for a while when it leads to another file. Once the header of
that one is read, it takes over what `Inheritance.of` finds, without a byte of its layers being read.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import NamedTuple

from loracore.identity import Edited, Identity
from lorad.catalog import Catalog
from lorad.catalog.tags import Model
from lorad.index.known_files import Files
from lorad.index.records import File
from lorad.index.tags import TagsOfFiles
from lorad.index.view import View
from lorad.library import Status

#: Edits of files that were not read yet.
_EDITS = 4096
#: Bytes that are kept of replaced files, one of them beside its digests, and for how many seconds.
_BYTES, _RECORD, _SECONDS = 64 << 20, 1024, 60.0
#: Edits of one file, one after the other, before the first of them was seen.
_IN_A_ROW = 16
_TOLD_APART = (Status.GROUPED, Status.UNIQUE, Status.DUPLICATE)


class Inherited(NamedTuple):
    """What a file's layers are: layout and arrangement by number, what it answered, `weights` as in its record.

    `digest` is that of its data, `model` what users say of it, `names` are those that it had. `since`: when it was
    replaced.
    """

    layout: int
    arrangement: int | None
    weights: bytes | None
    answers: dict[int, bytes]
    digest: bytes | None
    model: Model | None
    names: frozenset[bytes]
    since: float

    @property
    def size(self) -> int:
        return _RECORD + sum(map(len, self.answers.values()))


class Inheritance:
    """Compares whole identities: a file written to since, or not the one that was edited, takes nothing over."""

    def __init__(self, catalog: Catalog, files: Files, view: View, tags: TagsOfFiles) -> None:
        self._catalog = catalog
        self._files = files
        self._view = view
        self._tags = tags
        #: By what the file is since.
        self._edits: OrderedDict[Identity, Edited] = OrderedDict()
        #: By what the file was, the oldest first.
        self._replaced: OrderedDict[Identity, Inherited] = OrderedDict()
        self._bytes = 0

    def note(self, edited: Edited) -> File | None:
        """A client edited a file. Its record where it was read without this, so that it is to be read again."""
        if not self._view.has(edited.path):
            return None
        known = self._files.at_inode(edited.after)
        if known is not None and known.identity == edited.after and known.layout is not None:
            late = known.weights is None and self._fits(edited, known) is not None
            if not late:
                return None
        else:
            known = None
        self._edits.pop(edited.after, None)
        self._edits[edited.after] = edited
        if len(self._edits) > _EDITS:
            self._edits.popitem(last=False)
        return known

    def replaced(self, file: File) -> None:
        """A name of this file leads to another one from now on."""
        if file.layout is None or file.status not in _TOLD_APART or file.too_young:
            return
        self._drop(file.identity)
        kept = Inherited(
            file.layout,
            file.arrangement,
            file.weights,
            self._catalog.answers.of(file.id),
            self._catalog.hashes.of(file.id).model,
            self._tags.of(file),
            frozenset(file.names),
            time.monotonic(),
        )
        self._replaced[file.identity] = kept
        self._bytes += kept.size
        while self._bytes > _BYTES:
            self._drop(next(iter(self._replaced)))

    def of(self, file: File) -> Inherited | None:
        """What a file takes over whose header was just read, once. None where no edit of it fits."""
        edited = self._edits.get(file.identity)
        if edited is None:
            return None
        before = self._fits(edited, file)
        del self._edits[file.identity]
        return self._drop(before) if before is not None else None

    def forget_old(self) -> None:
        """Drop what no edit took over in time."""
        before = time.monotonic() - _SECONDS
        while self._replaced and next(iter(self._replaced.values())).since < before:
            self._drop(next(iter(self._replaced)))

    def forget_all(self) -> None:
        self._edits.clear()
        self._replaced.clear()
        self._bytes = 0

    def _fits(self, edited: Edited, file: File) -> Identity | None:
        """What an edited file was, if that is kept, was of the same layout, and had the same name."""
        before = edited.before
        for _ in range(_IN_A_ROW):
            if before in self._replaced or before not in self._edits:
                break
            before = self._edits[before].before
        kept = self._replaced.get(before)
        if kept is None or kept.layout != file.layout or edited.path not in kept.names:
            return None
        return before if edited.path in file.names else None

    def _drop(self, identity: Identity) -> Inherited | None:
        kept = self._replaced.pop(identity, None)
        if kept is not None:
            self._bytes -= kept.size
        return kept
