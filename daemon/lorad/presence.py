"""Which names there are, and which inode in which state each of them leads to.

News come in two ways: a sweep looks through a whole folder and sees what is there and what is not, and a
touch is about one name. What follows for the library goes through `do`, what people may want to know
through `tell`.
"""

from __future__ import annotations

import os
import sqlite3
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from loracore.control import Event, FileFailedEvent, FileGone, FileSeen
from loracore.errors import StateError
from loracore.identity import Identity
from loracore.paths import shown
from lorad.files import File, Files, is_under
from lorad.library import Instruction, Library, Status
from lorad.pipeline.health import PipelineBrokenError
from lorad.pipeline.protocol import OUR_MISTAKE
from lorad.watch import calls
from lorad.watch.scanner import Seen, look, look_through

#: A file that changes this often while it is read is left alone until it is touched again.
_ATTEMPTS = 5
#: Sweeps of single folders that may wait; beyond, their roots are swept whole.
_SWEEPS = 16
#: A file that kills this many loaders is failed.
DEATHS = 3


class Sweep:
    """One look through a folder: `walk` gives what is there, `unseen` are the known names not met yet."""

    def __init__(self, folder: bytes, root: bytes, walked: Iterator[Seen | None], unseen: set[bytes]) -> None:
        self.folder = folder
        self.root = root
        self.walked = walked
        self.unseen = unseen
        self.place = _place(root)


