"""A list that is encoded page by page reads as if it had been encoded at once."""

from __future__ import annotations

from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from lorad.publish import pages
from lorad.publish.pages import Key, Pages

keys = st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.integers(0, 30).map(lambda number: b"%02d" % number))
rounds = st.lists(st.sets(keys, max_size=6), max_size=8)


def plainly(inside: set[Key], headed: bool) -> bytes:
    """All entries, without any page."""
    if not headed:
        return b",".join(b"\n" + entry(path) for path in sorted(path for _, path in inside))
    lists = {heading: sorted(path for other, path in inside if other == heading) for heading, _ in sorted(inside)}
    return b",".join(b"\n<%b>: [%b]" % (name, b", ".join(map(entry, paths))) for name, paths in lists.items())


def entry(path: bytes) -> bytes:
    return b"(%b)" % path


def heading(name: bytes) -> bytes:
    return b"<%b>" % name


@given(st.sets(keys), rounds, st.booleans(), st.integers(1, 4), st.sampled_from([0.125, 100.0]))
def test_pages_read_as_one_list(
    first: set[Key], changes: list[set[Key]], headed: bool, size: int, burst: float
) -> None:
    """Whatever comes and goes, and wherever pages are cut."""
    if not headed:
        first, *changes = ({(b"", path) for _, path in some} for some in (first, *changes))
    listed = Pages()
    inside: set[Key] = set()
    with patch.multiple(pages, _PAGE=size, _BURST=burst):
        for change in (first, *changes):
            for key in change:
                (listed.withdraw if key in inside else listed.place)(key)
            inside ^= change
            assert b"".join(listed.parts(entry, heading if headed else None)) == plainly(inside, headed)


def test_what_is_withdrawn_and_placed_is_encoded_anew() -> None:
    """An entry whose words changed keeps its place; entries on other pages are not encoded again."""
    words = {b"%03d" % number: b"old" for number in range(1000)}
    listed = Pages()
    for path in words:
        listed.place((b"", path))
    encoded: list[bytes] = []

    def say(path: bytes) -> bytes:
        encoded.append(path)
        return words[path]

    assert b"".join(listed.parts(say)).count(b"old") == 1000
    words[b"500"] = b"new"
    encoded.clear()
    listed.withdraw((b"", b"500"))
    listed.place((b"", b"500"))
    assert b"".join(listed.parts(say)).split(b",\n")[500] == b"new"
    assert b"500" in encoded
    assert len(encoded) < 300
