"""A glob on words between newlines is of one of them."""

from __future__ import annotations

import fnmatch
import sqlite3
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorad.catalog.globs import any_like, for_sqlite, is_like


@pytest.mark.parametrize(
    ("pattern", "found"),
    [("sks*", True), ("*cat", True), ("s?s cat", True), ("[a-m]eow", True), ("[!m]eow", False), ("sks", False),
     ("sks*meow", False), ("[", False), ("*.*", False)],
)  # fmt: skip
def test_a_glob_is_of_one_word(pattern: str, found: bool) -> None:
    assert any_like("\nsks cat\nmeow\n", pattern) is found


@settings(max_examples=1000)
@given(st.lists(st.text("ab-!^]é\n", max_size=5), max_size=3), st.text("ab*?[]!^-é", max_size=7))
def test_sqlite_means_the_same_by_a_glob(words: list[str], glob: str) -> None:
    """Of one text, and of a word among others, in which `*` is left to us."""
    with closing(sqlite3.connect(":memory:")) as db:
        for text in words:
            if (same := for_sqlite(glob)) is not None:
                (found,) = db.execute("SELECT ? GLOB ?", (text, same)).fetchone()
                assert bool(found) is is_like(text, glob) is fnmatch.fnmatchcase(text, glob)
        words = [word.replace("\n", " ") for word in words if word]
        joined = "\n".join(["", *words, ""])
        wanted = any(fnmatch.fnmatchcase(word, glob) for word in words)
        if (same := for_sqlite(glob, in_words=True)) is not None and "*" not in glob:
            (found,) = db.execute("SELECT ? GLOB ?", (joined, f"*\n{same}\n*")).fetchone()
            assert bool(found) is wanted
        assert any_like(joined, glob) is wanted
