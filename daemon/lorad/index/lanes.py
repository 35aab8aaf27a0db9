"""Where a task of the loaders waits: in a lane, by how long it takes, or for a mount that does not answer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from lorad.index.known_files import Files
from lorad.index.records import File
from lorad.pipeline.protocol import Target, lane_of
from lorad.watch import timed_calls

#: Files of one job: enough to make messages cheap, few enough that all loaders get some.
_FILES = 64


class Lanes:
    """What tasks of all kinds have in common."""

    def __init__(self, files: Files, *, follow: bool, loaders: int) -> None:
        self._files = files
        self._follow = follow
        self._loaders = loaders
        #: What waits for mounts that do not answer, by mount point: how to queue it again.
        self._held: defaultdict[bytes, list[Callable[[], None]]] = defaultdict(list)

    def of(self, file: int, length: int) -> int:
        """The lane of a task of so many bytes of a file."""
        known = self._files.by_id.get(file)
        return lane_of(length, new=known is not None and known.news)

    def batch(self, waiting: int) -> int:
        """Of how many files a job is, when so many wait."""
        return min(_FILES, waiting // (2 * self._loaders) + 1)

    def target(self, file: File) -> Target:
        return Target(file.path, file.identity, self._follow, file.base or 0)

    def hold(self, file: File, queue: Callable[[], None]) -> bool:
        """Whether a file cannot be read now, as its mount does not answer; then it waits for that."""
        if not timed_calls.hangs(file.path):
            return False
        self._held[timed_calls.mount_of(file.path) or b"/"].append(queue)
        return True

    def release(self) -> None:
        """Queue again what waited for mounts that answer by now."""
        for point in [point for point in self._held if not timed_calls.hangs(point)]:
            for queue in self._held.pop(point):
                queue()
