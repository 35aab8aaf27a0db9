"""Whether two folders are one storage under two names, so that a file may be the copy of itself.

A union mount and its branches, an overlay and its layers, a share mounted on its own server: neither devices nor
inodes nor the names of file systems say it. A file made in one folder that shows up in the other does. Its name is
random and was never asked for before, since FUSE and network file systems remember for minutes which names are
not there.
"""

from __future__ import annotations

import enum
import os
import unicodedata
from contextlib import suppress

from lorad.dedupe.abilities import opened, probe, remove_leftovers
from lorad.watch.mounts import Mounted, is_plain
from lorad.watch.statx import Status, may_change, statx

ITSELF = "it is the kept file itself, seen through another mount; watch one of the two folders only"
MAYBE_ITSELF = "it may be the kept file itself, seen through another mount; left to `loractl dedupe --apply`"
#: Answers remembered.
_MOST = 100_000


class Alias(enum.Enum):
    """Whether two names lead to one storage. UNKNOWN: it may be, and nothing proves it."""

    NO = "no"
    ONE = "one"
    UNKNOWN = "unknown"


class Aliases:
    """For one thread. Answers are remembered as long as nothing is mounted or unmounted.

    Two plain local file systems are asked once for all their folders; where one is an overlay, on FUSE or on a
    network, each pair of folders.
    """

    def __init__(self, mounted: Mounted) -> None:
        self._mounted = mounted
        self._generation = 0
        self._known: dict[frozenset[tuple[int, int]], Alias] = {}

    def close(self) -> None:
        self._mounted.close()

    def between(self, one: bytes, other: bytes, *, fresh: bool = False) -> Alias:
        """Of two folders. `fresh`: asked anew, as before a file is removed for good."""
        if self._generation != self._mounted.renew():
            self._generation = self._mounted.generation
            self._known.clear()
        try:
            first, second = statx(one), statx(other)
        except OSError:
            return Alias.UNKNOWN
        if (first.dev, first.ino) == (second.dev, second.ino):
            return Alias.ONE
        plain = self._is_plain(one, first) and self._is_plain(other, second)
        if plain and first.dev == second.dev:
            return Alias.NO
        key = frozenset((each.dev, 0 if plain else each.ino) for each in (first, second))
        if fresh or key not in self._known:
            if len(self._known) >= _MOST:
                self._known.clear()
            self._known[key] = _ask(one, other, plain=plain)
        answer = self._known[key]
        if answer is Alias.UNKNOWN and plain:
            # Neither folder could be written; others there may be.
            del self._known[key]
        return answer

    def same_file(self, one: bytes, other: bytes, *, fresh: bool = False) -> Alias:
        """Of two files by their paths, which need not be there any more: ONE for one entry of one folder.

        So are two names of one inode. Other names in one folder are other files, or hard links, of which none is
        lost with the other.
        """
        with suppress(OSError):
            if os.path.samestat(os.lstat(one), os.lstat(other)):
                return Alias.ONE
        if _spelled(one) != _spelled(other):
            return Alias.NO
        return self.between(os.path.dirname(one), os.path.dirname(other), fresh=fresh)

    def refusal(self, gone: bytes, kept: bytes, *, by_itself: bool = False, fresh: bool = False) -> str:
        """Why `gone` may not be acted on for `kept`, as they may be one; empty where it may.

        `by_itself`: no one asked for it, so that between two devices it is done only where they are surely two.
        """
        if self.same_file(gone, kept, fresh=fresh) is Alias.ONE:
            return ITSELF
        folders = os.path.dirname(gone), os.path.dirname(kept)
        if by_itself and _are_two_devices(*folders) and self.between(*folders, fresh=fresh) is Alias.UNKNOWN:
            return MAYBE_ITSELF
        return ""

    def _is_plain(self, folder: bytes, status: Status) -> bool:
        return is_plain(self._mounted.mount(folder, status))


def _ask(one: bytes, other: bytes, *, plain: bool) -> Alias:
    """Both ways, since what is made in a union mount may come to lie in another of its branches."""
    shown = _shows(one, other)
    if not shown:
        back = _shows(other, one)
        shown = back if back is not None else shown
    if shown:
        return Alias.ONE
    return Alias.NO if plain and shown is not None else Alias.UNKNOWN


def _shows(made_in: bytes, seen_in: bytes) -> bool | None:
    """Whether a file made in one folder is seen in the other; None where none can be made, or looked for."""
    if not may_change(made_in):
        return None
    try:
        with opened(made_in) as fd, opened(seen_in) as other:
            remove_leftovers(fd)
            with probe(fd) as name:
                try:
                    os.stat(name, dir_fd=other, follow_symlinks=False)
                except FileNotFoundError:
                    return False
                return True
    except OSError:
        return None


def _are_two_devices(one: bytes, other: bytes) -> bool:
    try:
        return os.stat(one).st_dev != os.stat(other).st_dev
    except OSError:
        return True


def _spelled(path: bytes) -> str:
    """A file's name as file systems may spell it that know no case, or compose letters in another way."""
    return unicodedata.normalize("NFC", os.fsdecode(os.path.basename(path))).casefold()
