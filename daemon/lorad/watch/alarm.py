"""A bell that wakes a thread which waits in `poll`."""

from __future__ import annotations

import os
import threading


class Alarm:
    """An eventfd. Any thread may ring it at any time, also when it is not there yet or any more."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fd: int | None = None

    def open(self) -> int:
        """Its descriptor, for `poll`. Raises OSError where there can be no more of them."""
        with self._lock:
            self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            return self._fd

    def ring(self) -> None:
        with self._lock:
            if self._fd is not None:
                os.eventfd_write(self._fd, 1)

    def close(self) -> None:
        with self._lock:
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None
