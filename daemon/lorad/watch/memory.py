"""On which mounts the roots were, for the next run: a disk may be late, or fail, when the system starts."""

from __future__ import annotations

import contextlib
import json
import os
import threading

from loracore.whole import regular, write_whole
from lorad.watch.place import Place

#: Bytes of the file that are read.
_MOST = 1 << 20


class Memory:
    """Where each root was last. On which mount that is, is kept in a file."""

    def __init__(self, path: bytes) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._mounts = self._read()
        self._places: dict[bytes, Place] = {}

    def place(self, root: bytes) -> Place | None:
        """Where a root was last, as far as that is known."""
        mount = self._mounts.get(os.fsdecode(root))
        return self._places.get(root) or (None if mount is None else Place(None, None, os.fsencode(mount)))

    def keep(self, root: bytes, place: Place) -> None:
        """A root is there."""
        mount = os.fsdecode(place.mount)
        with self._lock:
            self._places[root] = place
            if self._mounts.get(os.fsdecode(root)) != mount:
                self._mounts[os.fsdecode(root)] = mount
                self._write()

    def forget(self, root: bytes) -> None:
        """A root is looked after no more."""
        with self._lock:
            self._places.pop(root, None)
            if self._mounts.pop(os.fsdecode(root), None) is not None:
                self._write()

    def _read(self) -> dict[str, str]:
        try:
            with open(self._path, "rb", opener=regular) as file:
                return _checked(json.loads(file.read(_MOST)))
        except (OSError, ValueError, RecursionError):
            return {}

    def _write(self) -> None:
        # It is a precaution, which a full disk may do without.
        with contextlib.suppress(OSError):
            write_whole(self._path, json.dumps(self._mounts).encode("ascii"))


def _checked(read: object) -> dict[str, str]:
    if not isinstance(read, dict) or not all(isinstance(word, str) for pair in read.items() for word in pair):
        raise ValueError("not as it was written")
    return read
