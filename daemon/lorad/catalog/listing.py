"""Files by what they are: the rows of `listing` that terms ask for, on a connection that cannot write."""

from __future__ import annotations

import itertools
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from loracore.expressions import Term
from loracore.facts import Facts, decode
from loracore.tags import Tags
from lorad.catalog.conditions import ALL, HASH, SHORT, Condition, Part, column, condition
from lorad.catalog.runs import with_marks
from lorad.catalog.tags import said_of
from lorad.catalog.views import value

#: Fields whose values are counted for a choice among them; of the most frequent values so many.
FACETS = (
    "family", "base", "algorithm", "convention", "rank", "dtype", "state", "author", "trainer", "licence",
    "format",
)  # fmt: skip
_VALUES = 50
#: Those that `listing_short` begins with; authors are too many to be counted with others.
_GROUPED = SHORT[: SHORT.index("author")]
#: What is shown of a row.
_SHOWN = (
    "path, size, mtime_ns, state, format, (SELECT encoded FROM facts WHERE facts.file = listing.file), "
    f"(SELECT said FROM tagged WHERE tagged.file = listing.file), {HASH}"
)
#: Indexes that have all rows in the order of a column.
_ORDERED = {
    "path": "listing",
    **{name: f"listing INDEXED BY listing_{name}" for name in ("size", "mtime_ns", "title")},
}
#: Rows that are faster looked up by their numbers than found among all.
_FEW = 30_000
#: How many of the rows that come first are looked at: so many times those that would do if what is asked for lay
#: evenly among them.
_MARGIN = 1.5


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
    hash: str


class Found(NamedTuple):
    """What is asked for; where terms ask for words, the numbers of the rows, as JSON, and how many they are."""

    condition: Condition
    numbers: str | None = None
    total: int = 0
    is_few: bool = False

    def where(self) -> Part:
        """What holds for them."""
        if self.numbers is not None:
            return "id IN (SELECT value FROM json_each(?))", [self.numbers]
        return self.condition.all

    def table(self, name: str) -> str:
        """Where they are looked for, and their column `name`."""
        is_short = self.condition.is_short if self.numbers is None else not self.is_few
        return _listing(is_short and name in SHORT)


_EVERYTHING = Found(condition(()))


def is_listed(db: sqlite3.Connection) -> bool:
    """Whether the rows have been made, see `lorad.catalog.facts`."""
    tables = "SELECT count(*) FROM sqlite_master WHERE name = 'listing'"
    return db.execute(tables).fetchone() == (1,) and value(db, "listing") is not None


def find(db: sqlite3.Connection, terms: Sequence[Term], *, few: int = _FEW) -> Found:
    """The rows that all terms ask for. Up to `few` are few."""
    asked = condition(terms)
    if asked.texts is None:
        return Found(asked)
    if asked.rows == ALL:
        total, numbers = _numbered(db, asked.table, asked.words)
        return Found(asked, numbers, total, total <= few)
    total, numbers = _numbered(db, _listing(asked.is_short), asked.rows)
    if total <= 2 * few:
        text, values = asked.texts
        total, numbers = _numbered(
            db, "texts", (f"id IN (SELECT value FROM json_each(?)) AND {text}", [numbers, *values])
        )
    else:
        _, others = _numbered(db, asked.table, asked.words)
        both = set(msgspec.json.decode(numbers)) & set(msgspec.json.decode(others))
        total, numbers = len(both), msgspec.json.encode(both).decode()
    return Found(asked, numbers, total, total <= few)


def _numbered(db: sqlite3.Connection, table: str, part: Part) -> tuple[int, str]:
    """How many rows there are, and their numbers."""
    total, numbers = db.execute(
        f"SELECT count(*), json_group_array(rowid) FROM {table} WHERE {part[0]}", part[1]
    ).fetchone()
    return int(total), str(numbers)


def _listing(is_short: bool) -> str:
    return f"listing {'INDEXED BY listing_short' if is_short else 'NOT INDEXED'}"


