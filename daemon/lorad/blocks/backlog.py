"""Duplicates whose blocks are to be looked at, so that what they share is not counted as wasted.

Sharing changes no time stamp. So all are looked at whenever a folder was looked through, and one when it becomes a
duplicate, or we had it share its blocks; what other programs do meanwhile is seen the next time.
"""

from __future__ import annotations

import time
from collections import deque
from itertools import islice

from lorad.blocks.looking import FileSystems, look_up
from lorad.blocks.room import is_placed
from lorad.files import File, Files
from lorad.library import Status

#: Seconds after which Linux has written to the disk what a program has written, by default twice as many.
_WRITTEN = 60.0


class Backlog:
    """True while there is something to look at. All times are those of `time.monotonic`."""

    def __init__(self, files: Files) -> None:
        self._files = files
        #: By number, in the order in which they came.
        self._waiting: dict[int, None] = {}
        #: Files that were not on the disk yet, and when to look again.
        self._later: deque[tuple[float, int]] = deque()
        self._places = FileSystems()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, file: File) -> None:
        """Have this duplicate looked at."""
        if not self._waiting:
            # What is mounted may have changed since.
            self._places = FileSystems()
        self._waiting[file.id] = None

    def add_name(self, path: bytes) -> None:
        """The file of this name, if it is a duplicate."""
        file = self._files.by_path.get(path)
        if file is not None and file.status is Status.DUPLICATE:
            self.add(file)

    def add_all(self) -> None:
        """All duplicates."""
        for file in self._files:
            if file.status is Status.DUPLICATE:
                self.add(file)

    def add_written(self, now: float) -> None:
        """Those that were not on the disk yet, and are by now."""
        while self._later and self._later[0][0] <= now:
            file = self._files.by_id.get(self._later.popleft()[1])
            if file is not None:
                self.add(file)

    def look(self, most: int, now: float) -> None:
        """Look at up to so many, the oldest first."""
        for number in list(islice(self._waiting, most)):
            del self._waiting[number]
            file = self._files.by_id.get(number)
            if file is not None and file.status is Status.DUPLICATE:
                self._look(file, now)

    def _look(self, file: File, now: float) -> None:
        identity = file.identity
        found: bytes | None = b""
        if self._places.share(identity.dev, file.names):
            found = look_up(file.names, identity.dev, identity.ino, identity.size)
        if found is None:
            return
        if (found or None) != file.extents:
            file.extents = found or None
            self._files.changed(file)
        if not is_placed(found) and time.time() - identity.ctime_ns / 1e9 < _WRITTEN:
            self._later.append((now + _WRITTEN, file.id))
