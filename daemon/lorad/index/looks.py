"""What follows from a look at a name: what it leads to is there, is another file than it was, or is gone."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress

from loracore.control import Event, FileFailedEvent, FileSeen
from loracore.identity import UNKNOWN, Identity
from lorad.index.arrivals import Arrivals
from lorad.index.away import Away
from lorad.index.configs import Configs
from lorad.index.failures import Failures
from lorad.index.known_files import Files
from lorad.index.names import Names
from lorad.index.records import DEATHS, File
from lorad.index.view import View
from lorad.library import Instruction, Status
from lorad.watch import timed_calls
from lorad.watch.scanner import Seen


class Looks:
    """A name is looked at when it was `touched`, when a sweep meets it, and when its file was found changed.

    `defer(path, status)` may put a name off until it has settled, and says whether it did. `replaced` hears of a
    file whose name leads to another one, before it is dropped. With `remind`, failures that are known from before
    are told of as well.
    """

    def __init__(
        self,
        files: Files,
        view: View,
        *,
        away: Away,
        configs: Configs,
        names: Names,
        arrivals: Arrivals,
        failures: Failures,
        do: Callable[[list[Instruction]], None],
        tell: Callable[[Event], None],
        defer: Callable[[bytes, os.stat_result], bool] | None = None,
        remind: bool = False,
        replaced: Callable[[File], None] = lambda file: None,
    ) -> None:
        self._files = files
        self._view = view
        self._away = away
        self._configs = configs
        self._names = names
        self._arrivals = arrivals
        self._failures = failures
        self._do = do
        self._tell = tell
        self._defer = defer
        self._remind = remind
        self._replaced = replaced
        #: Names that an action is under way on: what happens to them meanwhile is not seen, so that `touched` is
        #: to be called for each when it is over.
        self.put_off: Callable[[bytes], bool] = lambda path: False
        #: Known names that the present sweep has not met yet.
        self.unseen: set[bytes] = set()

    def is_put_off(self, file: File) -> bool:
        """Whether an action is under way on a file."""
        return any(map(self.put_off, (*file.names, *file.aside)))

    def touched(self, path: bytes) -> None:
        """Something happened to this name, and it has settled."""
        if self._view.root(path) is None or self.put_off(path):
            return
        with self._failures.about(path):
            if self._view.exclude(path):
                self.leave_out(path)
            else:
                self._touched(path)

    def _touched(self, path: bytes) -> None:
        seen = self._view.look(path)
        if seen is not None:
            self.see(seen)
        gone = [path] if seen is None and path in self._files.by_path else []
        if path in self._files.folders and not timed_calls.is_folder(path):
            gone += self._files.folders.names_under(path)
        self.gone(gone)
        self._arrivals.arrived(path)
        self._configs.touched(path)
        self.look_at_links()

    def see(self, seen: Seen, *, swept: bool = False, fresh: bool = False, news: bool = True) -> None:
        """A name is there. Known and unchanged, it keeps what is known of it.

        `swept`: by a sweep. `fresh`: it is known, and met for the first time in this sweep. `news`: something
        happened to it, or to the folder that is looked through for it.
        """
        path, identity = seen.path, Identity.of(seen.status) if seen.status else UNKNOWN
        known = self._files.by_path.get(path)
        self.unseen.discard(path)
        if known is not None and seen.status is None and not known.passed_over:
            # A trouble that may pass says nothing of what the name leads to.
            return
        if known is not None and fresh and not known.passed_over and known.identity.renumbered(identity):
            self._files.held.renumbered[known.identity.dev] = identity.dev
            self._files.restamp(known, identity)
        if seen.status is not None:
            self._view.found(path)
        if known is not None and known.identity == identity and _stays(known, seen, fresh):
            self._configs.look(path)
            if fresh and self._remind and known.status is Status.FAILED and path == known.names[0]:
                self._tell(FileFailedEvent(path, known.error or ""))
            return
        first_met = not seen.passed_over and self._arrivals.meet(path)
        if swept and self._defer and seen.status and not seen.passed_over and self._defer(path, seen.status):
            if first_met:
                self._arrivals.waits(path, identity)
            return
        if known is not None and known.identity == identity and not seen.passed_over and not known.passed_over:
            self._arrivals.arrived(path)
            self._tell(FileSeen(path, identity.size))
            self._names.read_again(known)
            return
        if known is not None:
            self._replaced(known)
            self._names.drop(path)
        if seen.passed_over:
            self._names.pass_over(seen, identity, fresh=seen.failed and self._arrivals.is_new(path))
        else:
            self._tell(FileSeen(path, identity.size))
            new = self._arrivals.arrived(path)
            for name in self._names.arrive(path, identity, fresh=new, news=news):
                self.touched(name)

    def gone(self, paths: Sequence[bytes]) -> None:
        """Names were not found. Those that lie on what is not there now are away, not gone."""
        devices: dict[bytes, int | None] = {}
        for path in paths:
            file = self._files.by_path.get(path)
            if file is None or self.put_off(path):
                continue
            if file.passed_over:
                self._names.vanished(path)
                continue
            folder = os.path.dirname(path)
            if folder not in devices:
                devices[folder] = self._away.device_at(folder)
            if self._away.was_there(path, devices[folder], file.identity.dev):
                self._names.vanished(path)

    def leave_out(self, path: bytes) -> None:
        """A name or folder is left out from now on: what was known of it is out of view, which is not gone."""
        known = [path] if path in self._files.by_path else []
        for name in [*known, *self._files.folders.names_under(path)]:
            self._names.drop(name)
        self.look_at_links()

    def look_again(self, file: File) -> None:
        """A file was not what it was thought to be: see what its names lead to now.

        One that changes whenever it is looked at is left alone: it is failed, until it is touched again.
        """
        for path in list(file.names):
            if self.put_off(path):
                continue
            seen = self._view.look(path)
            if seen is not None and self._is_being_written(seen, file):
                # What it was is gone, and what it will be is not there yet.
                self._replaced(file)
                self._names.drop(path)
            elif seen is not None:
                self.see(seen)
            elif self._files.by_path.get(path) is file:
                self._names.vanished(path)
        for path in list(file.aside):
            self._look_at_hidden(path)
        self.look_at_links()

    def _is_being_written(self, seen: Seen, file: File) -> bool:
        """Whether a name leads to something else than it did, that has to settle first."""
        if self._defer is None or seen.status is None or seen.passed_over:
            return False
        return Identity.of(seen.status) != file.identity and self._defer(seen.path, seen.status)

    def _look_at_hidden(self, path: bytes) -> None:
        """A hidden file is not what it was: it is read as what it is now, or it is not there any more."""
        file = self._files.hidden[path]
        identity = None
        with suppress(OSError):
            identity = Identity.of(timed_calls.stat(path, follow_symlinks=False))
        if (
            self.put_off(path)
            or identity == file.identity
            or (identity is None and not self._away.is_on(path, file))
        ):
            return
        if identity is None or not file.identity.renamed(identity):
            self._files.take_back(path)
            if not file.names and not file.aside:
                self._names.forget(file)
        if identity is not None:
            self.arrive_hidden(path, identity)

    def arrive_hidden(self, path: bytes, identity: Identity) -> File:
        """An inode was hidden under this name; its record."""
        file, strangers = self._names.arrive_hidden(path, identity)
        for name in strangers:
            self.touched(name)
        return file

    def look_at_links(self) -> None:
        """Look at inodes that lost a name, one after the other: they may have many."""
        while self._names.linked:
            path = self._names.linked.pop()
            if path in self._files.hidden:
                self._look_at_hidden(path)
            elif not self.put_off(path) and (seen := self._view.look(path)) is not None:
                self.see(seen)
        if self._files.twins.companions:
            # Another file may be a duplicate of none any more, or of one that has a name again.
            self._do([])


def _stays(known: File, seen: Seen, fresh: bool) -> bool:
    """Whether what is known of an unchanged inode still holds."""
    if known.passed_over or seen.passed_over:
        return known.passed_over and known.error == seen.passed_over
    unreadable = known.status is Status.FAILED and not known.read_ns and known.deaths < DEATHS
    return not fresh or not (known.too_young or unreadable)
