"""The files known now, in memory: one record an inode in one state, its names, and its way to the catalogue.

A record is trusted as long as the inode's identity (device, inode, size, mtime, ctime) stays the same. One
whose ctime is as young as the moment it was first read may have been written to within one tick of the
file system's clock, unseen; it is read again in the next run.

What de-duplication has hidden stays a file among the others, but in no view: its names are in `File.aside` and
`Files.hidden` instead of `File.names` and `Files.by_path`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from loracore.identity import Identity, bounded, tick_of
from lorad.catalog import Catalog, Row
from lorad.index.held import Held, Weights
from lorad.library import Status

#: A name that is hidden has this as its `active` in the catalogue.
_HIDDEN = 2
_STATUS = {status.value: status for status in Status}


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
        """The name under which it is read."""
        return (self.names or self.aside)[0]

    @property
    def twin_key(self) -> tuple[int, bytes] | None:
        """What the files of its weights have in common; None where they are not known."""
        return (self.layout, self.weights) if self.layout is not None and self.weights else None

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
        #: By name, those that are hidden.
        self.hidden: dict[bytes, File] = {}
        #: By name, what the configuration beside it says that changes what the file does, where it says anything.
        self.configs: dict[bytes, bytes] = {}
        self._by_inode: dict[tuple[int, int], File] = {}
        #: Files in view of the same weights, by layout and weights, then by number.
        self.twins: dict[tuple[int, bytes], dict[int, File]] = {}
        #: Files in `twins` that are new there, or have got company or lost the last, until they are shown as what
        #: they are now.
        self.companions: list[File] = []
        #: Numbers of files that may hold these weights still, as their inode or name did; see `File.was`.
        self.unread: dict[Weights, set[int]] = {}
        #: Weights of which a name was lost, gained or changed since they were taken: by the number of the layout,
        #: and by its signature.
        self._moved: set[tuple[int, bytes]] = set()
        self._stirred: set[Weights] = set()
        self.held = Held(catalog)
        #: How many names and folders lie in each folder that has any.
        self._folders: Counter[bytes] = Counter()
        self._next = 1
        self._dirty: dict[int, File] = {}
        self._new_names: dict[bytes, int] = {}
        self._dropped_names: list[bytes] = []
        self._dropped_files: list[int] = []
        self._kept: dict[str, bytes] = {}
        self._restored: set[int] = set()
        #: How many names in view have each status.
        self.counts: Counter[Status] = Counter()
        #: How many files of each layout are being told apart, hidden ones too; None if that is not known yet.
        self.untold: Counter[int | None] = Counter()
        #: Bytes of all files in view that are read or were, each inode once.
        self.bytes_total = 0
        #: Whether `load` put other files into view than were in it before.
        self.view_changed = False

    def load(self, under: Callable[[bytes], bool]) -> None:
        """Take up from the catalogue what is hidden, and the files that have a name in the folders looked at now.

        Files elsewhere stay in the catalogue, out of every view, until their folder is looked at again.
        """
        records = {row.id: File.from_row(row) for row in self._catalog.files.rows()}
        self._next = max(records, default=0) + 1
        self.held.load()
        wake: list[bytes] = []
        sleep: list[bytes] = []
        for path, number, active, config in self._catalog.names.rows():
            file, hidden = records.get(number), active == _HIDDEN
            wanted = file is not None and (hidden or under(path))
            if file is not None and wanted:
                if number not in self.by_id:
                    self.by_id[number] = file
                    if not file.passed_over:
                        self._by_inode[file.identity.dev, file.identity.ino] = file
                (file.aside if hidden else file.names).append(path)
                (self.hidden if hidden else self.by_path)[path] = file
                if not hidden:
                    self._place(path, 1)
                if config is not None:
                    self.configs[path] = config
            elif file is not None and active:
                self._loses(file, path)
            if wanted != bool(active):
                (wake if wanted else sleep).append(path)
        self._restored = set(self.by_id)
        for file in self:
            self._count(file, 1)
            self._count_untold(file, 1)
            if file.names and (key := file.twin_key) is not None:
                self.twins.setdefault(key, {})[file.id] = file
            if file.was is not None:
                self.unread.setdefault(file.was, set()).add(file.id)
        self._catalog.names.set_active(1, wake)
        self._catalog.names.set_active(0, sleep)
        self.held.save()
        self.view_changed = bool(wake or sleep)

    def at_inode(self, identity: Identity) -> File | None:
        """The record of this inode, in whatever state it was when it was last seen."""
        return self._by_inode.get((identity.dev, identity.ino))

    def add(self, identity: Identity, born: int | None = None, *, fresh: int = 0) -> File:
        """A new record, for an inode to be read."""
        file = self._new(identity)
        file.born, file.fresh = born, fresh
        self._by_inode[identity.dev, identity.ino] = file
        return file

    def pass_over(self, identity: Identity, status: Status, reason: str, *, fresh: int = 0) -> File:
        """A new record for one name that is not read, whatever other names its inode has."""
        file = self._new(identity)
        file.fresh = fresh
        self.set_status(file, status)
        file.error = reason
        file.passed_over = True
        return file

    def _new(self, identity: Identity) -> File:
        file = self.by_id[self._next] = File(self._next, identity)
        self._next += 1
        self._count_untold(file, 1)
        self.changed(file)
        return file

    def set_status(self, file: File, status: Status) -> None:
        self._count(file, -1)
        self._count_untold(file, -1)
        file.status = status
        self._count_untold(file, 1)
        self._count(file, 1)
        self.changed(file)

    def told_apart(self, file: File, weights: bytes | None = None) -> None:
        """It is known what a file is, as it never was or as it is again. `weights`: of all its layers."""
        self.may_be(file, None)
        if file.fresh:
            file.fresh = 2
        if weights is not None and file.weights is None:
            file.weights = weights
            self._joins(file)

    def grow_old(self) -> None:
        """No file is new any more."""
        for file in self:
            if file.fresh:
                file.fresh = 0
                self.changed(file)

    def lost_hold(self, file: File) -> None:
        """A file that was told apart cannot be read any more."""
        if file.weights is not None:
            self._parts(file)
            self.may_be(file, self.weights_of(file))
            file.weights = None

    def weights_of(self, file: File) -> Weights | None:
        """The weights of a file, or those that it may have as it had them."""
        if (key := file.twin_key) is None:
            return file.was
        return Weights(self._catalog.layouts.signature(key[0]), key[1])

    def may_be(self, file: File, was: Weights | None) -> None:
        """Say what a file may still be, as its inode or its name was it."""
        if file.was == was:
            return
        for weights in filter(None, (file.was, was)):
            self._stirred.add(weights)
        if file.was is not None:
            self._forget_unread(file, file.was)
        if was is not None:
            self.unread.setdefault(was, set()).add(file.id)
        file.was = was
        self.changed(file)

    def _forget_unread(self, file: File, was: Weights) -> None:
        numbers = self.unread[was]
        numbers.discard(file.id)
        if not numbers:
            del self.unread[was]

    def _joins(self, file: File) -> None:
        """A file whose weights are known is in view, or its weights are known now."""
        if (key := file.twin_key) is not None and file.names:
            twins = self.twins.setdefault(key, {})
            twins[file.id] = file
            self._moved.add(key)
            if len(twins) == 2:
                # The one that was met first is the first, whichever was told apart before the other.
                self.twins[key] = twins = dict(sorted(twins.items()))
            self.companions += twins.values() if len(twins) == 2 else [file]

    def _parts(self, file: File) -> None:
        """A file is not in view any more, or nothing certain is known of it."""
        if (key := file.twin_key) is not None and (twins := self.twins.get(key)) and twins.pop(file.id, None):
            self._moved.add(key)
            if len(twins) == 1:
                self.companions += twins.values()
            elif not twins:
                del self.twins[key]

    def take_moved(self, signature: Callable[[int], bytes]) -> set[Weights]:
        """Weights of which a name was lost, gained or changed since the last time."""
        moved = {Weights(signature(layout), digests) for layout, digests in self._moved} | self._stirred
        self._moved, self._stirred = set(), set()
        return moved

    def _count_untold(self, file: File, sign: int) -> None:
        if file.status is Status.PENDING:
            self.untold[None] += sign
        elif file.status is Status.GROUPED:
            self.untold[file.layout] += sign

    def _count(self, file: File, sign: int) -> None:
        if names := len(file.names):
            self.counts[file.status] += sign * names
            if file.status is not Status.IGNORED:
                self.bytes_total += sign * file.identity.size

    def name(self, file: File, path: bytes) -> None:
        self._new_names[path] = file.id
        self._count(file, -1)
        file.names.append(path)
        self._count(file, 1)
        self.by_path[path] = file
        self._place(path, 1)
        if len(file.names) == 1:
            self._joins(file)
        self._stir(file)

    def configure(self, path: bytes, config: bytes | None) -> None:
        """Keep what the configuration beside a name says."""
        if self.configs.get(path) == config:
            return
        if config is None:
            del self.configs[path]
        else:
            self.configs[path] = config
        self._new_names[path] = self.by_path[path].id
        self._stir(self.by_path[path])

    def unname(self, path: bytes, *, ours: bool = False) -> File:
        """Take a name away; the file that had it, which may have none left.

        `ours`: it is named anew at once, with nothing lost.
        """
        file = self.by_path.pop(path)
        self.configs.pop(path, None)
        self._place(path, -1)
        self._count(file, -1)
        file.names.remove(path)
        self._count(file, 1)
        self._stir(file)
        if not file.names:
            self._parts(file)
        if not ours:
            self._loses(file, path)
        self._new_names.pop(path, None)
        self._dropped_names.append(path)
        return file

    def _loses(self, file: File, path: bytes) -> None:
        """Keep what a name led to. What is new and was not told apart yet was nothing before, and stays new."""
        if file.status is not Status.IGNORED and file.fresh != 1:
            self.held.lost(path, file.identity, file.born, file.layout, file.weights)

    def _stir(self, file: File) -> None:
        if (key := file.twin_key) is not None:
            self._moved.add(key)

    def put_aside(self, file: File, path: bytes) -> None:
        """A hidden name of a file."""
        file.aside.append(path)
        self.hidden[path] = file
        self._new_names[path] = file.id

    def take_back(self, path: bytes) -> File:
        """A hidden name is none of this file any more."""
        file = self.hidden.pop(path)
        file.aside.remove(path)
        self._new_names.pop(path, None)
        self._dropped_names.append(path)
        return file

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
        certain = file.read_ns and not file.too_young
        file.identity = identity
        if certain:
            # Since the last read, a write would have changed its mtime as well.
            file.read_ns = max(file.read_ns, identity.ctime_ns + tick_of(identity.ctime_ns))
        self._by_inode[identity.dev, identity.ino] = file
        self.changed(file)

    def forget(self, file: File, *, ours: bool = False) -> None:
        """Drop a file, its names and all that was learnt from it. `ours`: it is only read anew, as it is."""
        for path in list(file.names):
            self.unname(path, ours=ours)
        for path in list(file.aside):
            self.take_back(path)
        if file.was is not None:
            self._forget_unread(file, file.was)
            self._stirred.add(file.was)
        self._count_untold(file, -1)
        del self.by_id[file.id]
        if self._by_inode.get((file.identity.dev, file.identity.ino)) is file:
            del self._by_inode[file.identity.dev, file.identity.ino]
        self._dirty.pop(file.id, None)
        self._dropped_files.append(file.id)

    def changed(self, file: File) -> None:
        """The record differs from the catalogue's."""
        self._dirty[file.id] = file

    def kept(self, key: str) -> bytes:
        """What the catalogue keeps under a name; empty if it was never told."""
        return self._kept.get(key) or self._catalog.text(key)

    def keep(self, key: str, value: bytes) -> None:
        """Have the catalogue keep something, together with the files as they are now."""
        self._kept[key] = value

    @property
    def unsaved(self) -> int:
        names = len(self._new_names) + len(self._dropped_names)
        return len(self._dirty) + names + len(self._dropped_files) + len(self._kept) + self.held.unsaved

    def save(self) -> set[bytes] | None:
        """Write what changed into the catalogue's open transaction: the names whose row did, None if nothing had.

        A name's row is that of its file, so with a file all its names are among them.
        """
        self.held.save()
        for key, value in self._kept.items():
            self._catalog.keep(key, value)
        self._kept.clear()
        rows = [row for row in (file.row() for file in self._dirty.values()) if not self._is_stored(row)]
        if not (rows or self._new_names or self._dropped_names or self._dropped_files):
            self._dirty.clear()
            return None
        touched = {name for row in rows for name in self.by_id[row.id].names}
        touched.update(self._new_names, self._dropped_names)
        self._catalog.names.drop(self._dropped_names)
        self._catalog.drop_files(self._dropped_files)
        self._catalog.files.save(rows)
        self._catalog.names.save(
            (path, file, _HIDDEN if path in self.hidden else 1, self.configs.get(path))
            for path, file in self._new_names.items()
        )
        for book in (self._dirty, self._new_names, self._dropped_names, self._dropped_files):
            book.clear()
        return touched

    def _is_stored(self, row: Row) -> bool:
        """Whether a record went through changes while it was restored, and is now what it was."""
        if row.id not in self._restored:
            return False
        self._restored.remove(row.id)
        return row == self._catalog.files.row(row.id)

    def __iter__(self) -> Iterator[File]:
        return iter(self.by_id.values())


def is_under(roots: Iterable[bytes]) -> Callable[[bytes], bool]:
    """A test whether a path lies in one of the roots."""
    prefixes = tuple(os.path.join(root, b"") for root in roots)
    return lambda path: path.startswith(prefixes)
