"""Files of our own, made for a moment to try what a folder can; see `abilities` and `aliases`.

Their names are random and are used once. One that a crash has left is empty or a few bytes long, is passed over by
the scanner like all that begins with `.lorad-`, and is removed when something is tried in that folder again.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_NAME = re.compile(rb"\.lorad-probe-[0-9a-f]{32}")
#: Seconds after which a probe is a leftover: it lives for milliseconds.
_OLD = 3600.0
#: A probe is no longer than this.
_SMALL = 64
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def new_name() -> bytes:
    """A name that no folder was ever asked for."""
    return b".lorad-probe-" + secrets.token_hex(16).encode()


@contextmanager
def opened(folder: bytes) -> Iterator[int]:
    """A descriptor of the folder. Raises OSError."""
    fd = os.open(folder, _FOLDER)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def probe(folder: int, content: bytes = b"") -> Iterator[bytes]:
    """The name of a new file in an open folder, gone again afterwards. Raises OSError where none can be made."""
    name = new_name()
    fd = os.open(name, _FILE, 0o600, dir_fd=folder)
    try:
        os.write(fd, content)
        yield name
    finally:
        os.close(fd)
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)


def remove_leftovers(folder: int) -> None:
    """Remove probes that a crash has left in an open folder."""
    before = time.time() - _OLD
    for name in map(os.fsencode, os.listdir(folder)):
        if _NAME.fullmatch(name):
            with suppress(OSError):
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if status.st_mtime >= before:
                    continue
                if stat.S_ISDIR(status.st_mode):
                    os.rmdir(name, dir_fd=folder)
                elif stat.S_ISREG(status.st_mode) and status.st_size <= _SMALL:
                    os.unlink(name, dir_fd=folder)
