"""Files by what they are: the rows of `listing` that terms ask for, on a connection that cannot write."""

from __future__ import annotations

import re
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from loracore.expressions import FIELDS, WORD, Ago, Term
from loracore.facts import Facts, decode

#: Fields whose column has another name, and those that have none.
_COLUMNS = {"modified": "mtime_ns", "trigger": "triggers"}
_GLOB = frozenset("*?[")
#: The index of words knows no shorter ones.
_INDEXED = 3
_WORDS = ("name", "title", "triggers", "tags")
#: Where fewer than this part of the rows are asked for, they are sorted, rather than gone through in their order.
_FEW = 1 / 8
#: Of a hash that the header states.
_CHECKED = "SELECT model FROM hashes WHERE hashes.file = listing.file"
_HASHES = {
    "none": "model_hash IS NULL",
    **{
        value: f"CASE WHEN model_hash IS NULL THEN 0 ELSE {text} END"
        for value, text in {
            "unchecked": f"({_CHECKED}) IS NULL",
            "right": f"lower(hex(({_CHECKED}))) = model_hash",
            "wrong": f"lower(hex(({_CHECKED}))) NOT IN ('', model_hash)",
        }.items()
    },
}
#: Fields whose values are counted for a choice among them; of the most frequent values so many.
FACETS = (
    "family",
    "base",
    "algorithm",
    "convention",
    "rank",
    "dtype",
    "state",
    "author",
    "trainer",
    "licence",
    "format",
)
_VALUES = 50
_LAST = "\U0010ffff"


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


class Condition(NamedTuple):
    """A part of a query that begins with `WHERE`, and its parameters."""

    text: str
    values: list[Any]


def condition(terms: Sequence[Term]) -> Condition:
    """What holds for the rows that all terms ask for; what is ignored is listed where a state is asked for."""
    texts, values = [], []
    if all(term.field != "state" for term in terms):
        # Whatever else lies beside models.
        texts.append("state != 'ignored'")
    indexed = [term for term in terms if term.field == WORD and _is_indexed(term)]
    if indexed:
        # All words at once are looked up faster than one after the other.
        texts.append("id IN (SELECT rowid FROM words WHERE words MATCH ?)")
        values.append(" AND ".join(_quoted(str(term.value)) for term in indexed))
    for term in terms:
        if term not in indexed:
            text, needed = _term(term)
            texts.append(text)
            values += needed
    return Condition(" AND ".join(texts) or "1", values)


def total(db: sqlite3.Connection, found: Condition) -> int:
    return int(db.execute(f"SELECT count(*) FROM listing WHERE {found.text}", found.values).fetchone()[0])


def rows(
    db: sqlite3.Connection,
    found: Condition,
    matching: int,
    *,
    sort: str,
    descending: bool,
    after: Place | None,
    most: int,
) -> Iterator[tuple[Listed, Place]]:
    """Up to `most` of the `matching` rows, by a field and then by path; what is not known comes last.

    With each comes its place, from which the list may go on.
    """
    column, order = _column(sort), "DESC" if descending else "ASC"
    where, values = found.text, list(found.values)
    if after is not None:
        further, more = _behind(column, after, descending)
        where, values = f"({where}) AND {further}", values + more
    (highest,) = db.execute("SELECT coalesce(max(id), 0) FROM listing").fetchone()
    # With a plus, the index by path is not gone through.
    path = "path" if matching > _FEW * highest else "+path"
    by = f"{path} {order}" if column == "path" else f"{column} IS NULL, {column} {order}, path"
    query = (
        "SELECT path, size, mtime_ns, state, format, (SELECT encoded FROM facts WHERE facts.file = listing.file), "
        f"{column} FROM listing WHERE {where} ORDER BY {by} LIMIT ?"
    )
    for found_path, size, mtime_ns, state, form, encoded, value in db.execute(query, (*values, most)):
        place = Place(None if sort == "path" else value, found_path)
        yield Listed(found_path, size, mtime_ns, state, form, _decoded(encoded)), place


