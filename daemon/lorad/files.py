"""The files known now, in memory: one record an inode in one state, its names, and its way to the catalogue.

A record is trusted as long as the inode's identity (device, inode, size, mtime, ctime) stays the same. One
whose ctime is as young as the moment it was first read may have been written to within one tick of the
file system's clock, unseen; it is read again in the next run.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from lorad.catalog import Catalog, Row
from lorad.gone import Gone
from lorad.library import Status
from lorad.pipeline.protocol import Identity

#: Coarser than the clock ticks that file systems use for their times, in nanoseconds.
_TICK = 20_000_000
#: The tick of file systems that count whole (FAT: even) seconds.
_COARSE_TICK = 2_000_000_000
_TOLD_APART = frozenset({Status.UNIQUE, Status.DUPLICATE})
_STATUS = {status.value: status for status in Status}


class File:
    """One inode in one state, and what is known of it."""

    __slots__ = (
        "arrangement", "base", "before", "deaths", "error", "extents", "format", "function", "id", "identity",
        "layout", "names", "passed_over", "read_ns", "residue", "seconds", "signature", "status", "was",
    )  # fmt: skip

    def __init__(self, number: int, identity: Identity) -> None:
        self.id = number
        self.identity = identity
        self.names: list[bytes] = []
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
        #: One name that is never opened: its kind already says that it is not to be read.
        self.passed_over = False
        #: Names that this inode, of the same size and mtime, had when it was told apart: until its twin went or
        #: came, or its ctime or name changed and it had to be read anew. Empty once it is told apart again. The
        #: catalogue has them too: reading anew may take longer than lorad runs.
        self.before: tuple[bytes, ...] = ()
        #: The weight signature that this inode had when it was a duplicate, whatever its times were then. Known
        #: since this start alone, or since it lost its names.
        self.was: bytes | None = None
        #: Where its blocks lay when it was last looked at as a duplicate; see `lorad.blocks`.
        self.extents: bytes | None = None
        #: What its header says that changes what its tensors do; empty where that is still to be read.
        self.function: bytes | None = None

    @classmethod
    def from_row(cls, row: Row) -> File:
        # Unpacked at once: a hundred thousand of these are read at each start.
        (
            number, dev, ino, size, mtime_ns, ctime_ns, read_ns, status, layout, arrangement, base, format_,
            residue, signature, seconds, error, deaths, passed_over, before, extents, function,
        ) = row  # fmt: skip
        file = cls(number, Identity(dev % 2**64, ino % 2**64, size, mtime_ns, ctime_ns))
        file.read_ns = read_ns
        file.status = _STATUS[status]
        file.layout, file.arrangement, file.base, file.format = layout, arrangement, base, format_
        file.residue, file.signature = residue, signature
        file.seconds, file.error, file.deaths = seconds, error, deaths
        file.passed_over = bool(passed_over)
        if before:
            file.before = tuple(before.split(b"\0"))
        file.extents, file.function = extents, function
        return file

    def row(self) -> Row:
        dev, ino, size, mtime_ns, ctime_ns = (getattr(self.identity, name) for name in Identity.__struct_fields__)
        return Row(
            self.id, signed(dev), signed(ino), size, mtime_ns, ctime_ns, self.read_ns, self.status.value,
            self.layout, self.arrangement, self.base, self.format, self.residue, self.signature,
            self.seconds, self.error, self.deaths, int(self.passed_over),
            b"\0".join(self.before) or None, self.extents, self.function,
        )  # fmt: skip

    @property
    def too_young(self) -> bool:
        """Whether a write in the same tick as the first read could have gone unseen."""
        ctime = self.identity.ctime_ns
        return bool(self.read_ns) and ctime > self.read_ns - tick_of(ctime)


class Files:
    """All records, by number, by path and by inode. Changes are collected for the next `save`."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self.by_id: dict[int, File] = {}
        self.by_path: dict[bytes, File] = {}
        #: By name, what the configuration beside it says that changes what the file does, where it says anything.
        self.configs: dict[bytes, bytes] = {}
        self._by_inode: dict[tuple[int, int], File] = {}
        self.gone = Gone(catalog)
        #: How many names and folders lie in each folder that has any.
        self._folders: Counter[bytes] = Counter()
        self._next = 1
        self._dirty: dict[int, File] = {}
        self._new_names: dict[bytes, int] = {}
        self._dropped_names: list[bytes] = []
        self._dropped_files: list[int] = []
        self._restored: set[int] = set()
        #: How many records have each status.
        self.counts: Counter[Status] = Counter()
        #: Bytes of all files that are read or were, each inode once.
        self.bytes_total = 0
        #: Whether `load` put other files into view than were in it before.
        self.view_changed = False

    def load(self, under: Callable[[bytes], bool]) -> None:
        """Take up from the catalogue the files that have a name in the folders that are looked at now.

        Files elsewhere stay in the catalogue, out of every view, until their folder is looked at again.
        """
        records = {row.id: File.from_row(row) for row in self._catalog.rows()}
        self._next = max(records, default=0) + 1
        self.gone.load()
        wake: list[bytes] = []
        sleep: list[bytes] = []
        for path, number, active, config in self._catalog.names():
            file = records.get(number)
            wanted = file is not None and under(path)
            if wanted and file is not None:
                if number not in self.by_id:
                    self.by_id[number] = file
                    self._count(file, 1)
                    if not file.passed_over:
                        self._by_inode[file.identity.dev, file.identity.ino] = file
                file.names.append(path)
                self.by_path[path] = file
                if config is not None:
                    self.configs[path] = config
                self._place(path, 1)
            if wanted != bool(active):
                (wake if wanted else sleep).append(path)
        self._restored = set(self.by_id)
        self._catalog.set_active(1, wake)
        self._catalog.set_active(0, sleep)
        self.view_changed = bool(wake or sleep)

    def at_inode(self, identity: Identity) -> File | None:
        """The record of this inode, in whatever state it was when it was last seen."""
        return self._by_inode.get((identity.dev, identity.ino))

    def add(self, identity: Identity) -> File:
        """A new record, for an inode to be read."""
        file = self._new(identity)
        self._by_inode[identity.dev, identity.ino] = file
        file.before, file.was = self.gone.back(identity)
        return file

    def pass_over(self, identity: Identity, status: Status, reason: str) -> File:
        """A new record for one name that is not read, whatever other names its inode has."""
        file = self._new(identity)
        self.set_status(file, status)
        file.error = reason
        file.passed_over = True
        return file

    def _new(self, identity: Identity) -> File:
        file = self.by_id[self._next] = File(self._next, identity)
        self._next += 1
        self._count(file, 1)
        self.changed(file)
        return file

    def set_status(self, file: File, status: Status) -> None:
        self._count(file, -1)
        if file.status is not status and file.status in _TOLD_APART:
            # Its twin may have gone to be read anew, and it may be next.
            file.before += tuple(file.names)
            for path in file.names:
                self._leaves(file, path)
            if file.status is Status.DUPLICATE:
                file.was = file.signature
        file.status = status
        self._count(file, 1)
        self.changed(file)

    def _count(self, file: File, sign: int) -> None:
        self.counts[file.status] += sign
        if file.status is not Status.IGNORED:
            self.bytes_total += sign * file.identity.size

    def name(self, file: File, path: bytes) -> None:
        file.names.append(path)
        self.by_path[path] = file
        self._place(path, 1)
        self._new_names[path] = file.id

    def configure(self, path: bytes, config: bytes | None) -> None:
        """Keep what the configuration beside a name says."""
        if self.configs.get(path) == config:
            return
        if config is None:
            del self.configs[path]
        else:
            self.configs[path] = config
        self._new_names[path] = self.by_path[path].id

    def unname(self, path: bytes) -> File:
        """Take a name away; the file that had it, which may have none left."""
        file = self.by_path.pop(path)
        self.configs.pop(path, None)
        self._place(path, -1)
        file.names.remove(path)
        if file.status in _TOLD_APART:
            file.before += (path,)
            self._leaves(file, path)
        self._new_names.pop(path, None)
        self._dropped_names.append(path)
        return file

    def _leaves(self, file: File, path: bytes) -> None:
        """A name does not lead to what it led to any more, or that is not the same as another file any more."""
        if file.status is Status.DUPLICATE and file.signature is not None:
            self.gone.lost(path, file.signature)

    def has_folder(self, folder: bytes) -> bool:
        """Whether some name lies in a folder, at any depth."""
        return folder in self._folders

    def names_under(self, folder: bytes) -> Iterator[bytes]:
        """All names in a folder, at any depth. No name may come or go meanwhile."""
        prefix = os.path.join(folder, b"")
        return (path for path in self.by_path if path.startswith(prefix)) if folder in self._folders else iter(())

    def _place(self, path: bytes, sign: int) -> None:
        """Count a name in its folder, and a folder in the one above it."""
        while path:
            path = path.rpartition(b"/")[0]
            count = self._folders[path] + sign
            if count:
                self._folders[path] = count
            else:
                del self._folders[path]
            if count > (sign > 0):
                # It was there before, or is still there.
                return

    def restamp(self, file: File, identity: Identity) -> None:
        """A file's device has another number than it had, or its inode another ctime; all else is the same."""
        if self._by_inode.get((file.identity.dev, file.identity.ino)) is file:
            del self._by_inode[file.identity.dev, file.identity.ino]
        file.identity = identity
        self._by_inode[identity.dev, identity.ino] = file
        self.changed(file)

    def forget(self, file: File) -> None:
        """Drop a file, its names and all that was learnt from it."""
        for path in list(file.names):
            self.unname(path)
        del self.by_id[file.id]
        self._count(file, -1)
        if self._by_inode.get((file.identity.dev, file.identity.ino)) is file:
            del self._by_inode[file.identity.dev, file.identity.ino]
        self._dirty.pop(file.id, None)
        self._dropped_files.append(file.id)
        if file.before:
            weights = file.signature if file.status is Status.DUPLICATE else file.was
            self.gone.went(file.identity, file.before, weights)

    def changed(self, file: File) -> None:
        """The record differs from the catalogue's."""
        self._dirty[file.id] = file

    @property
    def unsaved(self) -> int:
        return len(self._dirty) + len(self._new_names) + len(self._dropped_names) + len(self._dropped_files)

    def save(self) -> set[bytes] | None:
        """Write what changed into the catalogue's open transaction: the names whose row did, None if nothing had.

        A name's row is that of its file, so with a file all its names are among them.
        """
        rows = [row for row in (file.row() for file in self._dirty.values()) if not self._is_stored(row)]
        if not (rows or self._new_names or self._dropped_names or self._dropped_files):
            self._dirty.clear()
            return None
        touched = {name for row in rows for name in self.by_id[row.id].names}
        touched.update(self._new_names, self._dropped_names)
        self._catalog.drop_names(self._dropped_names)
        self._catalog.drop_files(self._dropped_files)
        self._catalog.save_files(rows)
        self._catalog.save_names((path, file, self.configs.get(path)) for path, file in self._new_names.items())
        self.gone.save()
        for book in (self._dirty, self._new_names, self._dropped_names, self._dropped_files):
            book.clear()
        return touched

    def _is_stored(self, row: Row) -> bool:
        """Whether a record went through changes while it was restored, and is now what it was."""
        if row.id not in self._restored:
            return False
        self._restored.remove(row.id)
        return row == self._catalog.row(row.id)

    def __iter__(self) -> Iterator[File]:
        return iter(self.by_id.values())


def tick_of(ctime_ns: int) -> int:
    """Nanoseconds within which a file's times may stay what they are although it is written to."""
    return _COARSE_TICK if ctime_ns % 1_000_000_000 == 0 else _TICK


def is_under(roots: Iterable[bytes]) -> Callable[[bytes], bool]:
    """A test whether a path lies in one of the roots."""
    prefixes = tuple(os.path.join(root, b"") for root in roots)
    return lambda path: path.startswith(prefixes)


def signed(number: int) -> int:
    """An unsigned 64-bit number as SQLite's signed one."""
    return number - 2**64 if number >= 2**63 else number
