"""What was in view when a root was last looked through to its end, as the catalogue keeps it.

It answers two questions. A name that is met for the first time may be new, or may have come into view at once with
all that is beside it (`first_look`). A name that is not found may be gone, or may lie on what is not mounted now,
or below what is mounted there (`is_covered`).
"""

from __future__ import annotations

import atexit
import functools
import os
from collections.abc import Mapping, Sequence

import msgspec

from loracore.tensorfile import SUFFIXES, has_reader
from lorad.index.known_files import Files
from lorad.watch import timed_calls
from lorad.watch.exclude import Exclude
from lorad.watch.mounts import Mount, MountTable, find, inside, is_below, is_remote
from lorad.watch.scanner import Seen, look

#: Under this name the catalogue keeps how each root was looked at.
_KEY = "looked"


class Place(msgspec.Struct, frozen=True):
    """What shows at a mount point: a folder of a file system (`f_fsid` of statvfs(3); 0 if unknown)."""

    folder: bytes
    fsid: int

    def shows(self, point: bytes, path: bytes) -> bytes:
        """The folder or file of the file system that a path below the mount point leads to."""
        return self.folder.rstrip(b"/") + path[len(point.rstrip(b"/")) :]


class Looked(msgspec.Struct, frozen=True):
    """How a root was looked at. `away`: mount points of names that are out of view, and what showed there."""

    inode: int
    exclude: tuple[str, ...]
    follow: bool
    suffixes: tuple[bytes, ...]
    #: By mount point; the root is one.
    places: dict[bytes, Place]
    away: tuple[tuple[bytes, Place], ...] = ()


_DECODER = msgspec.msgpack.Decoder(dict[bytes, Looked])


class View:
    """What is in view of `roots` by these rules, and what was."""

    def __init__(self, files: Files, roots: Sequence[bytes], *, exclude: Exclude, follow: bool) -> None:
        self._files = files
        #: As they were given.
        self.roots = roots
        self._innermost_first = sorted(roots, key=len, reverse=True)
        self.exclude = exclude
        self.follow = follow
        self._mounts: Sequence[Mount] | None = None
        self._now: dict[bytes, dict[bytes, Place]] = {}
        self._looked = {root: looked for root, looked in _read(files).items() if root in roots}
        self._excluded = {root: Exclude(looked.exclude, roots) for root, looked in self._looked.items()}
        #: Roots in which something else is mounted than when they were looked through.
        self._moved: set[bytes] = set()
        #: Folders that came into view at once, as the watch says, until they are looked through.
        self.entered: set[bytes] = set()
        #: Known names that lie elsewhere than the last look says: the mount point, and what showed there.
        self._elsewhere: dict[bytes, tuple[bytes, Place]] = {}
        for looked in self._looked.values():
            for point, place in looked.away:
                self._elsewhere.update((path, (point, place)) for path in files.folders.names_under(point))

    def root(self, path: bytes) -> bytes | None:
        """The innermost root that a path lies in."""
        return next((root for root in self._innermost_first if is_below(path, root)), None)

    def has(self, path: bytes) -> bool:
        """Whether a name lies in a root and is not left out of it."""
        return self.root(path) is not None and not self.exclude(path)

    def look(self, path: bytes) -> Seen | None:
        """What is at a name now; None where nothing is."""
        return look(path, follow=self.follow)

    def first_look(self, path: bytes) -> bool:
        """Whether a name that is not known was out of view until now, so that it may have been there for long."""
        root = self.root(path)
        looked = self._looked.get(root) if root is not None else None
        if root is None or looked is None or any(is_below(path, folder) for folder in self.entered):
            return True
        self._refresh()
        return (
            looked.inode != _inode(root)
            or (looked.exclude != self.exclude.patterns and self._excluded[root](path))
            or (self.follow and not looked.follow and timed_calls.real(path) != path)
            or (has_reader(path) and _suffix(path) not in looked.suffixes)
            or (root in self._moved and self._is_elsewhere(root, looked, path))
            or self._could_not_be_listed(root, path)
        )

    def _is_elsewhere(self, root: bytes, looked: Looked, path: bytes) -> bool:
        """Whether a path leads elsewhere than when its root was looked through."""
        then, now = _layer(looked.places, path), _layer(self._now[root], path)
        return then[1].fsid != now[1].fsid or _shown(then, path) != _shown(now, path)

    def _could_not_be_listed(self, root: bytes, path: bytes) -> bool:
        """Whether a folder on the way to a name is known as one that could not be looked into."""
        while path != root:
            path = path.rpartition(b"/")[0]
            if path in self._files.by_path:
                return True
        return False

    def found(self, path: bytes) -> None:
        """A name was found: where it is now is where it is known."""
        if not self._moved and not self._elsewhere:
            return
        self._elsewhere.pop(path, None)
        root = self.root(path)
        if root is not None and root in self._moved:
            self._elsewhere[path] = _layer(self._now[root], path)

    def is_covered(self, path: bytes) -> bool:
        """Whether something else shows where a known name was: its disk is not mounted, or another one over it."""
        root = self.root(path)
        if root is None:
            return True
        self._refresh()
        looked, known = self._looked.get(root), self._elsewhere.get(path)
        if known is None and looked is None:
            return False
        known = known or _layer(looked.places if looked else {}, path)
        # Not by number: that of some file systems is another one when the system was started again.
        if _shown(known, path) == _shown(_layer(self._now[root], path), path):
            return False
        self._elsewhere[path] = known
        return True

    def is_where_it_was(self, path: bytes) -> bool:
        """Whether the very file system shows where a known name lay that did when it was last looked at."""
        root = self.root(path)
        looked = self._looked.get(root) if root is not None else None
        if root is None or looked is None:
            return False
        self._refresh()
        then, now = self._elsewhere.get(path) or _layer(looked.places, path), _layer(self._now[root], path)
        return then[1].fsid == now[1].fsid != 0 and _shown(then, path) == _shown(now, path)

    def went_with_its_subvolume(self, path: bytes) -> bool:
        """Whether a name lay in a subvolume of Btrfs that was deleted, and not unmounted.

        A subvolume has a number of its own, and leaves no folder where it was.
        """
        while not timed_calls.may_be_there(folder := os.path.dirname(path)):
            path = folder
        mount = find(self._mounts or (), folder)
        return mount is not None and mount.kind == b"btrfs"

    def begin(self, root: bytes) -> Looked:
        """How a root is looked at now."""
        self._refresh(root)
        suffixes = tuple(sorted(SUFFIXES))
        return Looked(_inode(root), self.exclude.patterns, self.follow, suffixes, self._now[root])

    def end(self, root: bytes, looked: Looked) -> None:
        """A root was looked through to its end. Unless it changed meanwhile, that is what counts from now on."""
        if looked != self.begin(root):
            return
        away: dict[tuple[bytes, Place], None] = {}
        for path, known in list(self._elsewhere.items()):
            if self.root(path) != root:
                continue
            if _shown(known, path) == _shown(_layer(looked.places, path), path):
                del self._elsewhere[path]
            else:
                away[known] = None
        looked = msgspec.structs.replace(looked, away=tuple(away))
        if looked != self._looked.get(root):
            self._looked[root], self._excluded[root] = looked, self.exclude
            self._files.store.keep(_KEY, msgspec.msgpack.encode(self._looked))
        self._moved.discard(root)

    def _refresh(self, root: bytes | None = None) -> None:
        """See what is mounted, if that has changed, or else in one root."""
        table = _table()
        table.changed()
        roots = self.roots if table.mounts is not self._mounts else [] if root is None else [root]
        self._mounts = table.mounts
        for each in roots:
            self._now[each] = _places(table.mounts, each)
            if each in self._looked and self._looked[each].places != self._now[each]:
                self._moved.add(each)
            else:
                self._moved.discard(each)


