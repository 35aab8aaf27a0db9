"""Files that de-duplication has hidden: they stay known, under the name that they have now, and are in no view.

What is hidden is read and compared as any other file, so that a later file of its weights is recognised. Nothing
here changes the disk; what renames files is in `lorad.dedupe`.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, KeysView

from loracore.tensorfile import has_reader
from lorad.index.executor import Executor
from lorad.index.known_files import Files
from lorad.index.looks import Looks
from lorad.index.names import Names
from lorad.index.view import View
from lorad.library import Status
from lorad.pipeline.protocol import Identity
from lorad.watch import timed_calls
from lorad.watch.statx import born_ns


class Hiding:
    """For the one thread that has the catalogue."""

    def __init__(self, files: Files, view: View, names: Names, looks: Looks, executor: Executor) -> None:
        self._files = files
        self._view = view
        self._names = names
        self._looks = looks
        self._executor = executor
        #: Names that de-duplication has made, whosever they are, met since this was emptied.
        self.met: set[bytes] = set()

    def hidden(self) -> KeysView[bytes]:
        """The names under which hidden files lie now, each known as hidden."""
        return self._files.hidden.keys()

    def strays(self) -> set[bytes]:
        """Names that were met, which de-duplication has made, and no action known here has put aside."""
        if self.met:
            known = self.hidden()
            folders = {folder for path in known for folder in _above(path)}
            self.met -= {*known, *folders}
        return set(self.met)

    def hide(self, path: bytes, hidden_path: bytes) -> None:
        """The file that `path` led to was renamed to `hidden_path`, or the folder that it is in.

        It is not read again for that. `path` may be the name under which it was hidden before. Where the file is
        not known, as the catalogue was thrown away, it is read as a hidden file. It may be told again; where
        `hidden_path` is not there, nothing is done.
        """
        identity = _identity(hidden_path)
        if identity is None:
            return
        known = self._files.hidden.get(hidden_path)
        if known is not None and not known.identity.renamed(identity):
            self._lose(hidden_path)
        file = self._looks.arrive_hidden(hidden_path, identity)
        if self._files.by_path.get(path) is file:
            self._files.unname(path)
        elif not self._files.held.knows_inode(identity, file.born):
            # What it was when it had that name is not known, so the name may have held anything.
            self._files.held.lost(path, identity, file.born, None, None)
        if path != hidden_path and self._files.hidden.get(path) is file:
            self._files.take_back(path)
        if file.status is Status.FAILED and not file.read_ns:
            # It may have been away.
            self._names.read_again(file)
        self._executor.show_companions(news=False)

    def show(self, hidden_path: bytes, path: bytes | None) -> None:
        """What was hidden has the name `path` again; None: it was freed, or removed by somebody.

        It is not read again for that, and it is no news. Where another file has the name, that is looked at as
        any other.
        """
        file = self._files.hidden.get(hidden_path)
        identity = _identity(path) if path is not None and self._view.has(path) else None
        if file is None or identity is None or not file.identity.renamed(identity):
            if file is not None:
                self._lose(hidden_path, gone=path is None)
        elif path is not None:
            if self._files.by_path.get(path) not in (None, file):
                self._names.drop(path)
            self._files.take_back(hidden_path)
            self._files.restamp(file, identity)
            if path not in self._files.by_path:
                self._files.name(file, path)
        self._executor.show_companions(news=False)
        if path is not None:
            self._looks.touched(path)

    def came_back(self, path: bytes) -> None:
        """A file, or a folder with all that is in it, was made anew under this name: none of it is a newcomer."""
        inside = (os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)
        for each in (path, *inside):
            if has_reader(each) and (identity := _identity(each)) is not None:
                self._files.held.lost(each, identity, born_ns(each, identity.ino), None, None)

    def only(self, hidden_paths: Collection[bytes]) -> None:
        """No others than these are hidden: what is known as such besides has been given back, or is not there."""
        for path in self.hidden() - set(hidden_paths):
            self._lose(path)
        self._executor.show_companions(news=False)

    def _lose(self, hidden_path: bytes, *, gone: bool = False) -> None:
        """A hidden name leads to what it led to no more. `gone`: with its last name, the inode is no more."""
        file = self._files.take_back(hidden_path)
        if file.names or file.aside:
            return
        if gone:
            self._files.held.forget_inode(file.identity)
        self._names.forget(file)


def _identity(path: bytes) -> Identity | None:
    """That of a regular file which a name leads to; None where there is none."""
    try:
        status = timed_calls.stat(path, follow_symlinks=False)
    except OSError:
        return None
    return Identity.of(status)


def _above(path: bytes) -> Iterator[bytes]:
    """The folders that a path lies in."""
    while (folder := os.path.dirname(path)) != path:
        yield folder
        path = folder
