"""Which names there are, and which inode in which state each of them leads to.

News come in two ways: a sweep looks through a whole folder and sees what is there and what is not, and a
touch is about one name. What follows for the library goes through `do`, what people may want to know
through `tell`.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from loracore.control import Event, FileFailedEvent, FileGone, FileSeen
from loracore.errors import StateError
from loracore.identity import UNKNOWN, Identity
from loracore.paths import shown
from loracore.tensorfile import has_reader
from lorad.index.away import Away
from lorad.index.configs import Configs
from lorad.index.known_files import Files
from lorad.index.records import File
from lorad.index.view import View
from lorad.library import Instruction, Library, Status
from lorad.pipeline.protocol import OUR_MISTAKE
from lorad.pipeline.restarts import PipelineBrokenError
from lorad.watch import calls
from lorad.watch.exclude import Exclude
from lorad.watch.mounts import is_below
from lorad.watch.scanner import TO_NOTHING, Seen, look, look_through
from lorad.watch.statx import born_ns

#: A file that changes this often while it is read is left alone until it is touched again.
_ATTEMPTS = 5
#: Sweeps of single folders that may wait; beyond, their roots are swept whole.
_SWEEPS = 16
#: A file that kills this many loaders is failed.
DEATHS = 3


class Sweep:
    """One look through a folder: `walk` gives what is there, `unseen` are the known names not met yet.

    `entered` are the folders in it that came into view at once and are looked through by this.
    """

    def __init__(
        self, folder: bytes, root: bytes, walked: Iterator[Seen | None], unseen: set[bytes], view: View
    ) -> None:
        self.folder = folder
        self.root = root
        self.walked = walked
        self.unseen = unseen
        self.looked = view.begin(root)
        self.entered = {each for each in view.entered if is_below(each, folder)}
        self.place = calls.which(root)


class Names:
    """The names under `roots`, without those that `exclude` leaves out.

    `defer(path, status)` may put a name off until it has settled, and says whether it did. `swept(folder)` hears
    of each folder that was looked through to its end. With `remind`, failures that are known from before are told
    of as well. `mistake(path, traceback)` hears of files at which lorad failed by a mistake of its own, and
    `forgot` of the numbers of files of which nothing more is wanted.
    """

    def __init__(
        self,
        files: Files,
        configs: Configs,
        library: Library,
        roots: Sequence[bytes],
        *,
        follow: bool,
        exclude: Exclude,
        without: Sequence[bytes],
        do: Callable[[list[Instruction]], None],
        tell: Callable[[Event], None],
        defer: Callable[[bytes, os.stat_result], bool] | None = None,
        swept: Callable[[bytes], None] | None = None,
        remind: bool = False,
        mistake: Callable[[bytes, str], None] = lambda path, traceback: None,
        forgot: Callable[[int], None] = lambda file: None,
    ) -> None:
        #: Whether what is met is new, where its root was looked through.
        self._acts = False
        #: Names that an action is under way on: nothing becomes of them meanwhile.
        self.put_off: Callable[[bytes], bool] = lambda path: False
        self._files = files
        self._configs = configs
        self._library = library
        self.roots = roots
        self._follow = follow
        self._exclude = exclude
        self._view = View(files, roots, exclude=exclude, follow=follow)
        self._away = Away(files, self._view, exclude, follow=follow)
        self.is_away = self._away.is_away
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
        #: Names of inodes that lost another one.
        self._linked: list[bytes] = []
        #: Names that de-duplication has made, whosever they are, met since this was emptied.
        self.strays: set[bytes] = set()
        #: Names of symbolic links in view.
        self.links: set[bytes] = set()
        #: Names that were met and wait to settle, and whether they are new.
        self._met: dict[bytes, bool] = {}

    def act(self, acts: bool) -> None:
        """Whether what is met from now on is new, where its root was looked through; if not, all is old."""
        self._acts = acts
        if not acts:
            self._met = dict.fromkeys(self._met, False)
            for file in self._files:
                if file.fresh:
                    file.fresh = 0
                    self._files.store.changed(file)

    @property
    def sweeping(self) -> bool:
        return self._sweep is not None or bool(self._waiting)

    def sweep(self, folder: bytes, *, view: bool = False) -> None:
        """Look through a folder, soon. `view`: all in it came into view at once, so nothing in it is new."""
        if view:
            self._view.entered.add(folder)
            if self._sweep is not None:
                # That look may be past it.
                self._sweep.entered.discard(folder)
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
                sweep.unseen.difference_update(self._files.folders.names_under(seen.path))
            if self.put_off(seen.path):
                sweep.unseen.discard(seen.path)
                continue
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
            # A mistake that one file brings up is that file's.
            error.add_note(f"while it handled {shown(path)}")
            self.set_aside(path, traceback.format_exc())

    def set_aside(self, path: bytes, why: str) -> None:
        """A mistake in lorad came up with this file: it is failed, until it is looked at again."""
        self._mistake(path, why)
        identity = UNKNOWN
        with suppress(OSError):
            identity = Identity.of(calls.stat(path, follow_symlinks=False))
        known = self._files.by_path.get(path)
        if (hidden := self._files.hidden.get(path)) is not None:
            hidden.error = OUR_MISTAKE
            self._do(self._library.failed(hidden.id))
            return
        was = self._files.twins.weights_of(known) if known is not None else None
        if known is not None and not known.passed_over:
            for name in list(known.names):
                self.drop(name)
        elif known is not None:
            self.drop(path)
        failed = self._files.pass_over(identity, Status.FAILED, OUR_MISTAKE)
        self._files.name(failed, path)
        # It is as it was, for all that is known.
        self._files.twins.may_be(failed, was)
        self._tell(FileFailedEvent(path, OUR_MISTAKE))

    def touched(self, path: bytes) -> None:
        """Something happened to this name, and it has settled."""
        if self._view.root(path) is None or self.put_off(path):
            return
        with self.about(path):
            if self._exclude(path):
                self._leave_out(path)
            else:
                self._touched(path)

    def _touched(self, path: bytes) -> None:
        seen = look(path, follow=self._follow)
        if seen is not None:
            self._see(seen, fresh=False, swept=False)
        gone = [path] if seen is None and path in self._files.by_path else []
        if path in self._files.folders and not calls.is_folder(path):
            gone += self._files.folders.names_under(path)
        self._gone(gone)
        self._met.pop(path, None)
        self._configs.touched(path)
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
            if self.put_off(path):
                continue
            seen = look(path, follow=self._follow)
            if seen is not None and self._is_being_written(seen, file):
                # What it was is gone, and what it will be is not there yet.
                self.drop(path)
            elif seen is not None:
                self._see(seen, fresh=False, swept=False)
            elif self._files.by_path.get(path) is file:
                self._vanished(path)
        for path in list(file.aside):
            self._look_at_hidden(path)
        self._look_at_links()

    def _look_at_hidden(self, path: bytes) -> None:
        """A hidden file is not what it was: it is read as what it is now, or it is not there any more."""
        file = self._files.hidden[path]
        identity = None
        with suppress(OSError):
            identity = Identity.of(calls.stat(path, follow_symlinks=False))
        if (
            self.put_off(path)
            or identity == file.identity
            or (identity is None and not self._away.is_on(path, file))
        ):
            return
        if identity is None or not file.identity.renamed(identity):
            self._files.take_back(path)
            if not file.names and not file.aside:
                self.forget(file)
        if identity is not None:
            self.arrive_hidden(path, identity)

    def is_put_off(self, file: File) -> bool:
        """Whether an action is under way on a file."""
        return any(map(self.put_off, (*file.names, *file.aside)))

    def _is_being_written(self, seen: Seen, file: File) -> bool:
        """Whether a name leads to something else than it did, that has to settle first."""
        if self._defer is None or seen.status is None or seen.passed_over:
            return False
        return Identity.of(seen.status) != file.identity and self._defer(seen.path, seen.status)

    def may_try_again(self, file: File) -> bool:
        """Count an attempt at a file that changed while it was read; whether another one makes sense."""
        path = file.path
        self._attempts[path] += 1
        return self._attempts[path] <= _ATTEMPTS

    def was_read(self, file: File) -> None:
        """A file was read, unchanged."""
        if self._attempts:
            for path in file.names:
                self._attempts.pop(path, None)

    def _begin(self, folder: bytes) -> Sweep | None:
        """A sweep, unless its root is not there: that is not the end of the files in it."""
        root = self._view.root(folder)
        if root is None or calls.which(root) is None:
            return None
        try:
            is_folder = calls.is_folder(folder)
        except calls.NoAnswer:
            return None
        if not is_folder:
            self.touched(folder)
            return None
        if folder != root and self._exclude(folder):
            self._leave_out(folder)
            return None
        walked = look_through(
            [folder],
            follow=self._follow,
            without=self._without,
            exclude=self._exclude,
            hidden=self.strays.add,
        )
        known = set(self._files.folders.names_under(folder))
        if folder in self._files.by_path:
            # It could not be listed the last time.
            known.add(folder)
        return Sweep(folder, root, walked, known, self._view)

    def _end(self, sweep: Sweep) -> None:
        if sweep.place != calls.which(sweep.root):
            return
        gone = []
        for path in list(sweep.unseen):
            if self.put_off(path):
                continue
            if self._exclude(path):
                self._leave_out(path)
                continue
            # It may have come back since its folder was listed.
            with self.about(path):
                seen = look(path, follow=self._follow)
                if seen is None:
                    gone.append(path)
                else:
                    self._see(seen, fresh=True, swept=True)
        self._gone(gone)
        self._view.entered -= sweep.entered
        if sweep.folder == sweep.root:
            self._view.end(sweep.root, sweep.looked)
        if self._swept:
            self._swept(sweep.folder)

    def _see(self, seen: Seen, *, fresh: bool, swept: bool) -> None:
        """A name is there. Known and unchanged, it keeps what is known of it.

        `fresh`: it is known, and met for the first time in this sweep.
        """
        path, identity = seen.path, Identity.of(seen.status) if seen.status else UNKNOWN
        known = self._files.by_path.get(path)
        if self._sweep is not None:
            self._sweep.unseen.discard(path)
        if known is not None and seen.status is None and not known.passed_over:
            # A trouble that may pass says nothing of what the name leads to.
            return
        if known is not None and fresh and not known.passed_over and known.identity.renumbered(identity):
            self._files.held.renumbered[known.identity.dev] = identity.dev
            self._files.restamp(known, identity)
        if seen.status is not None:
            self._view.found(path)
        if known is not None and known.identity == identity and self._stays(known, seen, fresh):
            self._configs.look(path)
            if fresh and self._remind and known.status is Status.FAILED and path == known.names[0]:
                self._tell(FileFailedEvent(path, known.error or ""))
            return
        first_met = not seen.passed_over and self._meet(path)
        if swept and self._defer and seen.status and not seen.passed_over and self._defer(path, seen.status):
            if first_met:
                self._waits(path, identity)
            return
        if known is not None and known.identity == identity and not seen.passed_over and not known.passed_over:
            self._met.pop(path, None)
            self._tell(FileSeen(path, identity.size))
            self.read_again(known)
            return
        if known is not None:
            self.drop(path)
        if seen.passed_over:
            self._pass_over(seen, identity)
        else:
            self._tell(FileSeen(path, identity.size))
            # A folder that is looked through by itself has just come, too.
            whole = swept and self._sweep is not None and self._sweep.folder in self.roots
            self._arrive(path, identity, news=not whole)

    def _pass_over(self, seen: Seen, identity: Identity) -> None:
        if seen.passed_over == TO_NOTHING or (seen.status is not None and stat.S_ISLNK(seen.status.st_mode)):
            self.links.add(seen.path)
        status = Status.FAILED if seen.failed else Status.IGNORED
        fresh = int(seen.failed and self._is_new(seen.path))
        self._files.name(self._files.pass_over(identity, status, seen.passed_over, fresh=fresh), seen.path)
        if seen.failed:
            self._tell(FileFailedEvent(seen.path, seen.passed_over))

    def is_in_view(self, path: bytes) -> bool:
        """Whether a name lies in a root and is not left out of it."""
        return self._view.root(path) is not None and not self._exclude(path)

    def noticed(self, path: bytes) -> None:
        """Something happens to this name, and it has not settled yet."""
        if not has_reader(path) or not self.is_in_view(path):
            return
        if self._meet(path):
            seen = look(path, follow=self._follow)
            if seen is not None and seen.status is not None:
                self._waits(path, Identity.of(seen.status))

    def _meet(self, path: bytes) -> bool:
        """A name is met, as it is or anew; it may be read long after. Whether it did not wait for that already."""
        if path in self._met:
            return False
        self._met[path] = self._is_new(path)
        return True

    def _waits(self, path: bytes, identity: Identity) -> None:
        """A name that was met settles first. In a first look it is old, also for a lorad that starts meanwhile."""
        if self._view.first_look(path):
            self._files.held.lost(path, identity, born_ns(path, identity.ino), None, None)

    def _is_new(self, path: bytes) -> bool:
        return self._acts and not self._view.first_look(path)

    def _stays(self, known: File, seen: Seen, fresh: bool) -> bool:
        """Whether what is known of an unchanged inode still holds."""
        if known.passed_over or seen.passed_over:
            return known.passed_over and known.error == seen.passed_over
        unreadable = known.status is Status.FAILED and not known.read_ns and known.deaths < DEATHS
        return not fresh or not (known.too_young or unreadable)

    def read_again(self, file: File) -> None:
        """An unchanged file is read anew, with all its names: something may have been missed."""
        names, aside, was = list(file.names), list(file.aside), self._files.twins.weights_of(file)
        self._forgot(file.id)
        self._do(self._library.forget(file.id))
        self._files.forget(file, ours=True)
        again = self._files.add(file.identity, file.born, fresh=file.fresh)
        again.news = file.news
        for name in names:
            self._files.name(again, name)
        for name in aside:
            self._files.put_aside(again, name)
        self._files.twins.may_be(again, was)
        self._do(self._library.found(again.id))

    def _arrive(self, path: bytes, identity: Identity, *, news: bool) -> None:
        """A name leads to an inode that is to be read: new, changed, or known under another name."""
        fresh = int(self._met.pop(path, False))
        there = self._files.at_inode(identity)
        if there is not None and there.identity == identity:
            self._files.name(there, path)
            self._configs.look(path)
            self._files.store.changed(there)
            return
        names, aside, strangers = [path], list[bytes](), list[bytes]()
        born, was = born_ns(path, identity.ino), None
        if there is not None and (born == there.born or None in (born, there.born)):
            was = self._files.twins.weights_of(there)
        if there is not None:
            for name in there.names:
                (names if self._leads_to(name, identity) else strangers).append(name)
            aside = [name for name in there.aside if self._leads_to(name, identity)]
            self.forget(there)
        file = self._files.add(identity, born, fresh=fresh)
        file.news = news
        for name in names:
            self._files.name(file, name)
        for name in aside:
            self._files.put_aside(file, name)
        self._files.twins.may_be(file, was or self._files.held.last(path, identity, born))
        self._do(self._library.found(file.id))
        for name in strangers:
            self.touched(name)

    def arrive_hidden(self, path: bytes, identity: Identity) -> File:
        """An inode was hidden under this name. It is read where it is not known, or is not what it was."""
        file, names = self._files.at_inode(identity), list[bytes]()
        if file is not None and not file.identity.renamed(identity):
            names = list(file.names)
            self.forget(file)
            file = None
        unread = file is None
        file = file or self._files.add(identity, born_ns(path, identity.ino))
        if file.identity != identity:
            self._files.restamp(file, identity)
        if path not in self._files.hidden:
            self._files.put_aside(file, path)
        if unread:
            self._do(self._library.found(file.id))
        for name in names:
            self.touched(name)
        return file

    def _leads_to(self, path: bytes, identity: Identity) -> bool:
        try:
            return Identity.of(calls.stat(path, follow_symlinks=self._follow)) == identity
        except OSError:
            return False

    def _leave_out(self, path: bytes) -> None:
        """A name or folder is left out from now on: what was known of it is out of view, which is not gone."""
        known = [path] if path in self._files.by_path else []
        for name in [*known, *self._files.folders.names_under(path)]:
            self.drop(name)
        self._look_at_links()

    def _gone(self, paths: Sequence[bytes]) -> None:
        """Names were not found. Those that lie on what is not there now are away, not gone."""
        devices: dict[bytes, int | None] = {}
        for path in paths:
            file = self._files.by_path.get(path)
            if file is None or self.put_off(path):
                continue
            if file.passed_over:
                self._vanished(path)
                continue
            folder = os.path.dirname(path)
            if folder not in devices:
                devices[folder] = self._away.device_at(folder)
            if self._away.was_there(path, devices[folder], file.identity.dev):
                self._vanished(path)

    def _vanished(self, path: bytes) -> None:
        self._tell(FileGone(path))
        self.drop(path)

    def drop(self, path: bytes) -> None:
        """A name no longer leads to its file; with its last name goes the file."""
        self._attempts.pop(path, None)
        self.links.discard(path)
        file = self._files.unname(path)
        if not file.names and not file.aside:
            self.forget(file)
        elif not file.passed_over:
            # To lose a name changes the inode, and nothing tells of it under its other names.
            self._linked.append(file.path)

    def _look_at_links(self) -> None:
        """Look at inodes that lost a name, one after the other: they may have many."""
        while self._linked:
            path = self._linked.pop()
            if path in self._files.hidden:
                self._look_at_hidden(path)
            elif not self.put_off(path) and (seen := look(path, follow=self._follow)) is not None:
                self._see(seen, fresh=False, swept=False)
        if self._files.twins.companions:
            # Another file may be a duplicate of none any more, or of one that has a name again.
            self._do([])

    def forget(self, file: File) -> None:
        """Drop a file and its names."""
        self._forgot(file.id)
        self._do(self._library.forget(file.id))
        self._files.forget(file)
        # Another one may be a duplicate of none any more.
        self._do([])


def settled(status: os.stat_result, seconds: float) -> bool:
    """Whether a file was left alone for so long, by its own times. Times to come count as long ago."""
    age = time.time() - max(status.st_mtime, status.st_ctime)
    return not 0 <= age < seconds
