"""Memory of a process and all its descendants, sampled from /proc.

The sum of PSS counts a page that several processes share once. A peak between two samples is missed; each
process's own peak of resident memory (`VmHWM`) is the kernel's and is not.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from types import TracebackType

#: Seconds between two samples.
INTERVAL = 0.02


class MemorySampler:
    """A context in which the descendants of `root` (not itself) are sampled by a thread.

    `peak_bytes` is the largest sum of PSS; `resident` maps each command line seen to the largest resident
    memory of a process that had it, in bytes.
    """

    def __init__(self, root: int) -> None:
        self.root = root
        self.peak_bytes = 0
        self.resident: dict[str, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> MemorySampler:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL):
            total = 0
            for pid in descendants(self.root):
                total += _kilobytes(f"/proc/{pid}/smaps_rollup", "Pss:")
                command = command_line(pid)
                resident = _kilobytes(f"/proc/{pid}/status", "VmHWM:")
                self.resident[command] = max(self.resident.get(command, 0), resident)
            self.peak_bytes = max(self.peak_bytes, total)


def descendants(pid: int) -> Iterator[int]:
    """Process ids below `pid`, as far as they can be seen; those that end meanwhile are left out."""
    for thread in _entries(f"/proc/{pid}/task"):
        for child in map(int, _text(f"/proc/{pid}/task/{thread}/children").split()):
            yield child
            yield from descendants(child)


def command_line(pid: int) -> str:
    return _text(f"/proc/{pid}/cmdline").replace("\0", " ").strip()


def _kilobytes(path: str, field: str) -> int:
    for line in _text(path).splitlines():
        if line.startswith(field):
            return int(line.split()[1]) << 10
    return 0


def _entries(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
