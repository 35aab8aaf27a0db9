"""What waits for the loop to take it in: names that settle, files to be read again, and what clients ask for."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from loracore.control import NoteEdits
from loracore.identity import Edited
from lorad.control.handlers import Command
from lorad.index.arrivals import settled
from lorad.pipeline.protocol import Identity
from lorad.supervisor.configuration import Configuration
from lorad.supervisor.waits import Waits
from lorad.watch import timed_calls
from lorad.watch.settle import SettleQueue

#: Names that may still settle when those are looked for that could not be taken in.
_FEW = 1000


class Intake:
    """For the loop's thread, but for `post` (the control thread), `edited` (jobs) and `look_again` (audits).

    `sync` has the watch say when it has told of all that happened until now, see `Waits`. `wake` ends the loop's
    waiting, from any thread.
    """

    def __init__(
        self, configuration: Configuration, sync: Callable[[int], None], wake: Callable[[], None]
    ) -> None:
        self._configuration = configuration
        self._wake = wake
        self.settling = SettleQueue(configuration.here.watch, look=self._identity)
        self.waits = Waits(sync)
        self.commands: deque[Command] = deque()
        #: Names whose files are not what was read, which no watch told of.
        self._changed: deque[bytes] = deque()
        #: Names were not taken in: all folders have to be looked through.
        self._overfull = False
        #: Whether no JSON files were published since the daemon began.
        self.starting = True

    def post(self, command: Command) -> None:
        """A client wants something of the core. Called by the control thread."""
        self.commands.append(command)
        self._wake()

    def edited(self, files: Sequence[Edited]) -> None:
        """A job has edited these files. Called by the thread that runs it."""
        self.post(Command(NoteEdits(list(files)), lambda answer: None))

    def look_again(self, path: bytes) -> None:
        """A file is not what was read of it. Called by the thread that audits."""
        self._changed.append(path)
        self._wake()

    def add(self, path: bytes, closed: bool) -> bool:
        """Something happened to a name: it is looked at when it has settled. False if it was not taken in."""
        taken = self.settling.add(path, closed)
        self._overfull |= not taken
        return taken

    def defer(self, path: bytes, status: os.stat_result) -> bool:
        """Whether a file that a sweep met has to settle first."""
        if settled(status, self._configuration.config.watch.settle_seconds):
            return False
        if path not in self.settling:
            # Who started us just after a copy does not wait for long; in later sweeps the file is probably new.
            self.add(path, closed=self.starting)
        self.waits.deferred(path)
        return True

    def due(self) -> list[bytes]:
        """Names that have settled."""
        return self.settling.due(time.monotonic())

    def changed(self) -> Iterator[bytes]:
        """Names for which `look_again` was called."""
        while self._changed:
            yield self._changed.popleft()

    def missed(self) -> bool:
        """Whether all folders are to be looked through now, as names were not taken in. Says so once."""
        missed = self._overfull and len(self.settling) < _FEW
        self._overfull &= not missed
        return missed

    def _identity(self, path: bytes) -> Identity | None:
        """What a name leads to now."""
        try:
            return Identity.of(
                timed_calls.stat(path, follow_symlinks=self._configuration.config.watch.follow_symlinks)
            )
        except OSError:
            return None
