"""What a user may say of a model, and what is said of it once two are known to be one."""

from __future__ import annotations

import pytest

from loracore.errors import UsageError
from loracore.tags import MOST_TAGS, Tags, check

#: A family that is joined of three, and a Persian word with letters that are kept apart.
JOINED = ("\U0001f468\u200d\U0001f469\u200d\U0001f467", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645")


@pytest.mark.parametrize("tag", ["a b", "x" * 100, *JOINED])
def test_words_of_any_script_are_tags(tag: str) -> None:
    check([tag], [], f"{tag}\n{tag}")


@pytest.mark.parametrize(
    ("tag", "reason"),
    [("", "empty"), (" x", "spaces"), ("x" * 101, "over 100"), ("a\nb", "line break"), ("a\u202eb", "control")],
)
def test_what_is_no_tag_is_told_why(tag: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        check([tag], [], None)


def test_nothing_of_two_is_lost_once_they_are_one() -> None:
    """In the order in which it was given, each once; more than may be given, which can be taken away then."""
    one = Tags(tuple(f"a{number}" for number in range(80)), "1" * 3000)
    other = Tags(("A1", *(f"b{number}" for number in range(80))), "2" * 3000)
    joined = one.joined(other)
    assert joined.tags == (*one.tags, *other.tags[1:])
    assert joined.note == f"{one.note}\n{other.note}"
    assert len(joined.changed([], ["b1"], None).tags) == 159
    with pytest.raises(UsageError, match=f"160 tags, more than {MOST_TAGS}"):
        joined.changed(["a1"], [], None)
