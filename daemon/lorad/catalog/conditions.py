"""What terms ask for, as conditions on the rows of `listing`."""

from __future__ import annotations

import re
import time
from calendar import monthrange
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from loracore.expressions import FIELDS, WORD, Ago, Term
from loracore.identity import bounded
from loracore.time import rfc3339

#: Fields whose column has another name, and those that have none.
_COLUMNS = {"path": "folded", "modified": "mtime_ns", "trigger": "triggers", "tag": "tags"}
_GLOB = frozenset("*?[")
#: The index of words knows no shorter ones.
_INDEXED = 3
_WORDS = ("text", "tags")
#: Of a hash that the header states.
_CHECKED = "SELECT model FROM hashes WHERE hashes.file = listing.file"
_HASHES = {
    "none": "model_hash IS NULL",
    **{
        value: f"CASE WHEN model_hash IS NULL THEN 0 ELSE {text} END"
        for value, text in {
            "unchecked": f"({_CHECKED}) IS NULL",
            "right": f"substr(lower(hex(({_CHECKED}))), 1, length(model_hash)) = model_hash",
            "wrong": f"substr(lower(hex(({_CHECKED}))), 1, length(model_hash)) NOT IN ('', model_hash)",
        }.items()
    },
}
_LAST = "\U0010ffff"
#: The last times that there are.
_LAST_MONTH, _END = datetime(9999, 12, 1, tzinfo=UTC), datetime.max.replace(tzinfo=UTC)

#: A condition, and its parameters.
Part = tuple[str, list[Any]]


class Condition(NamedTuple):
    """What holds for the rows that all terms ask for.

    `every` is for going through all rows; `some` is the same for going through them until enough are found: words
    are not looked up in their index then, which takes as long as there are rows with them. `match` is what the
    index is asked for, where it answers all by itself.
    """

    every: Part
    some: Part
    match: str = ""


def condition(terms: Sequence[Term]) -> Condition:
    indexed = [(term, match) for term in terms if (match := _match(term))]
    others = [term for term in terms if not _match(term)]
    match = " AND ".join(f"({match})" for _, match in indexed)
    every = [_term(term) for term in others]
    if indexed:
        # All at once are looked up faster than one after the other.
        every.insert(0, ("id IN (SELECT rowid FROM words WHERE words MATCH ?)", [match]))
    some = [_of_one_row(term) for term in terms]
    return Condition(_all(every), _all(some), match if not others else "")


def _all(parts: Sequence[Part]) -> Part:
    return " AND ".join(text for text, _ in parts) or "1", [value for _, values in parts for value in values]


def _match(term: Term) -> str:
    """What the index of words is asked for; "" where it does not know exactly what the term asks for."""
    if term.operator != "~" or term.field not in (WORD, "tag"):
        return ""
    folded = str(term.value).casefold()
    if len(folded) < _INDEXED:
        return ""
    return _quoted(folded) if term.field == WORD else f"{column(term.field)} : {_quoted(folded)}"


def _of_one_row(term: Term) -> Part:
    """The same as `_term`, where few rows are asked, one after the other."""
    folded = str(term.value).casefold()
    if term.field == WORD:
        text, values = " OR ".join(f"instr(texts.{name}, ?)" for name in _WORDS), [folded] * len(_WORDS)
    elif term.field == "tag":
        text, values = _words("texts.tags", term.operator.lstrip("!"), folded)
    else:
        return _term(term)
    negated = "NOT " if term.operator.startswith("!") else ""
    return f"{negated}EXISTS (SELECT 1 FROM texts WHERE texts.id = listing.id AND ({text}))", values


def _quoted(folded: str) -> str:
    """A text as the index of words is asked for it."""
    return '"' + folded.replace('"', '""') + '"'


def column(field: str) -> str:
    return _COLUMNS.get(field, field)


def _term(term: Term) -> Part:
    field, operator, value = term
    if field == WORD:
        return _word(str(value), operator)
    name = column(field)
    match FIELDS[field].kind:
        case "text":
            return _text(name, operator, str(value).casefold())
        case "words" if field == "tag":
            return _tags(operator, str(value).casefold())
        case "words" if field == "base" and value == "unknown" and operator in ("=", "!="):
            return f"{name} IS {'' if operator == '=' else 'NOT '}NULL", []
        case "words":
            return _words(name, operator, str(value).casefold())
        case "number" | "size":
            return _number(name, operator, value)
        case "time":
            return _time(name, operator, value)
        case "date":
            return _date(name, operator, value)
        case "yes":
            return f"{name} IS {'' if operator == '=' else 'NOT '}?", [int(bool(value))]
        case "folder":
            folder = str(value).rstrip("/").encode("utf-8", "surrogateescape")
            text = "(path > ? AND path < ?)"
            return text if operator == "=" else f"NOT {text}", [folder + b"/", folder + b"0"]
    text = _HASHES[str(value)]
    return text if operator == "=" else f"NOT {text}", []


