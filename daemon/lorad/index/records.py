"""One record an inode in one state, and its way to the catalogue. All in memory: `lorad.index.known_files`.

A record is trusted as long as the inode's identity (device, inode, size, mtime, ctime) stays the same. One
whose ctime is as young as the moment it was first read may have been written to within one tick of the
file system's clock, unseen; it is read again in the next run.

What de-duplication has hidden stays a file among the others, but in no view: its names are in `File.aside` and
`Files.hidden` instead of `File.names` and `Files.by_path`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from loracore.identity import Identity, bounded, tick_of
from loracore.tags import Tags
from lorad.catalog import Catalog, NameRow, Row
from lorad.index.held import Held, Weights
from lorad.library import Status

#: A name that is hidden has this as its `active` in the catalogue.
HIDDEN = 2
#: A file that kills this many loaders is failed.
DEATHS = 3
_STATUS = {status.value: status for status in Status}


#: What the weights in a folder of PEFT are called.
ADAPTERS = (b"adapter_model.safetensors", b"adapter_model.bin")


def is_adapter(path: bytes) -> bool:
    """Whether a name is that of the weights in a PEFT folder."""
    return os.path.basename(path).startswith(b"adapter_model.")


class File:
    """One inode in one state, and what is known of it."""

    __slots__ = (
        "arrangement", "aside", "base", "born", "deaths", "error", "extents", "format", "fresh", "function", "id",
        "identity", "layout", "metadata", "names", "news", "passed_over", "read_ns", "residue", "seconds",
        "signature", "status", "was", "weights",
    )  # fmt: skip

    def __init__(self, number: int, identity: Identity) -> None:
        self.id = number
        self.identity = identity
        self.names: list[bytes] = []
        #: Its names that are hidden.
        self.aside: list[bytes] = []
        self.read_ns = 0
        self.status = Status.PENDING
        self.layout: int | None = None
        self.arrangement: int | None = None
        self.base: int | None = None
        self.format: str | None = None
        self.residue: bytes | None = None
        self.signature: bytes | None = None
        self.seconds = 0.0
        self.error: str | None = None
        self.deaths = 0
        #: Something happened to it just before it was met, rather than that a folder was looked through.
        self.news = False
        #: One name that is never opened: its kind already says that it is not to be read.
        self.passed_over = False
        #: Of all its layers, known since it was a duplicate.
        self.weights: bytes | None = None
        #: What its inode or its name led to before, until it is told apart.
        self.was: Weights | None = None
        #: When its inode was made, where that is known: its number may have been another file's.
        self.born: int | None = None
        #: 0 for an old file, 1 for one that was met as a new one, 2 when that was told apart as well.
        self.fresh = 0
        #: Where its blocks lay when it was last looked at as a duplicate; see `lorad.blocks`.
        self.extents: bytes | None = None
        #: What its header says that changes what its tensors do; empty where that is still to be read.
        self.function: bytes | None = None
        #: How much that says beside its layers, in characters.
        self.metadata: int | None = None

    @classmethod
    def from_row(cls, row: Row) -> File:
        # Unpacked at once: a hundred thousand of these are read at each start.
        (
            number, dev, ino, size, mtime_ns, ctime_ns, read_ns, status, layout, arrangement, base, format_,
            residue, signature, seconds, error, deaths, passed_over, extents, function, weights, was, fresh,
            born, metadata,
        ) = row  # fmt: skip
        file = cls(number, Identity.of_stored(dev, ino, size, mtime_ns, ctime_ns))
        file.read_ns = read_ns
        file.status = _STATUS[status]
        file.layout, file.arrangement, file.base, file.format = layout, arrangement, base, format_
        file.residue, file.signature = residue, signature
        file.seconds, file.error, file.deaths = seconds, error, deaths
        file.passed_over = bool(passed_over)
        file.extents, file.function, file.metadata = extents, function, metadata
        file.weights, file.fresh, file.born = weights, fresh, born
        if was:
            file.was = Weights(was[:32], was[32:])
        return file

    def row(self) -> Row:
        return Row(
            self.id, *self.identity.stored(), bounded(self.read_ns), self.status.value,
            self.layout, self.arrangement, self.base, self.format, self.residue, self.signature,
            self.seconds, self.error, self.deaths, int(self.passed_over),
            self.extents, self.function, self.weights, b"".join(self.was) if self.was else None, self.fresh,
            self.born, self.metadata,
        )  # fmt: skip

    @property
    def path(self) -> bytes:
        """The name under which it is read: the first, but one that has a configuration of PEFT's beside it."""
        names = self.names or self.aside
        return names[0] if len(names) < 2 else next(filter(is_adapter, names), names[0])

    @property
    def twin_key(self) -> tuple[int, bytes] | None:
        """What the files of its weights have in common; None where they are not known."""
        return (self.layout, self.weights) if self.layout is not None and self.weights else None

    @property
    def too_young(self) -> bool:
        """Whether a write in the same tick as the first read could have gone unseen."""
        ctime = self.identity.ctime_ns
        return bool(self.read_ns) and ctime > self.read_ns - tick_of(ctime)