def _held(db: sqlite3.Connection, found: Found) -> Found:
    """The same with the numbers of the rows, for more than one look at them."""
    if found.numbers is not None:
        return found
    total, numbers = _numbered(db, _listing(found.condition.is_short), found.condition.rows)
    return Found(found.condition, numbers, total, total <= _FEW)


def page(
    db: sqlite3.Connection, found: Found, *, sort: str, descending: bool, after: Place | None, most: int
) -> tuple[int, list[tuple[Listed, Place]]]:
    """How many rows there are, and up to `most`, by a field and then by path; what is not known comes last.

    With each comes its place, from which the list may go on.
    """
    name, direction = "path" if sort == "path" else column(sort), "DESC" if descending else "ASC"
    by = f"path {direction}" if name == "path" else f"{name} {direction} NULLS LAST, path"
    order = _Order(name, by, _behind(name, after, descending) if after is not None else ALL)
    if not most:
        return count(db, found), []
    if found == _EVERYTHING and name in _ORDERED:
        query = f"SELECT id FROM {_ORDERED[name]} WHERE {order.behind[0]} ORDER BY {by} LIMIT ?"
        total, numbers = count(db, found), _numbers(db, query, [*order.behind[1], most])
    elif found.numbers is None:
        total, numbers = _counted(db, found, order, most)
    else:
        total, numbers = found.total, _first(db, found, order, most)
    query = f"SELECT {_SHOWN}, {name} FROM listing WHERE id IN (SELECT value FROM json_each(?)) ORDER BY +{by}"
    shown = []
    for *row, cell in db.execute(query, (msgspec.json.encode(numbers).decode(),)):
        listed = _listed(row)
        shown.append((listed, Place(None if sort == "path" else cell, listed.path)))
    return total, shown


def count(db: sqlite3.Connection, found: Found) -> int:
    if found.numbers is not None:
        return found.total
    text, values = found.condition.all
    (total,) = db.execute(f"SELECT count(*) FROM listing WHERE {text}", values).fetchone()
    return int(total)


class _Order(NamedTuple):
    """In which order rows come, by the column `name` first, and which are behind the last one shown."""

    name: str
    by: str
    behind: Part


def _counted(db: sqlite3.Connection, found: Found, order: _Order, most: int) -> tuple[int, list[int]]:
    """How many rows there are, and the numbers of the first: each is seen once, and a function counts."""
    passed = itertools.count()
    db.create_function("passed", 0, passed.__next__)
    (text, values), (found_by, by) = found.condition.all, found.condition.found_by
    # In one CASE, so that it counts what the condition holds for; with the plus, so that no index gives the order,
    # with which it would end before all rows were seen.
    query = (
        f"SELECT id FROM {found.table(order.name)} "
        f"WHERE {found_by} AND CASE WHEN {text} THEN passed() >= 0 AND {order.behind[0]} END "
        f"ORDER BY +{order.by} LIMIT ?"
    )
    numbers = _numbers(db, query, [*by, *values, *order.behind[1], most])
    return next(passed), numbers


def _first(db: sqlite3.Connection, found: Found, order: _Order, most: int) -> list[int]:
    """The numbers of the first rows, where those of all are known."""
    table, (behind, place) = found.table(order.name), order.behind
    (rows,) = db.execute("SELECT count(*) FROM listing").fetchone()
    if not found.is_few and (order.name in _ORDERED or 2 * found.total > rows):
        # Most often they are among those that come first of all rows.
        enough = most + int(_MARGIN * most * rows / found.total)
        source = _ORDERED.get(order.name, table)
        first = f"SELECT id FROM {source} WHERE {behind} ORDER BY {order.by} LIMIT {enough}"
        text, values = found.condition.all
        query = f"SELECT id FROM listing WHERE id IN ({first}) AND {text} ORDER BY +{order.by} LIMIT ?"
        numbers = _numbers(db, query, [*place, *values, most])
        if len(numbers) == most:
            return numbers
    text, values = found.where()
    query = f"SELECT id FROM {table} WHERE {text} AND {behind} ORDER BY +{order.by} LIMIT ?"
    return _numbers(db, query, [*values, *place, most])


