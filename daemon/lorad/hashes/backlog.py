"""Which files have no identity hashes yet, as the catalogue says, in the order in which they are hashed."""

from __future__ import annotations

from lorad.catalog.hashes import Counts, Wanted, count, wanted_after, wanted_before
from lorad.catalog.views import Reader

_END = 2**63 - 1


class Backlog:
    """Goes through the files without hashes, each once: what came last, then back to what was first.

    For one thread. All methods raise sqlite3.Error where the catalogue cannot be read; call `close` then.
    """

    def __init__(self, state_dir: str) -> None:
        self._reader = Reader(state_dir)
        self._newest = self._oldest = _END

    def begin(self) -> None:
        """Go through all of them again."""
        self._newest = self._oldest = _END

    def next(self, *, tagged: bool = False) -> Wanted | None:
        """A file that was not given since the beginning; what arrived meanwhile comes first.

        `tagged`: one of those of which users say something, or may.
        """
        wanted = wanted_after(self._reader.db, self._newest, tagged=tagged)
        if wanted is not None:
            self._newest = wanted.file
            return wanted
        wanted = wanted_before(self._reader.db, self._oldest, tagged=tagged)
        if wanted is not None:
            self._oldest = wanted.file
            if self._newest == _END:
                self._newest = wanted.file
        return wanted

    def counts(self) -> Counts:
        return count(self._reader.db)

    def close(self) -> None:
        self._reader.close()
