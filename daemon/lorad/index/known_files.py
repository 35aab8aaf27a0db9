"""All files known now, in memory: by number, by path and by inode, and sums over them that are kept up to date."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator

from loracore.identity import Identity, tick_of
from lorad.catalog import Catalog
from lorad.index.held import Held
from lorad.index.records import HIDDEN, File, Store
from lorad.index.twins import Twins
from lorad.library import Status


class Tally:
    """Sums over files. A file is taken out (-1) before what counts of it changes, and put in (1) after."""

    def __init__(self) -> None:
        #: How many names in view have each status.
        self.counts: Counter[Status] = Counter()
        #: How many files of each layout are being told apart, hidden ones too; None if that is not known yet.
        self.untold: Counter[int | None] = Counter()
        #: Bytes of all files in view that are read or were, each inode once.
        self.bytes_total = 0

    def count(self, file: File, sign: int) -> None:
        """For a change of its names."""
        if names := len(file.names):
            self.counts[file.status] += sign * names
            if file.status is not Status.IGNORED:
                self.bytes_total += sign * file.identity.size

    def count_untold(self, file: File, sign: int) -> None:
        """For its coming and going; both for a change of its status."""
        if file.status is Status.PENDING:
            self.untold[None] += sign
        elif file.status is Status.GROUPED:
            self.untold[file.layout] += sign


class Folders:
    """How many names and folders lie in each folder that has any."""

    def __init__(self, by_path: dict[bytes, File]) -> None:
        self._by_path = by_path
        self._counts: Counter[bytes] = Counter()

    def __contains__(self, folder: bytes) -> bool:
        """Whether some name lies in a folder, at any depth."""
        return folder in self._counts

    def names_under(self, folder: bytes) -> Iterator[bytes]:
        """All names in a folder, at any depth. No name may come or go meanwhile."""
        prefix = os.path.join(folder, b"")
        return (path for path in self._by_path if path.startswith(prefix)) if folder in self else iter(())

    def place(self, path: bytes, sign: int) -> None:
        """Count a name in its folder, and a folder in the one above it."""
        while path:
            path = path.rpartition(b"/")[0]
            count = self._counts[path] + sign
            if count:
                self._counts[path] = count
            else:
                del self._counts[path]
            if count > (sign > 0):
                # It was there before, or is still there.
                return


class Files:
    """All records. What changes is collected in `store` for its next `save`."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self.by_id: dict[int, File] = {}
        self.by_path: dict[bytes, File] = {}
        #: By name, those that are hidden.
        self.hidden: dict[bytes, File] = {}
        #: By name, what the configuration beside it says that changes what the file does, where it says anything.
        self.configs: dict[bytes, bytes] = {}
        self._by_inode: dict[tuple[int, int], File] = {}
        self._next = 1
        self.held = Held(catalog)
        self.store = Store(catalog, self.held)
        self.twins = Twins(self.store, catalog.layouts.signature)
        self.tally = Tally()
        self.folders = Folders(self.by_path)
        #: Whether `load` put other files into view than were in it before.
        self.view_changed = False

    def load(self, under: Callable[[bytes], bool]) -> None:
        """Take up from the catalogue what is hidden, and the files that have a name in the folders looked at now.

        Files elsewhere stay in the catalogue, out of every view, until their folder is looked at again.
        """
        records = {row.id: File.from_row(row) for row in self._catalog.files.rows()}
        self._next = max(records, default=0) + 1
        self.held.load()
        place, count, count_untold = self.folders.place, self.tally.count, self.tally.count_untold
        wake: list[bytes] = []
        sleep: list[bytes] = []
        for path, number, active, config in self._catalog.names.rows():
            file, hidden = records.get(number), active == HIDDEN
            wanted = file is not None and (hidden or under(path))
            if file is not None and wanted:
                if number not in self.by_id:
                    self.by_id[number] = file
                    if not file.passed_over:
                        self._by_inode[file.identity.dev, file.identity.ino] = file
                (file.aside if hidden else file.names).append(path)
                (self.hidden if hidden else self.by_path)[path] = file
                if not hidden:
                    place(path, 1)
                if config is not None:
                    self.configs[path] = config
            elif file is not None and active:
                self.store.lost(file, path)
            if wanted != bool(active):
                (wake if wanted else sleep).append(path)
        self.store.restored(self.by_id)
        for file in self:
            count(file, 1)
            count_untold(file, 1)
            if file.weights is not None or file.was is not None:
                self.twins.load(file)
        self._catalog.names.set_active(1, wake)
        self._catalog.names.set_active(0, sleep)
        self._catalog.facts.refresh((), [*wake, *sleep])
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
        self.tally.count_untold(file, 1)
        self.store.changed(file)
        return file

    def set_status(self, file: File, status: Status) -> None:
        self.tally.count(file, -1)
        self.tally.count_untold(file, -1)
        file.status = status
        self.tally.count_untold(file, 1)
        self.tally.count(file, 1)
        self.store.changed(file)

    def name(self, file: File, path: bytes) -> None:
        self.store.named(file, path, self.configs.get(path), hidden=path in self.hidden)
        self.tally.count(file, -1)
        file.names.append(path)
        self.tally.count(file, 1)
        self.by_path[path] = file
        self.folders.place(path, 1)
        if len(file.names) == 1:
            self.twins.join(file)
        self.twins.stir(file)

    def configure(self, path: bytes, config: bytes | None) -> None:
        """Keep what the configuration beside a name says."""
        if self.configs.get(path) == config:
            return
        if config is None:
            del self.configs[path]
        else:
            self.configs[path] = config
        self.store.named(self.by_path[path], path, config, hidden=path in self.hidden)
        self.twins.stir(self.by_path[path])

    def unname(self, path: bytes, *, ours: bool = False) -> File:
        """Take a name away; the file that had it, which may have none left.

        `ours`: it is named anew at once, with nothing lost.
        """
        file = self.by_path.pop(path)
        self.configs.pop(path, None)
        self.folders.place(path, -1)
        self.tally.count(file, -1)
        file.names.remove(path)
        self.tally.count(file, 1)
        self.twins.stir(file)
        if not file.names:
            self.twins.part(file)
        if not ours:
            self.store.lost(file, path)
        self.store.unnamed(path)
        return file

    def put_aside(self, file: File, path: bytes) -> None:
        """A hidden name of a file."""
        file.aside.append(path)
        self.hidden[path] = file
        self.store.named(file, path, self.configs.get(path), hidden=True)

    def take_back(self, path: bytes) -> File:
        """A hidden name is none of this file any more."""
        file = self.hidden.pop(path)
        file.aside.remove(path)
        self.store.unnamed(path)
        return file

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
        self.store.changed(file)

    def forget(self, file: File, *, ours: bool = False) -> None:
        """Drop a file, its names and all that was learnt from it. `ours`: it is only read anew, as it is."""
        for path in list(file.names):
            self.unname(path, ours=ours)
        for path in list(file.aside):
            self.take_back(path)
        self.twins.forget(file)
        self.tally.count_untold(file, -1)
        del self.by_id[file.id]
        if self._by_inode.get((file.identity.dev, file.identity.ino)) is file:
            del self._by_inode[file.identity.dev, file.identity.ino]
        self.store.dropped(file)

    def __iter__(self) -> Iterator[File]:
        return iter(self.by_id.values())
