"""Globs as SQLite knows them, and those that it calls us for, in a time that grows with the text alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from fnmatch import translate
from functools import lru_cache


def fold(text: str) -> str:
    """A text as it is searched and sorted by: without case, and without NUL, where SQLite's own globs end."""
    return text.casefold().replace("\0", "\ufffd")


#: Brackets that mean the same to SQLite, but for the sign of those that do not.
_SET = re.compile(r"\[(!?)((?:\w-\w|[^][^!*?-])+)\]")
_RANGE = re.compile(r"(\w)-(\w)")


def for_sqlite(glob: str, *, in_words: bool = False) -> str | None:
    """A glob for SQLite; None where brackets do not say the same to it.

    `in_words`: of words between newlines, where no sign but `*` stands for a newline.
    """
    plain = _SET.sub("", glob)
    if "[" in plain or any(first > last for first, last in _RANGE.findall(glob)):
        return None
    negation = "[^\n" if in_words else "[^"
    glob = glob.replace("?", "[!\n]") if in_words else glob
    return _SET.sub(lambda found: f"{negation if found[1] else '['}{found[2]}]", glob)


def is_like(text: str | None, glob: str) -> bool:
    """Whether a text is as the glob has it."""
    return text is not None and _matcher(glob)(text) is not None


def any_like(words: str | None, glob: str) -> bool:
    """Whether one of the words, which stand between newlines, is."""
    if words is None:
        return False
    if "[" not in glob:
        return _searcher(glob)(words) is not None
    return any(map(_matcher(glob), filter(None, words.split("\n"))))


@lru_cache(64)
def _searcher(glob: str) -> Callable[[str], re.Match[str] | None]:
    """Looks for a word, without going back to an earlier `*`."""
    first, *rest = (re.escape(part).replace(r"\?", "[^\n]") for part in glob.split("*"))
    between = "".join(f"(?>[^\n]*?{part})" for part in rest[:-1])
    last = f"[^\n]*{rest[-1]}" if rest else ""
    return re.compile(f"\n{first}{between}{last}\n").search


@lru_cache(64)
def _matcher(glob: str) -> Callable[[str], re.Match[str] | None]:
    try:
        return re.compile(translate(glob)).match
    except re.error:
        # Brackets that are none, such as `[z-a]`, stand for themselves.
        return re.compile(re.escape(glob) + r"\Z").match