def facets(db: sqlite3.Connection, found: Condition, fields: Sequence[str]) -> dict[str, list[tuple[str, int]]]:
    """How many rows have each value of these fields, the most frequent first; "" where it is not known."""
    if not fields:
        return {}
    query = f"SELECT {', '.join(map(_column, fields))} FROM listing WHERE {found.text}"
    table = db.execute(query, found.values).fetchall()
    counted: dict[str, list[tuple[str, int]]] = {}
    for field, column in zip(fields, zip(*table, strict=True) if table else [()] * len(fields), strict=True):
        counts = Counter(column)
        counted[field] = [
            ("" if value is None else str(value), count) for value, count in counts.most_common(_VALUES)
        ]
    return counted


def facts_of(db: sqlite3.Connection, file: int) -> Facts | None:
    row = db.execute("SELECT encoded FROM facts WHERE file = ?", (file,)).fetchone()
    return _decoded(row[0]) if row else None


def _column(field: str) -> str:
    return _COLUMNS.get(field, field)


def _term(term: Term) -> tuple[str, list[Any]]:
    field, operator, value = term
    if field == WORD:
        return _word(str(value), operator)
    column = _column(field)
    match FIELDS[field].kind:
        case "text" if field == "path":
            return _text("CAST(path AS TEXT)", operator, str(value), folds=False)
        case "text":
            return _text(column, operator, str(value).casefold())
        case "words" if field == "tag":
            return _tags(operator, str(value).casefold())
        case "words":
            return _words(column, operator, str(value).casefold())
        case "number" | "size":
            return _number(column, operator, value)
        case "time":
            return _time(column, operator, value)
        case "date":
            return _date(column, operator, value)
        case "yes":
            return f"{column} IS {'' if operator == '=' else 'NOT '}?", [int(bool(value))]
        case "folder":
            folder = str(value).rstrip("/").encode("utf-8", "surrogateescape")
            text = "(path > ? AND path < ?)"
            return text if operator == "=" else f"NOT {text}", [folder + b"/", folder + b"0"]
    text = _HASHES[str(value)]
    return text if operator == "=" else f"NOT {text}", []


def _is_indexed(term: Term) -> bool:
    return term.operator == "~" and len(str(term.value).casefold()) >= _INDEXED


def _quoted(text: str) -> str:
    """A text as the index of words is asked for it."""
    return '"' + text.casefold().replace('"', '""') + '"'


def _word(word: str, operator: str) -> tuple[str, list[Any]]:
    """A word that is contained in one of the columns of `texts`."""
    folded = word.casefold()
    if len(folded) >= _INDEXED:
        found, values = "SELECT rowid FROM words WHERE words MATCH ?", [_quoted(folded)]
    else:
        text = " OR ".join(f"instr({column}, ?)" for column in _WORDS)
        found, values = f"SELECT id FROM texts WHERE {text}", [folded] * len(_WORDS)
    return f"id {'NOT ' if operator.startswith('!') else ''}IN ({found})", values


def _text(column: str, operator: str, value: str, *, folds: bool = True) -> tuple[str, list[Any]]:
    negated = operator.startswith("!")
    if operator.endswith("~"):
        text, values = f"instr(coalesce({column}, ''), ?)", [value]
        if not folds:
            text, values = f"instr(lower({column}), ?)", [value.lower()]
    elif _GLOB & set(value):
        text, values = f"coalesce({column}, '') GLOB ?", [value]
    else:
        known = value != "unknown"
        text, values = f"coalesce({column}, '') = ?", [value if known else ""]
    return f"NOT {text}" if negated else text, values


