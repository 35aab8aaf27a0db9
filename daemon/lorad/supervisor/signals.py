"""The signals that stop a daemon or have it read its configuration again.

They are waited for in a thread of their own: the kernel may give a signal to a thread that waits for a disk that
does not answer, which never comes to take it. What is to end and does not is ended.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

_ENDS = frozenset({signal.SIGTERM, signal.SIGINT})
_ALL = _ENDS | {signal.SIGHUP}
#: Seconds that the daemon has to end after SIGTERM, of the five that it promises.
_PATIENCE = 4.0


def block() -> None:
    """Have the signals wait until they are taken; to be called before there is another thread.

    Threads and processes that are started later have them blocked at first.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _ALL)


class Signals:
    """`stop` and `reload` are called in the thread, at each signal; `late` just before the process is ended."""

    def __init__(self, *, stop: Callable[[], None], reload: Callable[[], None], late: Callable[[], None]) -> None:
        self._stop = stop
        self._reload = reload
        self._late = late

    def start(self) -> None:
        """Take the signals from now on, and those that came since `block`."""
        threading.Thread(target=self._take, name="lorad-signals", daemon=True).start()

    def _take(self) -> None:
        ending = False
        while True:
            taken = signal.sigwait(_ALL)
            if taken == signal.SIGHUP:
                self._reload()
                continue
            self._stop()
            if not ending:
                ending = True
                threading.Thread(target=self._insist, name="lorad-end", daemon=True).start()

    def _insist(self) -> None:
        time.sleep(_PATIENCE)
        self._late()
        # All that was learnt and committed is on the disk; what was not is learnt again.
        os._exit(0)
