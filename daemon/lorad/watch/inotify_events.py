"""What inotify says of one root, as events for watchdog's queue."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from watchdog.events import DirDeletedEvent, FileClosedEvent, FileDeletedEvent, FileModifiedEvent, FileSystemEvent
from watchdog.observers.inotify_c import InotifyConstants as In

from lorad.watch import tree
from lorad.watch.events import EchoEvent, RescanEvent
from lorad.watch.inotify import Event, Instance
from lorad.watch.root_settings import Plan
from lorad.watch.tree import Tree

#: Names being written that are remembered.
_WRITTEN = 65_536
#: More folders than this are not polled one by one.
_POLLED = 16

_COMES = In.IN_CREATE | In.IN_MOVED_TO
_GOES = In.IN_DELETE | In.IN_MOVED_FROM
_ROOT_GOES = In.IN_DELETE_SELF | In.IN_MOVE_SELF


class _Names:
    """What is said of the names of one reading, of each the last; and which of them are being written."""

    def __init__(self) -> None:
        self._said: dict[bytes, FileSystemEvent] = {}
        self.written: set[bytes] = set()

    def happened(self, path: bytes, event: Event) -> None:
        closed = self._is_closed(path, event)
        if event.has(_GOES):
            self.say(FileDeletedEvent(path))
        else:
            self.say(_changed(path, closed))
        if path.endswith(b".aria2") and not event.has(In.IN_MODIFY):
            # The file beside it is finished when this one goes, and is not as long as it is there.
            self.say(_changed(path.removesuffix(b".aria2"), event.has(_GOES)))

    def say(self, event: FileSystemEvent) -> None:
        self._said[os.fsencode(event.src_path)] = event

    def take(self) -> Iterable[FileSystemEvent]:
        """All that is said since the last time."""
        said, self._said = self._said, {}
        return said.values()

    def _is_closed(self, path: bytes, event: Event) -> bool:
        """Whether nobody is known to be writing a file."""
        if event.has(In.IN_MODIFY):
            if len(self.written) >= _WRITTEN:
                self.written.clear()
            self.written.add(path)
            return False
        if event.has(In.IN_ATTRIB):
            return path not in self.written
        self.written.discard(path)
        return not event.has(In.IN_CREATE)


def _changed(path: bytes, closed: bool) -> FileSystemEvent:
    return FileClosedEvent(path) if closed else FileModifiedEvent(path)


class Listener:
    """An inotify instance for one root: it keeps the watches and says what happened, and that it overflowed."""

    def __init__(self, plan: Plan, beat: Callable[[], None], emit: Callable[[FileSystemEvent], None]) -> None:
        """`beat` as for `Tree`. Raises OSError where there can be no more inotify instances."""
        self._root = plan.root
        self._canary = plan.canary
        self._follow = plan.follow
        self._left_out = plan.left_out
        self._emit = emit
        self.instance = Instance()
        self._canary_watch: int | None = None
        #: Whether watches have ended that should not have, and whether that of the root has.
        self.lost = self.lost_root = False
        self._names = _Names()
        self.tree = Tree(self.instance, plan, beat)
        self._watch_canary()

    @property
    def echoes(self) -> bool:
        """Whether canaries are heard."""
        return self._canary_watch is not None

    @property
    def sound(self) -> bool:
        """Whether all changes are noticed."""
        return self.echoes and not self.tree.unwatched

    def trouble(self) -> str:
        """Why changes in some folders are not noticed; empty if they all are."""
        if self.tree.unwatched:
            return tree.explain(self.tree)
        if not self.echoes:
            return f"no sign of life can be made in {os.fsdecode(self._canary.folder)}; give that folder back"
        return ""

    def retry(self) -> list[bytes]:
        """Try again what could not be watched; the folders to look through, as nothing told of them."""
        if not self.echoes:
            self._watch_canary()
        polled = list(self.tree.unwatched) or [self._root]
        for folder in list(self.tree.unwatched):
            if folder in self.tree.unwatched:
                self.tree.adopt(folder)
        return polled if len(polled) <= _POLLED else [self._root]

    def hear(self) -> bool:
        """Say what has happened since the last time; whether the root itself is to be looked at."""
        ask, overflowed, echo = False, False, 0
        for event in self.instance.read():
            if event.has(In.IN_Q_OVERFLOW):
                overflowed = True
            elif event.wd == self._canary_watch:
                echo = max(echo, self._heard_canary(event))
            elif (folder := self.tree.path(event.wd)) is None:
                continue
            elif event.has(In.IN_IGNORED, In.IN_UNMOUNT):
                self.lost_root = self.lost_root or folder == self._root
                self.lost = self.lost or self.lost_root or event.has(In.IN_UNMOUNT)
                if event.has(In.IN_IGNORED):
                    self.tree.ended(event.wd)
            elif event.name:
                self._happened(folder, event)
            elif folder == self._root:
                ask = ask or event.has(_ROOT_GOES)
                if event.has(In.IN_ATTRIB):
                    self._changed_rights(folder)
        for said in self._names.take():
            self._emit(said)
        if overflowed:
            self._overflowed()
        if echo:
            # After the above: whoever waits for it takes all that came before as told.
            self._emit(EchoEvent(self._root, number=echo))
        return ask or self.lost

    def _watch_canary(self) -> None:
        try:
            self._canary_watch = self.instance.add(self._canary.folder, follow=True, events=In.IN_CREATE)
        except OSError:
            self._canary_watch = None

    def _heard_canary(self, event: Event) -> int:
        """The number of a canary; 0 for what is none."""
        if event.has(In.IN_IGNORED):
            self._canary_watch = None
            return 0
        return self._canary.number(event.name) or 0

    def _overflowed(self) -> None:
        """Events were dropped, whichever, so it is all looked at anew; that is an answer to canaries too."""
        number = self._canary.sent
        self._names.written.clear()
        self.tree.renew()
        self._emit(RescanEvent(self._root, reason="more happened than the kernel kept"))
        self._emit(EchoEvent(self._root, number=number))

    def _happened(self, folder: bytes, event: Event) -> None:
        path = os.path.join(folder, event.name)
        if self._left_out.entry(path):
            return
        if event.has(In.IN_ISDIR):
            self._happened_to_folder(path, event)
        elif not (self._follow and self._happened_to_link(path, event)):
            self._names.happened(path, event)

    def _happened_to_folder(self, path: bytes, event: Event) -> None:
        if event.has(_COMES):
            if self.tree.adopt(path):
                self._emit(RescanEvent(path, reason="a folder was made or moved in"))
        elif event.has(_GOES):
            self.tree.forget(path)
            # Two that change places both come before the second one goes.
            if self.tree.adopt(path):
                self._emit(RescanEvent(path, reason="another folder is in its place"))
            else:
                self._names.say(DirDeletedEvent(path))
        elif event.has(In.IN_ATTRIB):
            self._changed_rights(path)

    def _happened_to_link(self, path: bytes, event: Event) -> bool:
        """Where links are followed, one to a folder is a folder."""
        if event.has(_COMES) and os.path.isdir(path):
            if not self._left_out.target(path) and self.tree.adopt(path):
                self._emit(RescanEvent(path, reason="a link to a folder was made or moved in"))
            return True
        if event.has(_GOES) and self.tree.knows(path):
            # Another link may lead to the same folder, which has been watched under this name alone.
            self.tree.renew()
            self._emit(RescanEvent(self._root, reason="a link to a folder is gone"))
            self._names.say(DirDeletedEvent(path))
            return True
        return False

    def _changed_rights(self, folder: bytes) -> None:
        readable = os.access(folder, os.R_OK | os.X_OK, effective_ids=True)
        if readable != (folder in self.tree.unwatched):
            return
        if readable:
            self.tree.adopt(folder)
        elif os.path.isdir(folder):
            self.tree.unreadable(folder)
        self._emit(RescanEvent(folder, reason="who may read the folder has changed"))
