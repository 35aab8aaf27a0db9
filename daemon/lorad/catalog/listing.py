"""Files by what they are: the rows of `listing` that terms ask for, on a connection that cannot write."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from loracore.expressions import Term
from loracore.facts import Facts, decode
from loracore.tags import Tags
from lorad.catalog.conditions import Condition, Part, column, condition
from lorad.catalog.runs import with_marks
from lorad.catalog.tags import said_of
from lorad.catalog.views import value

#: Fields whose values are counted for a choice among them; of the most frequent values so many.
FACETS = (
    "family", "base", "algorithm", "convention", "rank", "dtype", "state", "author", "trainer", "licence",
    "format",
)  # fmt: skip
_VALUES = 50
#: What is shown of a row.
_SHOWN = (
    "path, size, mtime_ns, state, format, (SELECT encoded FROM facts WHERE facts.file = listing.file), "
    "(SELECT said FROM tagged WHERE tagged.file = listing.file)"
)
#: Rows whose numbers are held, so that the condition is not asked of all rows twice.
_HELD = 20_000


class Place(NamedTuple):
    """Where a list goes on: behind the row of this path, which has this value of what is sorted by."""

    value: Any
    path: bytes


class Listed(NamedTuple):
    """A name in view with what is known of it. `facts` is None where its header was not read for them."""

    path: bytes
    size: int
    mtime_ns: int
    state: str
    format: str | None
    facts: Facts | None
    own: tuple[str, ...]
    note: str


class Found(NamedTuple):
    """How many rows there are, and which: their numbers as JSON where they are few, else what holds for them."""

    total: int
    numbers: str | None
    condition: Condition

    def where(self, *, some: bool = False) -> Part:
        """What holds for them; `some`: they are gone through until enough are found."""
        if self.numbers is not None:
            return "id IN (SELECT value FROM json_each(?))", [self.numbers]
        return self.condition.some if some else self.condition.every


def is_listed(db: sqlite3.Connection) -> bool:
    """Whether the rows have been made, see `lorad.catalog.facts`."""
    tables = "SELECT count(*) FROM sqlite_master WHERE name = 'listing'"
    return db.execute(tables).fetchone() == (1,) and value(db, "listing") is not None


def find(db: sqlite3.Connection, terms: Sequence[Term], *, held: int = _HELD) -> Found:
    """The rows that all terms ask for. Up to `held` are few."""
    asked = condition(terms)
    if asked.match:
        where: Part = ("words MATCH ?", [asked.match])
        table = "words"
    else:
        where, table = asked.every, "listing"
    text, values = where
    if terms:
        numbers = db.execute(f"SELECT rowid FROM {table} WHERE {text} LIMIT {held + 1}", values).fetchall()
        if len(numbers) <= held:
            return Found(len(numbers), msgspec.json.encode([number for (number,) in numbers]).decode(), asked)
    (total,) = db.execute(f"SELECT count(*) FROM {table} WHERE {text}", values).fetchone()
    return Found(total, None, asked)


def rows(
    db: sqlite3.Connection, found: Found, *, sort: str, descending: bool, after: Place | None, most: int
) -> Iterator[tuple[Listed, Place]]:
    """Up to `most` rows, by a field and then by path; what is not known comes last.

    With each comes its place, from which the list may go on.
    """
    name, order = "path" if sort == "path" else column(sort), "DESC" if descending else "ASC"
    where, values = found.where(some=name == "path")
    if after is not None:
        further, more = _behind(name, after, descending)
        where, values = f"({where}) AND {further}", [*values, *more]
    # With a plus, the index by path is not gone through: few rows are faster sorted.
    path = "path" if found.numbers is None else "+path"
    by = f"{path} {order}" if name == "path" else f"{name} IS NULL, {name} {order}, path"
    query = f"SELECT {_SHOWN}, {name} FROM listing WHERE {where} ORDER BY {by} LIMIT ?"
    for *row, cell in db.execute(query, (*values, most)):
        listed = _listed(row)
        yield listed, Place(None if sort == "path" else cell, listed.path)


def sets(db: sqlite3.Connection, found: Found, by: str) -> list[str]:
    """Values of the column `by` that rows of different weights have, sorted."""
    where, values = found.where()
    query = (
        f"SELECT {by} FROM (SELECT {by}, file FROM listing WHERE {by} IS NOT NULL AND {where}) AS listed "
        f"JOIN files ON files.id = listed.file GROUP BY {by} "
        f"HAVING count(DISTINCT coalesce(files.weights, files.signature, files.id)) > 1 ORDER BY {by}"
    )
    return [value for (value,) in db.execute(query, values)]


def members(db: sqlite3.Connection, found: Found, by: str, value: str, most: int) -> list[Listed]:
    """The rows that have a value, by epoch, steps and path, the last ones without; at most so many."""
    where, values = found.condition.some
    order = "epoch IS NULL, epoch, steps IS NULL, steps, path"
    query = f"SELECT {_SHOWN} FROM listing WHERE {by} = ? AND {where} ORDER BY {order} LIMIT ?"
    return [_listed(row) for row in db.execute(query, (value, *values, most))]


def size(db: sqlite3.Connection, found: Found, by: str, value: str) -> int:
    """How many rows have a value."""
    where, values = found.condition.some
    (count,) = db.execute(f"SELECT count(*) FROM listing WHERE {by} = ? AND {where}", (value, *values)).fetchone()
    return int(count)


def facets(db: sqlite3.Connection, found: Found, fields: Sequence[str]) -> dict[str, list[tuple[str, int]]]:
    """How many rows have each value of these fields, the most frequent first; "" where it is not known."""
    if not fields:
        return {}
    where, values = found.where()
    query = f"SELECT {', '.join(map(column, fields))} FROM listing WHERE {where}"
    table = db.execute(query, values).fetchall()
    counted: dict[str, list[tuple[str, int]]] = {}
    for field, cells in zip(fields, zip(*table, strict=True) if table else [()] * len(fields), strict=True):
        counts = Counter(cells)
        counted[field] = [(_said(value), count) for value, count in counts.most_common(_VALUES)]
    return counted


def _said(value: Any) -> str:
    """A value, several ones in a row; "" where it is not known."""
    return "" if value is None else ", ".join(str(value).strip("\n").split("\n"))


def facts_of(db: sqlite3.Connection, file: int, path: bytes) -> Facts | None:
    row = db.execute("SELECT encoded FROM facts WHERE file = ?", (file,)).fetchone()
    return _decoded(row[0], path) if row else None


def tags_of(db: sqlite3.Connection, file: int) -> Tags:
    row = db.execute("SELECT said FROM tagged WHERE file = ?", (file,)).fetchone()
    return said_of(row[0] if row else None)


def _behind(name: str, after: Place, descending: bool) -> Part:
    """What comes behind a place in the order of `rows`."""
    further = "<" if descending else ">"
    if name == "path":
        return f"path {further} ?", [after.path]
    if after.value is None:
        return f"({name} IS NULL AND path > ?)", [after.path]
    text = f"({name} {further} ? OR ({name} = ? AND path > ?) OR {name} IS NULL)"
    return text, [after.value, after.value, after.path]


def _listed(row: Sequence[Any]) -> Listed:
    path, size, mtime_ns, state, form, encoded, user = row
    said = said_of(user)
    return Listed(path, size, mtime_ns, state, form, _decoded(encoded, path), said.tags, said.note)


def _decoded(encoded: bytes | None, path: bytes) -> Facts | None:
    try:
        return with_marks(decode(encoded), path) if encoded else None
    except msgspec.MsgspecError:
        return None