def _numbers(db: sqlite3.Connection, query: str, values: Sequence[Any]) -> list[int]:
    return [number for (number,) in db.execute(query, values)]


def sets(db: sqlite3.Connection, found: Found, by: str) -> list[str]:
    """Values of the column `by` that rows of different weights have, sorted."""
    if found != _EVERYTHING:
        found = _held(db, found)
    where, values = found.where()
    query = (
        f"SELECT {by} FROM (SELECT {by}, file FROM listing WHERE {by} IS NOT NULL AND {where}) AS listed "
        f"JOIN files ON files.id = listed.file GROUP BY {by} "
        f"HAVING count(DISTINCT coalesce(files.weights, files.signature, files.id)) > 1 ORDER BY {by}"
    )
    return [value for (value,) in db.execute(query, values)]


def members(db: sqlite3.Connection, found: Found, by: str, value: str, most: int) -> list[Listed]:
    """The rows that have a value, by epoch, steps and path, the last ones without; at most so many."""
    where, values = found.condition.all
    order = "epoch IS NULL, epoch, steps IS NULL, steps, path"
    query = f"SELECT {_SHOWN} FROM listing WHERE {by} = ? AND {where} ORDER BY {order} LIMIT ?"
    return [_listed(row) for row in db.execute(query, (value, *values, most))]


def size(db: sqlite3.Connection, found: Found, by: str, value: str) -> int:
    """How many rows have a value."""
    where, values = found.condition.all
    (count,) = db.execute(f"SELECT count(*) FROM listing WHERE {by} = ? AND {where}", (value, *values)).fetchone()
    return int(count)


def facets(db: sqlite3.Connection, found: Found, fields: Sequence[str]) -> dict[str, list[tuple[str, int]]]:
    """How many rows have each value of these fields, the most frequent first; "" where it is not known."""
    counts: dict[str, Counter[Any]] = {field: Counter() for field in fields}
    if counts and not found.condition.is_short:
        found = _held(db, found)
    where, values = found.where()
    for asked, group in _grouped(counts):
        table, columns = found.table(asked[0]), ", ".join(asked)
        query = f"SELECT {columns}, count(*) FROM {table} WHERE {where} GROUP BY {', '.join(group)}"
        for *cells, count in db.execute(query, values):
            for field, cell in zip(asked, cells, strict=True):
                counts[field][cell] += count
    return {
        field: [(_said(value), count) for value, count in counted.most_common(_VALUES)]
        for field, counted in counts.items()
    }


def _grouped(fields: Collection[str]) -> Iterator[tuple[Sequence[str], Sequence[str]]]:
    """Fields that are counted at once, and what rows are grouped by: in the index's order nothing is sorted."""
    together = [field for field in _GROUPED if field in fields]
    if together:
        yield together, _GROUPED[: _GROUPED.index(together[-1]) + 1]
    for field in fields:
        if field not in _GROUPED:
            yield [field], [field]


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
    """What comes behind a place in the order of `page`."""
    further = "<" if descending else ">"
    if name == "path":
        return f"path {further} ?", [after.path]
    if after.value is None:
        return f"({name} IS NULL AND path > ?)", [after.path]
    text = f"({name} {further} ? OR ({name} = ? AND path > ?) OR {name} IS NULL)"
    return text, [after.value, after.value, after.path]


def _listed(row: Sequence[Any]) -> Listed:
    path, size, mtime_ns, state, form, encoded, user, stated_hash = row
    said = said_of(user)
    return Listed(path, size, mtime_ns, state, form, _decoded(encoded, path), said.tags, said.note, stated_hash)


def _decoded(encoded: bytes | None, path: bytes) -> Facts | None:
    try:
        return with_marks(decode(encoded), path) if encoded else None
    except msgspec.MsgspecError:
        return None
