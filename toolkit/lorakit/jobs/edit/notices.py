"""Says which files were edited: soon, as a daemon reads them after a second, and many at once where it can."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from loracore.identity import Edited

#: Seconds between two messages, but for the last of a batch.
_EVERY = 0.1
#: Bytes of one message at most, and of a file in it beside its path.
_BYTES, _FILE = 48 << 10, 128


class Notices:
    """`pass_on` takes files, never more than a message holds; see `loracore.jobs.job.Context.edited`."""

    def __init__(self, pass_on: Callable[[Sequence[Edited]], object]) -> None:
        self._pass_on = pass_on
        self._waiting: list[Edited] = []
        self._bytes = 0
        self._last = -_EVERY

    def add(self, file: Edited) -> None:
        size = len(file.path) + _FILE
        if self._bytes + size > _BYTES:
            self.send()
        self._waiting.append(file)
        self._bytes += size
        self.send_due()

    def send_due(self) -> None:
        """Pass on what waits, if the last message was some time ago. Called often while a file is written."""
        if self._waiting and time.monotonic() - self._last >= _EVERY:
            self.send()

    def send(self) -> None:
        """Pass on all that waits."""
        waiting, self._waiting, self._bytes = self._waiting, [], 0
        if waiting:
            self._pass_on(waiting)
            self._last = time.monotonic()
