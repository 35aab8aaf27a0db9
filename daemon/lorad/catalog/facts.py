"""The facts of files, and a row for each name of a model in view with all that `list` looks at; both are written.

Texts in `listing` and `texts` are folded: case is ignored where they are searched and sorted. What is shown comes
from `facts` and `tagged`. The rows follow from these, `names` and `files` alone, so they can be made anew at any
time.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from loracore.facts import VERSION, Facts, decode
from lorad.catalog.globs import fold
from lorad.catalog.runs import called, with_marks
from lorad.catalog.tags import said_of
from lorad.library import Status

#: Of the rows of `listing`; those of another version are made anew.
_ROWS = 2
_NOTHING = Facts()
#: Columns of `listing` that are searched and sorted by, behind those of the name and the file.
_FACTS = (
    "family", "base", "algorithm", "convention", "rank", "min_rank", "alpha", "modules", "component", "dtype",
    "sound", "problem", "title", "author", "trainer", "triggers", "epoch", "steps", "date", "licence", "output",
    "session", "model_hash", "own", "note",
)  # fmt: skip
_COLUMNS = ("path", "file", "folded", "name", "stem", "run", "size", "mtime_ns", "state", "format", *_FACTS)
_FILE = (
    "SELECT size, mtime_ns, CASE WHEN status = 'unique' AND (SELECT count(*) FROM names WHERE file = files.id "
    "AND active = 1) > 1 THEN 'duplicate' ELSE status END, format, layout, error, encoded, said "
    "FROM files LEFT JOIN facts ON facts.file = files.id "
    "LEFT JOIN tagged ON tagged.file = files.id WHERE files.id = ?"
)


class FactsTable:
    """`facts`, and `listing` and `texts`, which follow from it. Rows of files that are dropped go with them."""

    def __init__(self, db: sqlite3.Connection, *, lists: bool) -> None:
        """Without `lists` nothing is written to them, and the next catalogue with it makes all rows anew."""
        self._db = db
        self.lists = lists

    def begin(self) -> bool:
        """See that the rows are those of this version, and whether anything was written for that."""
        row = self._db.execute("SELECT value FROM meta WHERE key = 'listing'").fetchone()
        if self.lists and (row is None or row[0] != _ROWS):
            self._make_anew()
        elif self.lists or row is None:
            return False
        else:
            self._db.execute("DELETE FROM meta WHERE key = 'listing'")
        return True

    def known(self) -> Iterator[tuple[int, bytes | None]]:
        """Files whose facts are of this version, each with the digest of the configuration that they go by."""
        return self._db.execute("SELECT file, config FROM facts WHERE version = ?", (VERSION,))

    def save(self, file: int, encoded: bytes, config: bytes | None) -> None:
        self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?, ?, ?)", (file, VERSION, encoded, config))

    def refresh(self, files: Iterable[int], paths: Iterable[bytes]) -> None:
        """Bring the rows of these files, and of what these names led to or lead to, up to the other tables."""
        if not self.lists:
            return
        wanted = set(files)
        for path in paths:
            for table in ("listing", "names"):
                wanted.update(
                    file for (file,) in self._db.execute(f"SELECT file FROM {table} WHERE path = ?", (path,))
                )
        for file in wanted:
            self._refresh(file)

    def _make_anew(self) -> None:
        self._db.execute("DELETE FROM listing")
        self._db.execute("INSERT INTO words(words) VALUES ('delete-all')")
        self._db.execute("DELETE FROM texts")
        for (file,) in self._db.execute("SELECT DISTINCT file FROM names WHERE active = 1").fetchall():
            self._refresh(file)
        self._db.execute("INSERT OR REPLACE INTO meta VALUES ('listing', ?)", (_ROWS,))

    def _refresh(self, file: int) -> None:
        listed = dict(self._db.execute("SELECT path, id FROM listing WHERE file = ?", (file,)).fetchall())
        found = self._db.execute(_FILE, (file,)).fetchone()
        query = "SELECT path FROM names WHERE file = ? AND active = 1"
        is_listed = found is not None and found[2] != Status.IGNORED.value
        paths = [path for (path,) in self._db.execute(query, (file,))] if is_listed else []
        for path in listed.keys() - set(paths):
            self._drop(listed[path])
        if not paths:
            return
        *of_file, layout, error, encoded, user = found
        stated, own = _decoded(encoded), said_of(user)
        if found[2] == Status.FAILED.value:
            stated = msgspec.structs.replace(stated, sound=False, problem=error)
        said = _joined(own.tags) or None, folded(own.note)
        for path in paths:
            facts = stated if stated is _NOTHING else with_marks(stated, path)
            folded_path = fold(path.decode("utf-8", "backslashreplace"))
            name = folded_path.rpartition("/")[2]
            stem, run, is_folder = called(path, layout, facts)
            row = (path, file, folded_path, name, stem, run, *of_file, *_said(facts), *said)
            folder, title = stem if is_folder else "", folded(facts.title) or ""
            text = "\n".join((name, folder, title, *map(fold, facts.triggers)))
            texts = (text, _joined((*own.tags, *(tag for tag, _ in facts.tags))))
            if path in listed:
                self._update(listed[path], row, texts)
            else:
                self._insert(row, texts)

    def _insert(self, row: tuple[Any, ...], texts: tuple[str, ...]) -> None:
        marks = ", ".join("?" * len(_COLUMNS))
        # Of a name that led to another file, which is refreshed after this one.
        for (number,) in self._db.execute("SELECT id FROM listing WHERE path = ?", row[:1]).fetchall():
            self._drop(number)
        query = f"INSERT INTO listing ({', '.join(_COLUMNS)}) VALUES ({marks}) RETURNING id"
        (number,) = self._db.execute(query, row).fetchone()
        self._db.execute("INSERT INTO texts VALUES (?, ?, ?)", (number, *texts))
        self._db.execute("INSERT INTO words (rowid, text, tags) VALUES (?, ?, ?)", (number, *texts))

    def _update(self, number: int, row: tuple[Any, ...], texts: tuple[str, ...]) -> None:
        marks = ", ".join(f"{column} = ?" for column in _COLUMNS)
        self._db.execute(f"UPDATE listing SET {marks} WHERE id = ?", (*row, number))
        before = self._texts(number)
        if before != texts:
            self._forget(number, before)
            self._db.execute("UPDATE texts SET text = ?, tags = ? WHERE id = ?", (*texts, number))
            self._db.execute("INSERT INTO words (rowid, text, tags) VALUES (?, ?, ?)", (number, *texts))

    def _drop(self, number: int) -> None:
        self._forget(number, self._texts(number))
        self._db.execute("DELETE FROM texts WHERE id = ?", (number,))
        self._db.execute("DELETE FROM listing WHERE id = ?", (number,))

    def _texts(self, number: int) -> tuple[str, ...]:
        query = "SELECT text, tags FROM texts WHERE id = ?"
        return tuple(self._db.execute(query, (number,)).fetchone())

    def _forget(self, number: int, texts: tuple[str, ...]) -> None:
        """Take a row out of the index, which is to be told what it had."""
        self._db.execute(
            "INSERT INTO words (words, rowid, text, tags) VALUES ('delete', ?, ?, ?)",
            (number, *texts),
        )


def folded(text: str | None) -> str | None:
    """As it is searched and sorted by."""
    return fold(text) if text else None


def _decoded(encoded: bytes | None) -> Facts:
    try:
        return decode(encoded) if encoded else _NOTHING
    except msgspec.MsgspecError:
        # Of a version that had another form: it is computed anew.
        return _NOTHING


def _said(facts: Facts) -> tuple[Any, ...]:
    """What is searched of facts, in the order of `_FACTS` but for its end."""
    return (
        facts.family, _joined(filter(None, (facts.base, facts.base_file))) or None,
        facts.algorithm, facts.convention, facts.rank, facts.min_rank, facts.alpha,
        facts.modules or None, _joined(facts.components), folded(facts.dtype),
        None if facts is _NOTHING else int(facts.sound), folded(facts.problem), folded(facts.title),
        folded(facts.author), folded(facts.trainer), _joined(facts.triggers), facts.epoch, facts.steps,
        folded(facts.date), folded(facts.licence), folded(facts.output), folded(facts.session),
        (facts.model_hash or "").lower().removeprefix("0x") or None,
    )  # fmt: skip


def _joined(words: Iterable[str]) -> str:
    """Words so that each can be found whole."""
    text = "\n".join(fold(word.replace("\n", " ")) for word in words)
    return f"\n{text}\n" if text else ""