@functools.cache
def _table() -> MountTable:
    """One for this process, in which one thread asks."""
    table = MountTable()
    atexit.register(table.close)
    return table


def _read(files: Files) -> dict[bytes, Looked]:
    try:
        return _DECODER.decode(files.store.kept(_KEY))
    except msgspec.MsgspecError:
        # Never looked, or by a lorad that wrote it otherwise: then what is found is old.
        return {}


def _places(mounts: Sequence[Mount], root: bytes) -> dict[bytes, Place]:
    """What shows at a root and at each mount point in it."""
    covering = find(mounts, root) or Mount(b"/", b"", 0)
    top = Place(covering.root, 0).shows(covering.point, root)
    places = {point: Place(mount.root, _fsid(mount, point)) for point, mount in inside(mounts, root).items()}
    return {root: Place(top, _fsid(covering, root)), **places}


def _fsid(mount: Mount, folder: bytes) -> int:
    # A server that does not answer is not asked.
    try:
        return 0 if is_remote(mount) else timed_calls.do(folder, os.statvfs, folder).f_fsid
    except OSError:
        return 0


def _layer(places: Mapping[bytes, Place], path: bytes) -> tuple[bytes, Place]:
    """The mount point that a path lies below, and what shows there."""
    point = max((point for point in places if is_below(path, point)), key=len)
    return point, places[point]


def _shown(layer: tuple[bytes, Place], path: bytes) -> bytes:
    point, place = layer
    return place.shows(point, path)


def _suffix(path: bytes) -> bytes:
    return os.path.splitext(path)[1].lower()


def _inode(folder: bytes) -> int:
    try:
        return timed_calls.stat(folder).st_ino
    except OSError:
        return 0
