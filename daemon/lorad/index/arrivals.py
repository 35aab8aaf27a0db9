"""Names that are met for the first time, and whether they are new there."""

from __future__ import annotations

import os
import time

from loracore.identity import Identity
from loracore.tensorfile import has_reader
from lorad.index.known_files import Files
from lorad.index.view import View
from lorad.watch.statx import born_ns


class Arrivals:
    """A name may be read long after it was met, as it has to settle; until then it is kept whether it was new."""

    def __init__(self, files: Files, view: View) -> None:
        self._files = files
        self._view = view
        #: Whether what is met is new, where its root was looked through.
        self._acts = False
        #: Names that were met and wait to settle, and whether they are new.
        self._met: dict[bytes, bool] = {}

    def act(self, acts: bool) -> None:
        """Whether files that are met from now on may be newcomers: a policy other than to report is in force.

        While none is, all are old, also those that were new before.
        """
        self._acts = acts
        if not acts:
            self._met = dict.fromkeys(self._met, False)
            for file in self._files:
                if file.fresh:
                    file.fresh = 0
                    self._files.store.changed(file)

    def noticed(self, path: bytes) -> None:
        """Something happens to this name, and it has not settled yet."""
        if not has_reader(path) or not self._view.has(path):
            return
        if self.meet(path):
            seen = self._view.look(path)
            if seen is not None and seen.status is not None:
                self.waits(path, Identity.of(seen.status))

    def meet(self, path: bytes) -> bool:
        """A name is met, as it is or anew; it may be read long after. Whether it did not wait for that already."""
        if path in self._met:
            return False
        self._met[path] = self.is_new(path)
        return True

    def waits(self, path: bytes, identity: Identity) -> None:
        """A name that was met settles first. In a first look it is old, also for a lorad that starts meanwhile."""
        if self._view.first_look(path):
            self._files.held.lost(path, identity, born_ns(path, identity.ino), None, None)

    def is_new(self, path: bytes) -> bool:
        """Whether a name that is met now is new."""
        return self._acts and not self._view.first_look(path)

    def arrived(self, path: bytes) -> bool:
        """A name waits no more; whether it was new when it was met."""
        return self._met.pop(path, False)


def settled(status: os.stat_result, seconds: float) -> bool:
    """Whether a file was left alone for so long, by its own times. Times to come count as long ago."""
    age = time.time() - max(status.st_mtime, status.st_ctime)
    return not 0 <= age < seconds
