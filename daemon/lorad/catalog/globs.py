"""Globs for SQLite to call, in a time that grows with the text alone: none goes back to an earlier `*`."""

from __future__ import annotations

import re
from collections.abc import Callable
from fnmatch import translate
from functools import lru_cache


def fold(text: str) -> str:
    """A text as it is searched and sorted by: without case, and without NUL, where SQLite's own globs end."""
    return text.casefold().replace("\0", "\ufffd")


def is_like(text: str | None, glob: str) -> bool:
    """Whether a text is as the glob has it."""
    return text is not None and _matcher(glob)(text) is not None


def any_like(words: str | None, glob: str) -> bool:
    """Whether one of the words, which stand between newlines, is."""
    return words is not None and any(map(_matcher(glob), filter(None, words.split("\n"))))


@lru_cache(64)
def _matcher(glob: str) -> Callable[[str], re.Match[str] | None]:
    try:
        return re.compile(translate(glob)).match
    except re.error:
        # Brackets that are none, such as `[z-a]`, stand for themselves.
        return re.compile(re.escape(glob) + r"\Z").match
