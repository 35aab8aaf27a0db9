"""Whether a file may be kept for another one, asked of the disks now; plans ask the catalogue for many at once."""

from __future__ import annotations

import os
import time

from lorad.library.keepers import Rules, may_keep_there
from lorad.watch import timed_calls
from lorad.watch.storage import Finder, look

_IN_MEMORY = "its twin lies in memory (tmpfs) and is lost at a restart; keep the one on the disk"
_READ_ONLY = (
    "its twin is on a read-only file system; mount that writable, or name it in a path-prefix of [dedupe] keep"
)
#: Seconds for which what was seen of the mounts is believed.
_FRESH = 1.0


class Places:
    """What is asked again and again in a moment is looked up once. `rules` may be replaced at any time."""

    def __init__(self, rules: Rules = Rules()) -> None:  # noqa: B008 - it is frozen
        self.rules = rules
        self._finders: dict[int, Finder] = {}
        self._until = 0.0

    def may_keep(self, kept: bytes, gone: bytes) -> bool:
        """Whether the file at `kept` may be kept for the one at `gone`."""
        return not self.why_not(kept, gone)

    def why_not(self, kept: bytes, gone: bytes) -> str:
        """Why the file at `kept` may not be kept for the one at `gone`; empty where it may."""
        now = time.monotonic()
        if now >= self._until:
            self._finders, self._until = {}, now + _FRESH
        folder = os.path.dirname(kept)
        try:
            device = timed_calls.stat(folder).st_dev
        except OSError as error:
            return f"the folder of its twin cannot be reached: {(error.strerror or str(error)).lower()}"
        finder = self._finders.get(device)
        if finder is None:
            finder = self._finders[device] = Finder(look({device: folder}))
        if reason := _why_lost(finder, kept, gone):
            return reason
        place = finder.read_only(kept, device)
        return "" if place is None or may_keep_there(kept, place, self.rules) else _READ_ONLY


def why_lost(kept: bytes, gone: bytes) -> str:
    """Why the file at `kept` would be lost with the power, and the one at `gone` not; empty where it would not."""
    return _why_lost(Finder(look({})), kept, gone)


def _why_lost(finder: Finder, kept: bytes, gone: bytes) -> str:
    return _IN_MEMORY if finder.volatile(kept) and not finder.volatile(gone) else ""
