"""What the daemon tells systemd: ready, reloading, stopping, its status line, and that it is alive.

The protocol of sd_notify(3): one datagram of `KEY=value` lines to the socket named by NOTIFY_SOCKET. Without
that name nothing is sent.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time

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
