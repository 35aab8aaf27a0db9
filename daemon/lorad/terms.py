"""The terms by which files are kept now: the keep rules of the configuration, and on what storage the files lie.

The catalogue keeps them with each generation, so that all who read it choose alike, whatever is mounted since.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence

from lorad.catalog.views import Terms
from lorad.files import Files
from lorad.library.keepers import Rules
from lorad.watch.storage import Storage, look

#: Seconds for which what was seen of the storage is believed.
_FRESH = 2.0


class PresentTerms:
    """`rules` may be replaced at any time."""

    def __init__(self, files: Files, roots: Sequence[bytes], *, follow: bool) -> None:
        self.rules = Rules()
        self._files = files
        self._roots = roots
        self._follow = follow
        #: A folder with a file of each device.
        self._folders: dict[int, bytes] = {}
        self._storage = Storage()
        self._looked: float | None = None

    def encoded(self) -> bytes:
        """As the catalogue keeps them."""
        now = time.monotonic()
        if self._looked is None:
            self.note(file.names[0] for file in self._files if file.names)
        if self._looked is None or now - self._looked >= _FRESH:
            self._storage, self._looked = look(self._folders, self._roots), now
        return Terms(self.rules, self._storage, self._follow).encode()

    def note(self, paths: Iterable[bytes]) -> None:
        """Look at where these files lie, too."""
        for path in paths:
            file = self._files.by_path.get(path)
            if file is not None:
                self._folders[file.identity.dev] = os.path.dirname(path)