def _word(word: str, operator: str) -> Part:
    """A word that is, or is not, contained in one of the columns of `texts`."""
    folded = word.casefold()
    if len(folded) >= _INDEXED:
        found, values = "SELECT rowid FROM words WHERE words MATCH ?", [_quoted(folded)]
    else:
        found = f"SELECT id FROM texts WHERE {' OR '.join(f'instr({name}, ?)' for name in _WORDS)}"
        values = [folded] * len(_WORDS)
    return f"id {'NOT ' if operator.startswith('!') else ''}IN ({found})", values


def _text(name: str, operator: str, value: str) -> Part:
    if operator.endswith("~"):
        text, values = f"instr(coalesce({name}, ''), ?)", [value]
    elif not _GLOB & set(value):
        text, values = f"coalesce({name}, '') = ?", ["" if value == "unknown" else value]
    elif value.count("*") < 2 and "[" not in value:
        # SQLite's own, which is faster, goes back to each `*`.
        text, values = f"coalesce({name} GLOB ?, 0)", [value]
    else:
        # Its longest text without signs is looked for first, which is faster.
        text, values = f"(instr(coalesce({name}, ''), ?) AND is_like({name}, ?))", [_literal(value), value]
    return f"NOT {text}" if operator.startswith("!") else text, values


def _literal(glob: str) -> str:
    """The longest part of a glob that stands for itself; "" where brackets may make one of any part."""
    return "" if "[" in glob else max(re.split(r"[*?]", glob), key=len)


def _words(name: str, operator: str, value: str) -> Part:
    if operator.endswith("~"):
        text, needle = f"instr(coalesce({name}, ''), ?)", value
    elif not _GLOB & set(value):
        text, needle = f"instr(coalesce({name}, ''), ?)", f"\n{value}\n"
    elif value.endswith("*") and not _GLOB & set(value[:-1]):
        text, needle = f"instr(coalesce({name}, ''), ?)", f"\n{value[:-1]}"
    else:
        begins = "\n" + re.split(r"[*?\[]", value, maxsplit=1)[0]
        text = f"(instr(coalesce({name}, ''), ?) AND any_like({name}, ?))"
        return f"NOT {text}" if operator.startswith("!") else text, [max(begins, _literal(value), key=len), value]
    return f"NOT {text}" if operator.startswith("!") else text, [needle]


def _tags(operator: str, value: str) -> Part:
    """As `_words`, of a column that few terms ask for; where it can be, the index of words is asked first."""
    text, values = _words("tags", operator.lstrip("!"), value)
    literal = _literal(value)
    if len(literal) >= _INDEXED:
        text = f"id IN (SELECT rowid FROM words WHERE words MATCH ?) AND {text}"
        values = [f"tags : {_quoted(literal)}", *values]
    text = f"id IN (SELECT id FROM texts WHERE {text})"
    return f"NOT {text}" if operator.startswith("!") else text, values


def _number(name: str, operator: str, value: object) -> Part:
    if operator == "!=":
        return f"{name} IS NOT ?", [value]
    return f"{name} {operator} ?", [value]


def _time(name: str, operator: str, value: object) -> Part:
    if isinstance(value, Ago):
        start = end = int((time.time() - value.seconds) * 1e9)
    else:
        start, end = _period(str(value))
    return _between(name, operator, bounded(start), bounded(end))


def _date(name: str, operator: str, value: object) -> Part:
    """Dates are compared as far as they are given: 2025-06 is all of June."""
    if isinstance(value, Ago):
        start = rfc3339(time.time() - value.seconds, "seconds").casefold()
        return _between(name, operator, start, start)
    start = str(value).casefold()
    return _between(name, operator, start, start + _LAST)


def _between(name: str, operator: str, start: Any, end: Any) -> Part:
    """In, before or behind what lies from `start` to before `end`."""
    match operator:
        case "=":
            return f"({name} >= ? AND {name} < ?)", [start, end]
        case "!=":
            return f"NOT ({name} >= ? AND {name} < ?)", [start, end]
        case ">":
            return f"{name} >= ?", [end]
        case ">=":
            return f"{name} >= ?", [start]
        case "<":
            return f"{name} < ?", [start]
    return f"{name} < ?", [end]


def _period(date: str) -> tuple[int, int]:
    """From when to when a date lasts, by UTC, in nanoseconds since 1970."""
    parts = [int(part) for part in re.split("[-T:]", date)]
    start = datetime(*(parts + [1, 1, 1, 0, 0, 0][len(parts) :]), tzinfo=UTC)  # type: ignore[misc, arg-type]
    match len(parts):
        case 1:
            end = start.replace(year=start.year + 1) if start.year < 9999 else _END
        case 2:
            end = start + timedelta(days=monthrange(start.year, start.month)[1]) if start < _LAST_MONTH else _END
        case _:
            seconds = (86400, 3600, 60, 1)[len(parts) - 3]
            end = start + timedelta(seconds=seconds) if start < _LAST_MONTH else _END
    return int(start.timestamp()) * 10**9, int(end.timestamp()) * 10**9
