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
from lorad.catalog.globs import fold, for_sqlite

#: Fields whose column has another name, and those that have none.
_COLUMNS = {"path": "folded", "modified": "mtime_ns", "trigger": "triggers", "tag": "tags"}
#: The columns of the index `listing_short`, in its order: half of what a row has, read in half the time.
SHORT = (
    "family", "base", "algorithm", "rank", "trainer", "convention", "format", "licence", "dtype", "state",
    "author", "size", "mtime_ns", "min_rank", "alpha", "modules", "component", "sound", "title", "epoch", "steps",
    "date", "path",
)  # fmt: skip
_GLOB, _SIGNS = frozenset("*?["), re.compile(r"[*?\[]")
#: The index of words knows no shorter ones.
_INDEXED = 3
_HASHED = "(SELECT model FROM hashes WHERE hashes.file = listing.file)"
#: What the hash that the header states is.
HASH = (
    f"CASE WHEN model_hash IS NULL THEN 'none' WHEN {_HASHED} IS NULL THEN 'unchecked' "
    f"WHEN substr(lower(hex({_HASHED})), 1, length(model_hash)) = model_hash THEN 'right' ELSE 'wrong' END"
)
_LAST = "\U0010ffff"
#: The last times that there are.
_LAST_MONTH, _END = datetime(9999, 12, 1, tzinfo=UTC), datetime.max.replace(tzinfo=UTC)

#: A condition, and its parameters.
Part = tuple[str, list[Any]]
#: It holds for all.
ALL: Part = ("1", [])


class Condition(NamedTuple):
    """What holds for the rows that all terms ask for.

    `rows` is what all terms but those of words and tags ask of `listing`; `is_short`: `listing_short` has all that
    is looked at for it, and finds rows by the part `found_by`. `texts` is what words and tags ask of `texts`, None
    where there are none. `words` is the same of all rows of `table`: the index of words is asked where it can be,
    which takes as long as there are rows with them.
    """

    rows: Part
    found_by: Part
    is_short: bool
    texts: Part | None
    table: str
    words: Part

    @property
    def all(self) -> Part:
        """All of it, of a row of `listing`."""
        if self.texts is None:
            return self.rows
        within = f"EXISTS (SELECT 1 FROM texts WHERE texts.id = listing.id AND {self.texts[0]})"
        return _all([self.rows, (within, self.texts[1])])


def condition(terms: Sequence[Term]) -> Condition:
    of_texts = [term for term in terms if term.field in (WORD, "tag")]
    others = [term for term in terms if term.field not in (WORD, "tag")]
    is_short = all(column(term.field) in SHORT or term.field == "dir" for term in others)
    parts = [_term(term) for term in others]
    rows = _all(parts)
    found_by = next((part for part in parts if part[0] == f"{SHORT[0]} = ?"), ALL)
    if not of_texts:
        return Condition(rows, found_by, is_short, None, "", rows)
    # All at once are looked up faster than one after the other.
    match = " AND ".join(f"({match})" for term in of_texts if (match := _match(term)))
    rest = [_in_texts(term) for term in of_texts if not _is_matched(term)]
    table, words = "words", ("words MATCH ?", [match])
    if rest:
        indexed = [("id IN (SELECT rowid FROM words WHERE words MATCH ?)", [match])] if match else []
        table, words = "texts", _all([*indexed, *rest])
    return Condition(rows, found_by, is_short, _all([_in_texts(term) for term in of_texts]), table, words)


def _all(parts: Sequence[Part]) -> Part:
    parts = [part for part in parts if part != ALL]
    return " AND ".join(text for text, _ in parts) or ALL[0], [value for _, values in parts for value in values]


def _match(term: Term) -> str:
    """What the index of words is asked for; "" where it does not know all rows that the term asks for."""
    folded = fold(str(term.value))
    if term.operator not in ("~", "="):
        return ""
    if term.operator == "=":
        # A tag as a whole, or a glob: rows that have its longest part are looked at.
        folded = _literal(folded)
    if len(folded) < _INDEXED:
        return ""
    return _quoted(folded) if term.field == WORD else f"tags : {_quoted(folded)}"


def _is_matched(term: Term) -> bool:
    """Whether the index of words knows exactly what the term asks for."""
    return term.operator == "~" and bool(_match(term))


def _in_texts(term: Term) -> Part:
    """A word or a tag, asked of a row of `texts`."""
    folded = fold(str(term.value))
    if term.field == "tag":
        return _words("texts.tags", term.operator, folded)
    text = "(texts.text GLOB ? OR texts.tags GLOB ?)"
    return _unless(term.operator, text), [_within(folded)] * 2


def _quoted(folded: str) -> str:
    """A text as the index of words is asked for it."""
    return '"' + folded.replace('"', '""') + '"'


def column(field: str) -> str:
    return _COLUMNS.get(field, field)


def _term(term: Term) -> Part:
    field, operator, value = term
    name = column(field)
    match FIELDS[field].kind:
        case "text":
            return _text(name, operator, fold(str(value)))
        case "words" if field == "base" and value == "unknown" and operator in ("=", "!="):
            return f"{name} IS {'' if operator == '=' else 'NOT '}NULL", []
        case "words":
            return _words(name, operator, fold(str(value)))
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
    return f"{HASH} {operator} ?", [value]


def _text(name: str, operator: str, value: str) -> Part:
    if operator.endswith("~"):
        text, values = f"{name} GLOB ?", [_within(value)]
    elif value in ("", "unknown"):
        text, values = f"coalesce({name}, '') = ''", []
    elif not _GLOB & set(value):
        text, values = f"{name} = ?", [value]
    elif (glob := for_sqlite(value)) is not None:
        text, values = f"{name} GLOB ?", [glob]
    else:
        text, values = f"is_like({name}, ?)", [value]
    return _unless(operator, text), values


def _unless(operator: str, text: str) -> str:
    """A condition, or its opposite, which holds also where nothing is known."""
    return f"NOT coalesce({text}, 0)" if operator.startswith("!") else text


def _within(text: str) -> str:
    """The glob of what contains a text: SQLite looks for it twice as fast as by `instr`."""
    literal = _SIGNS.sub(lambda sign: f"[{sign[0]}]", text)
    return f"*{literal}*"


def _literal(glob: str) -> str:
    """The longest part of a glob that stands for itself; "" where brackets may make one of any part."""
    return "" if "[" in glob else max(re.split(r"[*?]", glob), key=len)


def _words(name: str, operator: str, value: str) -> Part:
    # As they are kept, between newlines.
    value = value.replace("\n", " ")
    text, values = f"{name} GLOB ?", [_within(value)]
    if not operator.endswith("~"):
        glob = for_sqlite(value, in_words=True)
        if glob is None:
            text, values = f"any_like({name}, ?)", [value]
        elif "*" not in value:
            values = [f"*\n{glob}\n*"]
        elif "*" not in value[:-1]:
            values = [f"*\n{glob}"]
        else:
            text, values = f"({text} AND any_like({name}, ?))", [f"*\n{glob}\n*", value]
    return _unless(operator, text), values


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
    start = fold(str(value))
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
