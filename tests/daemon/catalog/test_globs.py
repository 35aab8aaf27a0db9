"""A glob on words between newlines is of one of them."""

from __future__ import annotations

import pytest

from lorad.catalog.globs import any_like


@pytest.mark.parametrize(
    ("pattern", "found"),
    [("sks*", True), ("*cat", True), ("s?s cat", True), ("[a-m]eow", True), ("[!m]eow", False), ("sks", False),
     ("sks*meow", False), ("[", False), ("*.*", False)],
)  # fmt: skip
def test_a_glob_is_of_one_word(pattern: str, found: bool) -> None:
    assert any_like("\nsks cat\nmeow\n", pattern) is found
