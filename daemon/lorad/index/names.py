"""Which names lead to which inodes: they come, are read anew and go, for records and state machine alike."""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Callable

from loracore.control import Event, FileFailedEvent, FileGone
from loracore.identity import Identity
from lorad.index.configs import Configs
from lorad.index.known_files import Files
from lorad.index.records import File
from lorad.library import Instruction, Library, Status
from lorad.watch import timed_calls
from lorad.watch.scanner import TO_NOTHING, Seen
from lorad.watch.statx import born_ns

#: A file that changes this often while it is read is left alone until it is touched again.
_ATTEMPTS = 5


class Names:
    """What follows for the library goes through `do`, what people may want to know through `tell`.

    `forgot` hears of the numbers of files of which nothing more is wanted.
    """

    def __init__(
        self,
        files: Files,
        configs: Configs,
        library: Library,
        *,
        follow: bool,
        do: Callable[[list[Instruction]], None],
        tell: Callable[[Event], None],
        forgot: Callable[[int], None] = lambda file: None,
    ) -> None:
        self._files = files
        self._configs = configs
        self._library = library
        self._follow = follow
        self._do = do
        self._tell = tell
        self._forgot = forgot
        self._attempts: Counter[bytes] = Counter()
        #: Names of inodes that lost another one, which are to be looked at.
        self.linked: list[bytes] = []
        #: Names of symbolic links in view that are not followed, or lead to nothing.
        self.links: set[bytes] = set()

    def arrive(self, path: bytes, identity: Identity, *, fresh: bool, news: bool) -> list[bytes]:
        """A name leads to an inode that is to be read: new, changed, or known under another name.

        The names that led to what the inode was, and lead to something else now, are to be looked at.
        """
        there = self._files.at_inode(identity)
        if there is not None and there.identity == identity:
            self._files.name(there, path)
            self._configs.look(path)
            self._files.store.changed(there)
            return []
        names, aside, strangers = [path], list[bytes](), list[bytes]()
        born, was = born_ns(path, identity.ino), None
        if there is not None and (born == there.born or None in (born, there.born)):
            was = self._files.twins.weights_of(there)
        if there is not None:
            for name in there.names:
                (names if self._leads_to(name, identity) else strangers).append(name)
            aside = [name for name in there.aside if self._leads_to(name, identity)]
            self.forget(there)
        file = self._files.add(identity, born, fresh=int(fresh))
        file.news = news
        for name in names:
            self._files.name(file, name)
        for name in aside:
            self._files.put_aside(file, name)
        self._files.twins.may_be(file, was or self._files.held.last(path, identity, born))
        self._do(self._library.found(file.id))
        return strangers

    def _leads_to(self, path: bytes, identity: Identity) -> bool:
        try:
            return Identity.of(timed_calls.stat(path, follow_symlinks=self._follow)) == identity
        except OSError:
            return False

    def arrive_hidden(self, path: bytes, identity: Identity) -> tuple[File, list[bytes]]:
        """An inode was hidden under this name. It is read where it is not known, or is not what it was.

        Its record, and the names that led to what it was, which are to be looked at.
        """
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
        return file, names

    def pass_over(self, seen: Seen, identity: Identity, *, fresh: bool) -> None:
        """A name is not read, whatever it leads to."""
        if seen.passed_over == TO_NOTHING or (seen.status is not None and stat.S_ISLNK(seen.status.st_mode)):
            self.links.add(seen.path)
        status = Status.FAILED if seen.failed else Status.IGNORED
        self._files.name(self._files.pass_over(identity, status, seen.passed_over, fresh=int(fresh)), seen.path)
        if seen.failed:
            self._tell(FileFailedEvent(seen.path, seen.passed_over))

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

    def relinked(self, before: Identity, now: Identity) -> None:
        """An inode got or lost a name by our own doing, which changed its ctime and nothing that was read."""
        file = self._files.at_inode(now)
        if file is not None and file.identity == before:
            self._files.restamp(file, now)

    def vanished(self, path: bytes) -> None:
        """A name is gone."""
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
            self.linked.append(file.path)

    def forget(self, file: File) -> None:
        """Drop a file and its names."""
        self._forgot(file.id)
        self._do(self._library.forget(file.id))
        self._files.forget(file)
        # Another one may be a duplicate of none any more.
        self._do([])

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
