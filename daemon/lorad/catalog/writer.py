"""The one writer's connection: one transaction is open at a time and committed in batches.

Commits are atomic whatever is killed. After a power cut the newest commits may be missing (WAL without a
sync on each commit): what they held is then read from the files again.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from contextlib import suppress

from loracore.errors import StateError
from loracore.paths import CATALOGUE
from loracore.tensorfile import Arrangement
from loracore.whole import regular
from lorad import state_folder
from lorad.catalog.facts import FactsTable
from lorad.catalog.hashes import HashTable
from lorad.catalog.schema import migrate
from lorad.catalog.tables import AnswerTable, FileTable, HeldTables, Interned, LayoutTable, NameTable
from lorad.catalog.tags import TagTable
from lorad.catalog.views import value

#: Bytes of SQLite's header, which is written first.
_HEAD = 100
#: Bytes that the write-ahead log keeps after it was larger.
_JOURNAL = 16 << 20


class Catalog:
    """The open catalogue, with a writer for each table."""

    def __init__(self, folder: str, *, lists: bool = True) -> None:
        """Open or make the catalogue in `folder`. `lists`: files have facts, and can be listed by them.

        Raises StateError when it is damaged or too new, and sqlite3.OperationalError when there is no room or
        permission to work on it.
        """
        self.path = os.path.join(folder, CATALOGUE)
        _remove_half_made(self.path)
        try:
            self._db = state_folder.connect(self.path, "rwc", cached_statements=64)
            for pragma in (
                "journal_mode = WAL",
                "synchronous = NORMAL",
                "cache_size = -16384",
                "mmap_size = 0",
                f"journal_size_limit = {_JOURNAL}",
            ):
                self._db.execute(f"PRAGMA {pragma}")
            migrate(self._db)
            self._db.execute("BEGIN")
            self.generation = self.number("generation")
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            raise StateError(f"{self.path}: {error}; move it away to start afresh") from error
        self.files = FileTable(self._db)
        self.names = NameTable(self._db)
        self.answers = AnswerTable(self._db)
        self.hashes = HashTable(self._db)
        self.facts = FactsTable(self._db, lists=lists)
        self.tags = TagTable(self._db)
        self.layouts = LayoutTable(self._db)
        self.arrangements = Interned(self._db, "arrangement", Arrangement.decode)
        self.held = HeldTables(self._db)
        self._dropped = False
        if self.facts.begin():
            self.commit(new_generation=False)

    def number(self, key: str) -> int:
        """A number kept under a name; 0 if it was never set."""
        return int(value(self._db, key) or 0)

    def text(self, key: str) -> bytes:
        """Bytes kept under a name; empty if there are none."""
        return bytes(value(self._db, key) or b"")

    def keep(self, key: str, value: str | int | bytes) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def commit(self, *, new_generation: bool) -> None:
        """End the open transaction and begin the next; a new generation when views would differ."""
        if new_generation:
            self.generation += 1
            self.keep("generation", self.generation)
        self._db.execute("COMMIT")
        self._db.execute("BEGIN")

    def drop_files(self, files: Iterable[int]) -> None:
        """Forget files with all that was learnt from them."""
        files = list(files)
        self._dropped |= bool(files)
        for table in ("files", "names", "answers", "hashes", "facts", "tagged"):
            column = "id" if table == "files" else "file"
            self._db.executemany(f"DELETE FROM {table} WHERE {column} = ?", ((file,) for file in files))

    def forget_unused(self) -> None:
        """Drop layouts and arrangements that no file has any more, in the open transaction.

        Their numbers may be given to others then. Files that are not saved yet must not have one.
        """
        if self._dropped:
            self.layouts.forget_unused()
            self.arrangements.forget_unused()
            self._dropped = False

    def abandon(self) -> None:
        """Close without what is not committed: the disk would not take it."""
        with suppress(sqlite3.Error):
            self._db.rollback()
        with suppress(sqlite3.Error):
            self._db.close()

    def close(self) -> None:
        self._db.execute("COMMIT")
        self._db.close()


def _remove_half_made(path: str) -> None:
    """Remove what is left of a catalogue whose making was cut short, as by a power cut: it holds nothing."""
    if os.path.exists(f"{path}-wal"):
        return
    with suppress(OSError):
        with open(path, "rb", opener=regular) as file:
            head = file.read(_HEAD)
        if len(head) < _HEAD or not head.strip(b"\0"):
            os.unlink(path)
