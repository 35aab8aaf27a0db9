"""Duplicates whose blocks are to be looked at, so that what they share is not counted as wasted.

Sharing changes no time stamp. So a file is looked at when it becomes a duplicate, when we had it share its blocks
or took that back, and whenever a folder that it is in was looked through, as each root is at a start, a `scan` and
a rescan. What other programs do in between is seen then. One that was changed less than a minute ago is looked at
again a minute later: until it is on the disk, it is told at its old place, or at none.
"""

from __future__ import annotations

import time
from itertools import islice

from lorad.blocks.extents import FileSystems, look
from lorad.index.known_files import Files
from lorad.index.records import File
from lorad.library import Status
from lorad.watch import timed_calls

#: Seconds after which Linux has written to the disk what a program has written; by default it takes half of that.
WRITTEN = 60.0
#: Seconds after which others have their turn.
_LONG = 0.05


class Backlog:
    """True while there is something to look at. All times are those of `time.monotonic`."""

    def __init__(self, files: Files) -> None:
        self._files = files
        #: By number, in the order in which they came.
        self._waiting: dict[int, None] = {}
        #: Files that may not be on the disk yet, and when to look again; the first one first.
        self._later: dict[int, float] = {}
        #: For as long as something waits: afterwards, what is mounted may change.
        self._places: FileSystems | None = None

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, file: File) -> None:
        """Have this duplicate looked at."""
        self._waiting[file.id] = None

    def add_name(self, path: bytes) -> None:
        """The file of this name, if it is a duplicate."""
        file = self._files.by_path.get(path)
        if file is not None and file.status is Status.DUPLICATE:
            self.add(file)

    def add_under(self, folder: bytes) -> None:
        """All duplicates in a folder, at any depth."""
        for path in self._files.folders.names_under(folder):
            self.add_name(path)

    def add_written(self, now: float) -> None:
        """Those that may not have been on the disk yet, and are by now."""
        while self._later and next(iter(self._later.values())) <= now:
            number = next(iter(self._later))
            del self._later[number]
            if (file := self._files.by_id.get(number)) is not None:
                self.add(file)

    def look(self, most: int, now: float) -> None:
        """Look at up to so many, the oldest first; at fewer where they are in so many pieces that it lasts."""
        until = time.monotonic() + _LONG
        places = self._places = self._places or FileSystems()
        for number in list(islice(self._waiting, most)):
            del self._waiting[number]
            file = self._files.by_id.get(number)
            if file is not None and file.status is Status.DUPLICATE and file.names:
                self._look(file, places, now)
            if time.monotonic() >= until:
                break
        if not self._waiting:
            self._places = None

    def _look(self, file: File, places: FileSystems, now: float) -> None:
        identity = file.identity
        try:
            facts = file.names, identity.dev, identity.ino, identity.size
            found = timed_calls.do(file.names[0], lambda: look(places.place(*facts)))
        except OSError:
            # What was known of it holds until it is there again.
            return
        if found != file.extents:
            file.extents = found
            self._files.store.changed(file)
        if found is not None and 0 <= time.time() - identity.ctime_ns / 1e9 < WRITTEN:
            self._later.setdefault(file.id, now + WRITTEN)