class Store:
    """What is new in records and names, collected for the next `save`."""

    def __init__(self, catalog: Catalog, held: Held) -> None:
        self._catalog = catalog
        self._held = held
        self._dirty: dict[int, File] = {}
        self._new_names: dict[bytes, NameRow] = {}
        self._dropped_names: list[bytes] = []
        self._dropped_files: list[int] = []
        self._facts: dict[int, tuple[bytes, bytes | None]] = {}
        self._tags: dict[int, tuple[int | None, Tags]] = {}
        #: How many were saved, of all times.
        self.tags_saved = 0
        self._kept: dict[str, bytes] = {}
        self._restored: set[int] = set()

    def restored(self, numbers: Iterable[int]) -> None:
        """These records are the catalogue's, and may go through changes until they are what they were."""
        self._restored = set(numbers)

    def changed(self, file: File) -> None:
        """The record differs from the catalogue's."""
        self._dirty[file.id] = file

    def named(self, file: File, path: bytes, config: bytes | None, *, hidden: bool = False) -> None:
        """A name leads to a file, or the configuration beside it says something else."""
        self._new_names[path] = (path, file.id, HIDDEN if hidden else 1, config)

    def unnamed(self, path: bytes) -> None:
        self._new_names.pop(path, None)
        self._dropped_names.append(path)

    def described(self, file: File, facts: bytes, config: bytes | None) -> None:
        """The header of a file was read for facts, which go by a configuration of this digest."""
        self._facts[file.id] = (facts, config)

    def tagged(self, file: File, model: int | None, said: Tags) -> None:
        """A file is of a model that users say this of; see `lorad.catalog.tags`."""
        self._tags[file.id] = (model, said)

    def dropped(self, file: File) -> None:
        self._dirty.pop(file.id, None)
        self._facts.pop(file.id, None)
        self._tags.pop(file.id, None)
        self._dropped_files.append(file.id)

    def lost(self, file: File, path: bytes) -> None:
        """Keep what a name led to. What is new and was not told apart yet was nothing before, and stays new."""
        if file.status is not Status.IGNORED and file.fresh != 1:
            self._held.lost(path, file.identity, file.born, file.layout, file.weights)

    def kept(self, key: str) -> bytes:
        """What the catalogue keeps under a name; empty if there is nothing."""
        return self._kept.get(key) or self._catalog.text(key)

    def keep(self, key: str, value: bytes) -> None:
        """Have the catalogue keep something, together with the files as they are now."""
        self._kept[key] = value

    @property
    def unsaved(self) -> int:
        names = len(self._new_names) + len(self._dropped_names)
        dropped, facts = len(self._dropped_files), len(self._facts) + len(self._tags)
        return len(self._dirty) + names + dropped + facts + len(self._kept) + self._held.unsaved

    def save(self) -> set[bytes] | None:
        """Write what changed into the catalogue's open transaction: the names whose row did, None if nothing had.

        A name's row is that of its file, so with a file all its names are among them.
        """
        self._held.save()
        for key, value in self._kept.items():
            self._catalog.keep(key, value)
        self._kept.clear()
        for file, (facts, config) in self._facts.items():
            self._catalog.facts.save(file, facts, config)
        for file, (model, said) in self._tags.items():
            self._catalog.tags.save(file, model, said)
        self.tags_saved += len(self._tags)
        told = {*self._facts, *self._tags}
        self._facts.clear()
        self._tags.clear()
        rows = [row for row in (file.row() for file in self._dirty.values()) if not self._is_stored(row)]
        if not (rows or self._new_names or self._dropped_names or self._dropped_files):
            self._catalog.facts.refresh(told, ())
            self._dirty.clear()
            return None
        touched = {name for row in rows for name in self._dirty[row.id].names}
        touched.update(self._new_names, self._dropped_names)
        self._catalog.names.drop(self._dropped_names)
        self._catalog.drop_files(self._dropped_files)
        self._catalog.files.save(rows)
        self._catalog.names.save(self._new_names.values())
        files = {*(row.id for row in rows), *told, *self._dropped_files}
        self._catalog.facts.refresh(files, {*self._new_names, *self._dropped_names})
        for book in (self._dirty, self._new_names, self._dropped_names, self._dropped_files):
            book.clear()
        return touched

    def _is_stored(self, row: Row) -> bool:
        """Whether a record went through changes while it was restored, and is now what it was."""
        if row.id not in self._restored:
            return False
        self._restored.remove(row.id)
        return row == self._catalog.files.row(row.id)


def is_under(roots: Iterable[bytes]) -> Callable[[bytes], bool]:
    """A test whether a path lies in one of the roots."""
    prefixes = tuple(os.path.join(root, b"") for root in roots)
    return lambda path: path.startswith(prefixes)