def _words(column: str, operator: str, value: str) -> tuple[str, list[Any]]:
    if operator.endswith("~"):
        text, needle = f"instr(coalesce({column}, ''), ?)", value
    elif not _GLOB & set(value):
        text, needle = f"instr(coalesce({column}, ''), ?)", f"\n{value}\n"
    elif value.endswith("*") and not _GLOB & set(value[:-1]):
        text, needle = f"instr(coalesce({column}, ''), ?)", f"\n{value[:-1]}"
    else:
        text, needle = f"any_like({column}, ?)", value
    return f"NOT {text}" if operator.startswith("!") else text, [needle]


def _tags(operator: str, value: str) -> tuple[str, list[Any]]:
    """As `_words`, of a column that few terms ask for; where it can be, the index of words is asked first."""
    text, values = _words("tags", operator.lstrip("!"), value)
    literal = max(re.split(r"[*?\[\]]", value), key=len)
    if len(literal) >= _INDEXED:
        text = f"id IN (SELECT rowid FROM words WHERE words MATCH ?) AND {text}"
        values = [f"tags : {_quoted(literal)}", *values]
    text = f"id IN (SELECT id FROM texts WHERE {text})"
    return f"NOT {text}" if operator.startswith("!") else text, values


def _number(column: str, operator: str, value: object) -> tuple[str, list[Any]]:
    if operator == "!=":
        return f"{column} IS NOT ?", [value]
    return f"{column} {operator} ?", [value]


def _time(column: str, operator: str, value: object) -> tuple[str, list[Any]]:
    if isinstance(value, Ago):
        start = end = int((time.time() - value.seconds) * 1e9)
    else:
        start, end = _period(str(value))
    return _between(column, operator, start, end)


def _date(column: str, operator: str, value: object) -> tuple[str, list[Any]]:
    """Dates are compared as far as they are given: 2025-06 is all of June."""
    if isinstance(value, Ago):
        start = datetime.fromtimestamp(time.time() - value.seconds, UTC).isoformat(timespec="seconds").casefold()
        return _between(column, operator, start, start)
    start = str(value).casefold()
    return _between(column, operator, start, start + _LAST)


def _between(column: str, operator: str, start: Any, end: Any) -> tuple[str, list[Any]]:
    """In, before or behind what lies from `start` to before `end`."""
    match operator:
        case "=":
            return f"({column} >= ? AND {column} < ?)", [start, end]
        case "!=":
            return f"NOT ({column} >= ? AND {column} < ?)", [start, end]
        case ">":
            return f"{column} >= ?", [end]
        case ">=":
            return f"{column} >= ?", [start]
        case "<":
            return f"{column} < ?", [start]
    return f"{column} < ?", [end]


def _period(date: str) -> tuple[int, int]:
    """From when to when a date lasts, by UTC, in nanoseconds since 1970."""
    parts = [int(part) for part in re.split("[-T:]", date)]
    start = datetime(*(parts + [1, 1, 1, 0, 0, 0][len(parts) :]), tzinfo=UTC)  # type: ignore[misc, arg-type]
    match len(parts):
        case 1:
            end = start.replace(year=min(start.year + 1, 9999))
        case 2:
            end = (start + timedelta(days=31)).replace(day=1)
        case _:
            end = start + timedelta(seconds=(86400, 3600, 60, 1)[len(parts) - 3])
    return int(start.timestamp()) * 10**9, int(end.timestamp()) * 10**9


def _behind(column: str, after: Place, descending: bool) -> tuple[str, list[Any]]:
    """What comes behind a place in the order of `rows`."""
    further = "<" if descending else ">"
    if column == "path":
        return f"path {further} ?", [after.path]
    if after.value is None:
        return f"({column} IS NULL AND path > ?)", [after.path]
    text = f"({column} {further} ? OR ({column} = ? AND path > ?) OR {column} IS NULL)"
    return text, [after.value, after.value, after.path]


def _decoded(encoded: bytes | None) -> Facts | None:
    try:
        return decode(encoded) if encoded else None
    except msgspec.MsgspecError:
        return None
