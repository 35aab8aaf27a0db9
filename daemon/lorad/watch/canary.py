"""Signs of life: files made where every inotify instance watches, whose echo shows that it still does."""

from __future__ import annotations

import contextlib
import os
import threading

_PREFIX = b".canary-"


class Canary:
    """Makes canaries, numbered upwards. They are in a folder of ours, never in anyone's model folder.

    An echo also says that what happened before its canary was made has been told, since an instance is a queue.
    """

    def __init__(self, folder: bytes) -> None:
        self.folder = folder
        self._prefix = _PREFIX + b"%d-" % os.getpid()
        self._lock = threading.Lock()
        #: The number of the last one.
        self.sent = 0

    def clean(self) -> None:
        """Make the folder, and remove what a process that was killed left in it. Raises OSError."""
        os.makedirs(self.folder, mode=0o750, exist_ok=True)
        for name in os.listdir(self.folder):
            if name.startswith(_PREFIX):
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(self.folder, name))

    def send(self) -> int:
        """Make one; its number. Raises OSError where no file can be made."""
        with self._lock:
            path = os.path.join(self.folder, self._prefix + b"%d" % (self.sent + 1))
            self.sent += 1
            # Not the one that it lies in, whose disk may be away.
            with contextlib.suppress(FileExistsError):
                os.mkdir(self.folder, 0o750)
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
            with contextlib.suppress(OSError):
                os.unlink(path)
            return self.sent

    def number(self, name: bytes) -> int | None:
        """The number of a canary of this process by its name; None for any other file."""
        number = name.removeprefix(self._prefix)
        return int(number) if number != name and number.isdigit() else None
