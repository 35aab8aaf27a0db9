"""What `list` is asked with: terms such as `family=sdxl rank>=32 trigger~ohwx`, and words alone (SPEC section 4).

A term is a field, an operator and a value, or a word that is looked for in names, titles, trigger words and tags;
all terms must hold. `~` contains, `=` takes globs, case is ignored; `!=`, `!~` and `!word` are their opposites.
Numbers, sizes and times have `>`, `>=`, `<` and `<=` as well. Quotes keep spaces together.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from difflib import get_close_matches
from typing import Literal, NamedTuple

from loracore.errors import UsageError

Kind = Literal["text", "words", "number", "size", "time", "date", "yes", "folder", "hash"]
#: What a word alone is looked for in.
WORD = ""
_TEXT, _ORDER = ("=", "!=", "~", "!~"), ("=", "!=", ">", ">=", "<", "<=")
OPERATORS: dict[Kind, tuple[str, ...]] = {
    "text": _TEXT, "words": _TEXT, "number": _ORDER, "size": _ORDER, "time": _ORDER, "date": _ORDER,
    "yes": ("=", "!="), "folder": ("=", "!="), "hash": ("=", "!="),
}  # fmt: skip


class Field(NamedTuple):
    """What a term may ask for: how its values are read, and what it is."""

    kind: Kind
    help: str


FIELDS: dict[str, Field] = {
    "name": Field("text", "the file's name, without its folder"),
    "path": Field("text", "the whole path"),
    "dir": Field("folder", "a folder, at any depth"),
    "size": Field("size", "bytes of the file: 100MB, 1.5GiB"),
    "modified": Field("time", "when it was last written: 2025, 2025-06-01, 7d (ago)"),
    "state": Field(
        "text",
        "pending, grouped, unique, duplicate or failed",
    ),
    "format": Field("text", "safetensors, torch-zip …"),
    "family": Field("text", "the base family, by names and shapes: sd15, sdxl, flux …"),
    "base": Field("words", "the base model, its version or file, as they are stated"),
    "algorithm": Field("text", "lora, locon, loha, lokr, dora …"),
    "convention": Field("text", "who names modules so: kohya, peft, diffusers …"),
    "rank": Field("number", "the highest rank of a module"),
    "min_rank": Field("number", "the lowest"),
    "alpha": Field("number", "as it is stated"),
    "modules": Field("number", "how many modules it changes"),
    "component": Field("words", "what they are of: unet, transformer, te1, te2, llm"),
    "dtype": Field("text", "of most matrices: F16, BF16, F32 …"),
    "sound": Field("yes", "whether its header lets it be used: yes or no"),
    "problem": Field("text", "what is wrong or odd in the header"),
    "hash": Field("hash", "what the header says of its hash: right, wrong, unchecked or none"),
    "title": Field("text", "as its author calls it"),
    "author": Field("text", "who made it"),
    "trainer": Field("text", "which program trained it"),
    "trigger": Field("words", "a trigger word"),
    "tag": Field("words", "one of its most frequent tags, or one of your own"),
    "own": Field("words", "one of your own tags, see loractl tag"),
    "note": Field("text", "your own note"),
    "epoch": Field("number", "after which epoch it was saved, by its header, else by its name"),
    "steps": Field("number", "after how many steps, likewise"),
    "date": Field("date", "when it was trained, as it is stated"),
    "licence": Field("text", "as it is stated"),
    "output": Field("text", "what its trainer was told to call it"),
    "session": Field("text", "the training's id, as kohya's trainers give one"),
}
_ALSO = {"license": "licence", "folder": "dir", "triggers": "trigger", "tags": "tag", "mtime": "modified"}
#: Values of which one is meant, for those fields that have no others.
_STATES = ("pending", "grouped", "unique", "duplicate", "failed")
HASHES = ("right", "wrong", "unchecked", "none")
_YES = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}

_TOKEN = re.compile(r"""(?:[^\s"']|"[^"]*"|'[^']*')+""")
_TERM = re.compile(r"([A-Za-z_]+)(!=|!~|>=|<=|=|~|>|<)(.*)", re.DOTALL)
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_AGO = re.compile(r"(\d{1,6})([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_DATE = re.compile(r"\d{4}(-\d\d(-\d\d([T ]\d\d(:\d\d(:\d\d)?)?)?)?)?")
#: What a size may be at most, and the digits of one.
_LARGEST, _DIGITS = 2**62, 30
#: Characters of an expression, its terms, and the `*` of one glob: each multiplies the time that it may take.
_LONGEST, _MOST, _STARS = 4096, 50, 4


class BadExpression(UsageError):
    """An expression that cannot be read; the text says where, and what would be right."""


class Ago(NamedTuple):
    """A time, so many seconds before now."""

    seconds: int


class Term(NamedTuple):
    """One condition. `field` is `WORD` for a word alone.

    `value` by the field's kind: text for "text", "words", "folder", "hash" and words; a number for "number" and
    "size"; the beginning of a date by ISO 8601, or `Ago`, for "time" and "date"; whether for "yes".
    """

    field: str
    operator: str
    value: str | float | int | bool | Ago


def parse(expression: str) -> list[Term]:
    """The terms of an expression. Raises BadExpression."""
    if not expression.isascii() and any("\ud800" <= char <= "\udfff" for char in expression):
        raise BadExpression("the expression is not UTF-8; ask for such names by a glob: `?` stands for a byte")
    if len(expression) > _LONGEST:
        raise BadExpression(f"the expression has {len(expression):,} characters, more than {_LONGEST:,}")
    terms = []
    end = 0
    for found in _TOKEN.finditer(expression):
        _expect_space(expression[end : found.start()], end)
        terms.append(_term(found[0], found.start()))
        end = found.end()
    _expect_space(expression[end:], end)
    if len(terms) > _MOST:
        raise BadExpression(f"the expression has {len(terms)} terms, more than {_MOST}")
    return terms


def field_named(name: str) -> str:
    """The field that is meant, for a column or an order. Raises BadExpression."""
    known = _ALSO.get(name.lower(), name.lower())
    if known not in FIELDS:
        meant = _meant(name, FIELDS) or f"; there are {', '.join(FIELDS)}"
        raise BadExpression(f"no field {name[:40]!r}{meant}")
    return known


def is_term(token: str) -> bool:
    """Whether it has a field and an operator, rather than that it is a word."""
    return _TERM.fullmatch(token) is not None


def _expect_space(between: str, at: int) -> None:
    if between.strip():
        raise BadExpression(f"at {at + 1}: {between.strip()[0]} has no end; close the quotes")


def _term(token: str, start: int) -> Term:
    where = f"at {start + 1}, {token[:60]}"
    found = _TERM.fullmatch(token)
    if found is None:
        if token in ("=", "!=", "~", "!~", ">", ">=", "<", "<="):
            raise BadExpression(f"{where}: write a term without spaces, such as rank>=32")
        negated = token.startswith("!")
        word = _unquoted(token[1:] if negated else token)
        if not word:
            raise BadExpression(f"{where}: give a word behind it")
        return Term(WORD, "!~" if negated else "~", word)
    name, operator, text = found[1], found[2], _unquoted(found[3])
    try:
        field = field_named(name)
    except BadExpression as error:
        raise BadExpression(f"{where}: {error}") from None
    kind = FIELDS[field].kind
    if operator not in OPERATORS[kind]:
        usable = " ".join(OPERATORS[kind])
        raise BadExpression(f"{where}: {field} cannot be asked with {operator}; use one of {usable}")
    return Term(field, operator, _value(field, kind, text, where))


def _value(field: str, kind: Kind, text: str, where: str) -> str | float | int | bool | Ago:
    match kind:
        case "number":
            try:
                return float(text)
            except ValueError:
                raise BadExpression(f"{where}: {text[:40]!r} is no number; such as {field}>=32") from None
        case "size":
            if (size := _SIZE.fullmatch(text)) is None:
                raise BadExpression(f"{where}: {text[:40]!r} is no size; such as {field}>100MB")
            size_bytes = float(size[1][:_DIGITS]) * (1024 if size[3] else 1000) ** _POWERS[size[2].lower()]
            return int(min(size_bytes, _LARGEST))
        case "time" | "date":
            return _when(field, text, where)
        case "yes":
            if text.lower() not in _YES:
                raise BadExpression(f"{where}: say {field}=yes or {field}=no")
            return _YES[text.lower()]
        case "folder" if not text.startswith("/"):
            raise BadExpression(f"{where}: {text[:40]!r} is no absolute path; such as {field}=/srv/loras")
        case "hash":
            return _one_of(HASHES, text, where)
    if kind in ("text", "words") and text.count("*") > _STARS:
        raise BadExpression(f"{where}: a glob may have {_STARS} `*`")
    if field == "state" and not set(text) & set("*?["):
        return _one_of(_STATES, text, where)
    return text


def _when(field: str, text: str, where: str) -> str | Ago:
    if ago := _AGO.fullmatch(text.lower()):
        return Ago(int(ago[1]) * _SECONDS[ago[2]])
    if _DATE.fullmatch(text) is None or not _exists(text):
        raise BadExpression(f"{where}: {text[:40]!r} is no date; such as {field}>=2025-06-01 or {field}>30d")
    return text.replace(" ", "T")


def _exists(date: str) -> bool:
    """Whether there is such a day, and time; missing parts are the first."""
    try:
        datetime.fromisoformat(date.replace(" ", "T") + "0001-01-01T00:00:00"[len(date) :])
    except ValueError:
        return False
    return True


def _one_of(known: Sequence[str], text: str, where: str) -> str:
    if text.lower() not in known:
        raise BadExpression(f"{where}: {text[:40]!r} is none of {' '.join(known)}{_meant(text, known)}")
    return text.lower()


def _unquoted(text: str) -> str:
    return "".join(
        re.sub(r"""^["']|["']$""", "", part) for part in re.findall(r""""[^"]*"|'[^']*'|[^"']+""", text)
    )


def _meant(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name.lower(), list(known), n=2, cutoff=0.5)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def absolute_folders(expression: str, here: str) -> str:
    """An expression whose relative folders are below `here`: the daemon works elsewhere."""

    def absolute(found: re.Match[str]) -> str:
        term = _TERM.fullmatch(found[0])
        if term is None or _ALSO.get(term[1].lower(), term[1].lower()) != "dir":
            return found[0]
        folder = _unquoted(term[3])
        path = os.path.normpath(os.path.join(here, folder))
        quote = "'" if '"' in path else '"'
        return f"{term[1]}{term[2]}{quote}{path}{quote}"

    return _TOKEN.sub(absolute, expression)