class Presence:
    """The names under `roots`.

    `defer(path, status)` may put a name off until it has settled, and says whether it did. `swept(folder)` hears
    of each folder that was looked through to its end. With `remind`, failures that are known from before are told
    of as well. `mistake(path, traceback)` hears of files at which lorad failed by a mistake of its own, and
    `forgot` of the numbers of files of which nothing more is wanted.
    """

    def __init__(
        self,
        files: Files,
        library: Library,
        roots: Sequence[bytes],
        *,
        follow: bool,
        without: Sequence[bytes],
        do: Callable[[list[Instruction]], None],
        tell: Callable[[Event], None],
        defer: Callable[[bytes, os.stat_result], bool] | None = None,
        swept: Callable[[bytes], None] | None = None,
        remind: bool = False,
        mistake: Callable[[bytes, str], None] = lambda path, traceback: None,
        forgot: Callable[[int], None] = lambda file: None,
    ) -> None:
        self._files = files
        self._library = library
        self.roots = roots
        self._follow = follow
        self._without = without
        self._do = do
        self._tell = tell
        self._defer = defer
        self._swept = swept
        self._remind = remind
        self._mistake = mistake
        self._forgot = forgot
        self._attempts: Counter[bytes] = Counter()
        self._sweep: Sweep | None = None
        self._waiting: deque[bytes] = deque()
        #: Devices whose files were found unchanged under another device number, and that number.
        self._renumbered: dict[int, int] = {}
        #: Names of inodes that lost another one.
        self._linked: list[bytes] = []
        self._is_ours = is_under(roots)

    @property
    def sweeping(self) -> bool:
        return self._sweep is not None or bool(self._waiting)

    def sweep(self, folder: bytes) -> None:
        """Look through a folder, soon."""
        if any(folder == other or folder.startswith(os.path.join(other, b"")) for other in self._waiting):
            return
        self._waiting.append(folder)
        if len(self._waiting) > _SWEEPS:
            self._waiting = deque(self.roots)

    def step(self, names: int) -> int:
        """Look at up to so many names of the present sweep; how many it were."""
        if self._sweep is None:
            if not self._waiting:
                return 0
            self._sweep = self._begin(self._waiting.popleft())
        sweep = self._sweep
        for count in range(names if sweep else 0):
            assert sweep is not None
            try:
                seen = next(sweep.walked)
            except StopIteration:
                self._end(sweep)
                self._sweep = None
                self._look_at_links()
                return count
            if seen is None:
                return count
            fresh = seen.path in sweep.unseen
            if seen.failed and seen.status is None:
                # What is in a folder that cannot be listed now is not gone.
                sweep.unseen.difference_update(self._files.names_under(seen.path))
            with self.about(seen.path):
                self._see(seen, fresh=fresh, swept=True)
                self._look_at_links()
        return names if sweep else 0

    @contextmanager
    def about(self, path: bytes) -> Iterator[None]:
        """Set a file aside as failed where handling it, inside, meets a mistake in lorad."""
        try:
            yield
        except calls.NoAnswer:
            # It is looked at again when its file system answers.
            return
        except (sqlite3.Error, PipelineBrokenError, StateError):
            # Of the catalogue and the pipeline, not of this file.
            raise
        except Exception as error:
            error.add_note(f"while it handled {shown(path)}")
            self.set_aside(path, traceback.format_exc())

    def set_aside(self, path: bytes, why: str) -> None:
        """A mistake in lorad came up with this file: it is failed, until it is looked at again."""
        self._mistake(path, why)
        identity = Identity(0, 0, 0, 0, 0)
        with suppress(OSError):
            identity = Identity.of(calls.stat(path, follow_symlinks=False))
        known = self._files.by_path.get(path)
        if known is not None and not known.passed_over:
            for name in list(known.names):
                self._drop(name)
        elif known is not None:
            self._drop(path)
        self._files.name(self._files.pass_over(identity, Status.FAILED, OUR_MISTAKE), path)
        self._tell(FileFailedEvent(path, OUR_MISTAKE))

    def touched(self, path: bytes) -> None:
        """Something happened to this name, and it has settled."""
        if self._is_ours(path):
            with self.about(path):
                self._touched(path)

    def _touched(self, path: bytes) -> None:
        seen = look(path, follow=self._follow)
        if seen is not None:
            self._see(seen, fresh=False, swept=False)
        gone = [path] if seen is None and path in self._files.by_path else []
        if self._files.has_folder(path) and not calls.is_folder(path):
            gone += self._files.names_under(path)
        self._gone(gone)
        self._look_at_links()

    def relinked(self, before: Identity, now: Identity) -> None:
        """An inode got or lost a name by our own doing, which changed its ctime and nothing that was read."""
        file = self._files.at_inode(now)
        if file is not None and file.identity == before:
            self._files.restamp(file, now)

    def look_again(self, file: File) -> None:
        """A file was not what it was thought to be: see what its names lead to now.

        One that changes whenever it is looked at is left alone: it is failed, until it is touched again.
        """
        for path in list(file.names):
            seen = look(path, follow=self._follow)
            if seen is not None and self._is_being_written(seen, file):
                # What it was is gone, and what it will be is not there yet.
                self._drop(path)
            elif seen is not None:
                self._see(seen, fresh=False, swept=False)
            elif self._files.by_path.get(path) is file:
                self._vanished(path)
        self._look_at_links()

    def _is_being_written(self, seen: Seen, file: File) -> bool:
        """Whether a name leads to something else than it did, that has to settle first."""
        if self._defer is None or seen.status is None or seen.passed_over:
            return False
        return Identity.of(seen.status) != file.identity and self._defer(seen.path, seen.status)

    def may_try_again(self, file: File) -> bool:
        """Count an attempt at a file that changed while it was read; whether another one makes sense."""
        path = file.names[0]
        self._attempts[path] += 1
        return self._attempts[path] <= _ATTEMPTS

    def was_read(self, file: File) -> None:
        """A file was read, unchanged."""
        if self._attempts:
            for path in file.names:
                self._attempts.pop(path, None)

    def _begin(self, folder: bytes) -> Sweep | None:
        """A sweep, unless its root is not there: that is not the end of the files in it."""
        root = max(
            (root for root in self.roots if folder == root or folder.startswith(os.path.join(root, b""))),
            key=len,
            default=None,
        )
        if root is None or _place(root) is None:
            return None
        try:
            is_folder = calls.is_folder(folder)
        except calls.NoAnswer:
            return None
        if not is_folder:
            self.touched(folder)
            return None
        walked = look_through([folder], follow=self._follow, without=self._without)
        known = set(self._files.names_under(folder))
        if folder in self._files.by_path:
            # It could not be listed the last time.
            known.add(folder)
        return Sweep(folder, root, walked, known)

    def _end(self, sweep: Sweep) -> None:
        if sweep.place != _place(sweep.root):
            return
        gone = []
        for path in list(sweep.unseen):
            # It may have come back since its folder was listed.
            with self.about(path):
                seen = look(path, follow=self._follow)
                if seen is None:
                    gone.append(path)
                else:
                    self._see(seen, fresh=True, swept=True)
        self._gone(gone)
        if self._swept:
            self._swept(sweep.folder)

    def _see(self, seen: Seen, *, fresh: bool, swept: bool) -> None:
        """A name is there. Known and unchanged, it keeps what is known of it.

        `fresh`: it is known, and met for the first time in this sweep.
        """
        path, identity = seen.path, Identity.of(seen.status) if seen.status else Identity(0, 0, 0, 0, 0)
        known = self._files.by_path.get(path)
        if self._sweep is not None:
            self._sweep.unseen.discard(path)
        if known is not None and seen.status is None and not known.passed_over:
            # A trouble that may pass says nothing of what the name leads to.
            return
        if known is not None and fresh and not known.passed_over and _differ_in_device(known.identity, identity):
            # The system numbers devices anew when it starts.
            self._renumbered[known.identity.dev] = identity.dev
            self._files.restamp(known, identity)
        if known is not None and known.identity == identity and self._stays(known, seen, fresh):
            if fresh and self._remind and known.status is Status.FAILED and path == known.names[0]:
                self._tell(FileFailedEvent(path, known.error or ""))
            return
        if swept and self._defer and seen.status and not seen.passed_over and self._defer(path, seen.status):
            return
        names = [path]
        if known is not None and known.identity == identity and not seen.passed_over and not known.passed_over:
            # To be read again, under all its names.
            names += [name for name in known.names if name != path]
            self._forget(known)
        elif known is not None:
            self._drop(path)
        if seen.passed_over:
            status = Status.FAILED if seen.failed else Status.IGNORED
            self._files.name(self._files.pass_over(identity, status, seen.passed_over), path)
            if seen.failed:
                self._tell(FileFailedEvent(path, seen.passed_over))
            return
        self._tell(FileSeen(path, identity.size))
        # A folder that is looked through by itself has just come, too.
        whole = swept and self._sweep is not None and self._sweep.folder in self.roots
        self._arrive(names, identity, news=not whole)

    def _stays(self, known: File, seen: Seen, fresh: bool) -> bool:
        """Whether what is known of an unchanged inode still holds."""
        if known.passed_over or seen.passed_over:
            return known.passed_over and known.error == seen.passed_over
        unreadable = known.status is Status.FAILED and not known.read_ns and known.deaths < DEATHS
        return not fresh or not (known.too_young or unreadable)

    def _arrive(self, names: list[bytes], identity: Identity, *, news: bool) -> None:
        """Names lead to an inode that is to be read: new, changed, or known under another name."""
        strangers: list[bytes] = []
        there = self._files.at_inode(identity)
        if there is not None and there.identity == identity:
            for name in names:
                self._files.name(there, name)
            self._files.changed(there)
            return
        if there is not None:
            others = [name for name in there.names if name not in names]
            names += [name for name in others if self._leads_to(name, identity)]
            self._forget(there)
            strangers = [name for name in others if name not in names]
        file = self._files.add(identity)
        file.news = news
        for name in names:
            self._files.name(file, name)
        self._do(self._library.found(file.id))
        for name in strangers:
            self.touched(name)

    def _leads_to(self, path: bytes, identity: Identity) -> bool:
        seen = look(path, follow=self._follow)
        return seen is not None and seen.status is not None and Identity.of(seen.status) == identity

    def _gone(self, paths: Sequence[bytes] | set[bytes]) -> None:
        """Names were not found. Those on a device that is not there now are away, not gone."""
        devices: dict[bytes, int | None] = {}
        for path in paths:
            file = self._files.by_path.get(path)
            if file is None:
                continue
            if file.passed_over:
                self._vanished(path)
                continue
            folder = os.path.dirname(path)
            if folder not in devices:
                devices[folder] = self._device_at(folder)
            device, before = devices[folder], file.identity.dev
            known_as = (before, self._renumbered.get(before))
            if device is not None and device in known_as:
                self._vanished(path)

    def _device_at(self, folder: bytes) -> int | None:
        """The device that a folder is on, or was on when it is gone; None when its root is gone."""
        while any(folder == root or folder.startswith(os.path.join(root, b"")) for root in self.roots):
            try:
                return calls.stat(folder).st_dev
            except OSError:
                folder = os.path.dirname(folder)
        return None

    def _vanished(self, path: bytes) -> None:
        self._tell(FileGone(path))
        self._drop(path)

    def _drop(self, path: bytes) -> None:
        """A name no longer leads to its file; with its last name goes the file."""
        self._attempts.pop(path, None)
        file = self._files.unname(path)
        if not file.names:
            self._forget(file)
        elif not file.passed_over:
            # To lose a name changes the inode, and nothing tells of it under its other names.
            self._linked.append(file.names[0])

    def _look_at_links(self) -> None:
        """Look at inodes that lost a name, one after the other: they may have many."""
        while self._linked:
            seen = look(self._linked.pop(), follow=self._follow)
            if seen is not None:
                self._see(seen, fresh=False, swept=False)

    def _forget(self, file: File) -> None:
        self._forgot(file.id)
        self._do(self._library.forget(file.id))
        self._files.forget(file)


def settled(status: os.stat_result, seconds: float) -> bool:
    """Whether a file was left alone for so long, by its own times. Times to come count as long ago."""
    age = time.time() - max(status.st_mtime, status.st_ctime)
    return not 0 <= age < seconds


def _place(root: bytes) -> tuple[int, int] | None:
    """Device and inode of a root; None when it is not there."""
    try:
        status = calls.stat(root)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _differ_in_device(before: Identity, now: Identity) -> bool:
    return before.dev != now.dev and (before.ino, before.size, before.mtime_ns, before.ctime_ns) == (
        now.ino,
        now.size,
        now.mtime_ns,
        now.ctime_ns,
    )
