"""Expressions of `list`: what they mean, and where and why one that is wrong is refused (SPEC section 4)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loracore.expressions import FIELDS, Ago, BadExpression, Term, absolute_folders, parse


@pytest.mark.parametrize(
    ("expression", "terms"),
    [
        ("", []),
        ("family=sdxl rank>=32", [Term("family", "=", "sdxl"), Term("rank", ">=", 32.0)]),
        ("  anime   !nsfw ", [Term("", "~", "anime"), Term("", "!~", "nsfw")]),
        ("title~\"my style\" 'two words'", [Term("title", "~", "my style"), Term("", "~", "two words")]),
        ("License=mit FOLDER=/a", [Term("licence", "=", "mit"), Term("dir", "=", "/a")]),
        ("size>" + "9" * 400, [Term("size", ">", 2**62)]),
        ("size>100MB size<=1.5GiB", [Term("size", ">", 10**8), Term("size", "<=", 3 * 2**29)]),
        ("modified>7d date=2025-06", [Term("modified", ">", Ago(604800)), Term("date", "=", "2025-06")]),
        ("modified>='2025-06-01 12:30'", [Term("modified", ">=", "2025-06-01T12:30")]),
        ("sound=no hash!=right", [Term("sound", "=", False), Term("hash", "!=", "right")]),
        ("state=Duplicate state=fail*", [Term("state", "=", "duplicate"), Term("state", "=", "fail*")]),
        ("name!~v1 alpha=0.5", [Term("name", "!~", "v1"), Term("alpha", "=", 0.5)]),
    ],
)
def test_what_an_expression_means(expression: str, terms: list[Term]) -> None:
    assert parse(expression) == terms


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("family=sdxl rnak>=32", "at 13, rnak>=32: no field 'rnak'; did you mean rank"),
        ("qqqqq=1", "there are name, path, dir"),
        ("rank~3", "rank cannot be asked with ~; use one of = != > >= < <="),
        ("title>3", "title cannot be asked with >; use one of = != ~ !~"),
        ("rank>=abc", "'abc' is no number; such as rank>=32"),
        ("size>big", "'big' is no size; such as size>100MB"),
        ("date>=June", "'June' is no date; such as date>=2025-06-01"),
        ("date=2025-13", "is no date"),
        ("date=2025-02-30", "is no date"),
        ("sound=maybe", "say sound=yes or sound=no"),
        ("hash=false", "none of right wrong unchecked none"),
        ("state=dup", "none of pending grouped unique duplicate failed; did you mean duplicate?"),
        ("dir=loras", "no absolute path"),
        ('a title~"open', 'at 9: " has no end; close the quotes'),
        ("!", "give a word behind it"),
        ("rank >= 8", "at 6, >=: write a term without spaces, such as rank>=32"),
        ("name~\udce9", "the expression is not UTF-8"),
        ("name=*a*b*c*d*", "a glob may have 4 `*`"),
        ("x " * 60, "60 terms, more than 50"),
        ("x" * 5000, "5,000 characters, more than 4,096"),
    ],
)
def test_a_wrong_expression_says_where_and_what_would_be_right(expression: str, says: str) -> None:
    with pytest.raises(BadExpression) as error:
        parse(expression)
    assert says in str(error.value)


@given(st.text(max_size=80))
def test_any_text_is_an_expression_or_is_refused(text: str) -> None:
    try:
        terms = parse(text)
    except BadExpression:
        return
    assert all(term.field in FIELDS or not term.field for term in terms)


@pytest.mark.parametrize(
    ("given_", "absolute"),
    [
        ("family=sdxl dir=loras/x", 'family=sdxl dir="/home/me/loras/x"'),
        ("dir=/srv/loras word", 'dir="/srv/loras" word'),
        ("folder!='my loras'", 'folder!="/home/me/my loras"'),
        ("dir=.", 'dir="/home/me"'),
        ("dir=../v1.", 'dir="/home/v1."'),
        ("title~dir=x", "title~dir=x"),
    ],
)
def test_folders_are_those_of_who_asks(given_: str, absolute: str) -> None:
    assert absolute_folders(given_, "/home/me") == absolute
    parse(absolute)
