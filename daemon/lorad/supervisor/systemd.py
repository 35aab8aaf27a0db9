"""systemd's side of the daemon: what is told to it, and the signals by which it stops or reloads a service.

Told are ready, reloading, stopping, the status line, and being alive, by sd_notify(3): one datagram of `KEY=value`
lines to the socket named by NOTIFY_SOCKET. Without that name nothing is sent.

Signals are waited for in a thread of their own: the kernel may give a signal to a thread that waits for a disk
that does not answer, which never comes to take it. What is to end and does not is ended.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable

from loracore.control import Status
from loracore.paths import shown

_STATUS_CHARS = 500


class Notifier:
    """Takes systemd's variables out of the environment, so that no child speaks for the daemon.

    Its methods return whether systemd got the message. They neither block nor raise: a daemon goes on when
    systemd does not listen.
    """

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._address = os.environ.pop("NOTIFY_SOCKET", "")
        #: Seconds between calls of `watchdog`, half of what systemd waits for; None where it does not watch.
        self.watchdog_interval = _watchdog_interval()
        if self._address.startswith("@"):
            self._address = "\0" + self._address[1:]
        if self._address.startswith(("/", "\0")):
            with contextlib.suppress(OSError):
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def ready(self) -> bool:
        """The start, or a reload, is over."""
        return self._send("READY=1")

    def status(self, text: str) -> bool:
        """One line for `systemctl status`."""
        # On one line whatever stands in it, such as a file's name with a line break and READY=1.
        return self._send(f"STATUS={_line(text)[:_STATUS_CHARS]}")

    def reloading(self) -> bool:
        """The configuration is read again; `ready` must follow."""
        return self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> bool:
        """The daemon ends by itself or was asked to."""
        return self._send("STOPPING=1")

    def watchdog(self) -> bool:
        """The daemon is alive. To be called only while what matters in it is."""
        return self._send("WATCHDOG=1")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, *lines: str) -> bool:
        if self._socket is None:
            return False
        try:
            self._socket.sendto("\n".join(lines).encode(), socket.MSG_DONTWAIT, self._address)
        except (OSError, ValueError):
            return False
        return True


def sentence(status: Status) -> str:
    """How the daemon is, in one line for `systemctl status`."""
    text = f"{status.state}: {status.files_processed:,} of {status.files_total:,} files"
    if status.duplicate_files:
        text += f", {status.duplicate_files:,} of them duplicates"
    return text if status.watch == "watching" else f"{text}; watch {status.watch}"


def _line(text: str) -> str:
    try:
        return shown(text)
    except UnicodeEncodeError:
        # Half of a surrogate pair, which no file name decodes to.
        return shown(text.encode("utf-8", "backslashreplace"))


def _watchdog_interval() -> float | None:
    """Half of WATCHDOG_USEC in seconds, if WATCHDOG_PID, where given, means this process."""
    microseconds = os.environ.pop("WATCHDOG_USEC", "")
    pid = os.environ.pop("WATCHDOG_PID", str(os.getpid()))
    if not (microseconds.isdecimal() and int(microseconds) > 0) or pid != str(os.getpid()):
        return None
    return int(microseconds) / 2e6


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
