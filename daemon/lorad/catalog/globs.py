"""Globs on several words in one column, for SQLite's queries to call."""

from __future__ import annotations

import re
from functools import lru_cache


def any_like(words: str | None, pattern: str) -> bool:
    """Whether one of the words, which stand between newlines, is as the pattern has it."""
    return words is not None and _pattern(pattern).search(words) is not None


@lru_cache(64)
def _pattern(glob: str) -> re.Pattern[str]:
    """A pattern that matches in one word: `*` and `?` stand for no newline."""
    parts = re.split(r"(\*|\?|\[[^\]]+\])", glob.replace("\n", " "))
    stands = {"*": "[^\n]*", "?": "[^\n]"}
    text = "".join(
        stands.get(part)
        or (part.replace("[!", "[^", 1) if part.startswith("[") and len(part) > 2 else re.escape(part))
        for part in parts
    )
    return re.compile(f"\n{text}\n")
