"""A sorted list that is encoded page by page, so that a change costs its page and not the whole list."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from itertools import groupby
from operator import attrgetter, itemgetter

#: A heading and a path. A list without headings has the empty one throughout.
Key = tuple[bytes, bytes]

#: Keys on a new page; a page of twice as many is cut in two.
_PAGE = 256
#: When more than this part of the keys comes or goes at once, all is sorted anew.
_BURST = 1 / 8

_heading: Callable[[Key], bytes] = itemgetter(0)


class _Page:
    """Sorted keys, never none, and their text as it follows the heading `before`; None until it is encoded."""

    __slots__ = ("before", "first", "keys", "text")

    def __init__(self, keys: list[Key]) -> None:
        self.keys = keys
        self.first = keys[0]
        self.before: bytes | None = None
        self.text: bytes | None = None


_first = attrgetter("first")


class Pages:
    """Sorted keys, and the text of the JSON object that they make.

    The text depends on the keys and on what is said of them alone, never on where pages are cut.
    """

    def __init__(self) -> None:
        self._pages: list[_Page] = []
        self._length = 0
        self._withdrawn: dict[Key, None] = {}
        self._placed: dict[Key, None] = {}

    def withdraw(self, key: Key) -> None:
        """Take out a key that is in; placed again before the next rendering, it stays and is encoded anew."""
        self._withdrawn[key] = None

    def place(self, key: Key) -> None:
        """Put in a key that is not in, or was withdrawn."""
        self._placed[key] = None

    def parts(
        self, entry: Callable[[bytes], bytes], heading: Callable[[bytes], bytes] | None = None
    ) -> Iterator[bytes]:
        """The text between the braces, in a few hundred keys at a time. Each part is kept for the next time.

        `entry(path)` is a line of its own, `"key": value`, or an item of the list under its `heading`.
        """
        self._settle()
        before: bytes | None = None
        for page in self._pages:
            if page.text is None or page.before != before:
                page.text = _encode(page.keys, before, entry, heading)
                page.before = before
            before = page.keys[-1][0]
            yield page.text
        if heading is not None and self._pages:
            yield b"]"

    def _settle(self) -> None:
        """Bring the pages up to what was withdrawn and placed."""
        withdrawn, placed = self._withdrawn, self._placed
        self._withdrawn, self._placed = {}, {}
        gone = [key for key in withdrawn if key not in placed]
        new = [key for key in placed if key not in withdrawn]
        if len(gone) + len(new) > _BURST * self._length:
            self._sort_anew(withdrawn, placed)
            return
        for key in withdrawn:
            if key in placed:
                self._pages[self._at(key)].text = None
        for key in gone:
            self._remove(key)
        for key in new:
            self._insert(key)

    def _sort_anew(self, withdrawn: dict[Key, None], placed: dict[Key, None]) -> None:
        keys = [key for page in self._pages for key in page.keys if key not in withdrawn]
        keys += placed
        keys.sort()
        self._length = len(keys)
        self._pages = [_Page(keys[start : start + _PAGE]) for start in range(0, len(keys), _PAGE)]

    def _at(self, key: Key) -> int:
        """The number of the page on which a key is, or belongs."""
        return max(0, bisect_right(self._pages, key, key=_first) - 1)

    def _remove(self, key: Key) -> None:
        at = self._at(key)
        page = self._pages[at]
        del page.keys[bisect_left(page.keys, key)]
        self._length -= 1
        if page.keys:
            page.first, page.text = page.keys[0], None
        else:
            del self._pages[at]

    def _insert(self, key: Key) -> None:
        self._length += 1
        if not self._pages:
            self._pages.append(_Page([key]))
            return
        at = self._at(key)
        page = self._pages[at]
        page.keys.insert(bisect_left(page.keys, key), key)
        page.first, page.text = page.keys[0], None
        if len(page.keys) >= 2 * _PAGE:
            self._pages.insert(at + 1, _Page(page.keys[_PAGE:]))
            del page.keys[_PAGE:]


def _encode(
    keys: list[Key],
    before: bytes | None,
    entry: Callable[[bytes], bytes],
    heading: Callable[[bytes], bytes] | None,
) -> bytes:
    """Lines, or lists under their headings: the first goes on with that of `before`, the last is left open."""
    if heading is None:
        return (b"\n" if before is None else b",\n") + b",\n".join([entry(path) for _, path in keys])
    text = []
    for value, group in groupby(keys, _heading):
        if value == before:
            text.append(b", ")
        else:
            text.append((b"\n" if before is None else b"],\n") + heading(value) + b": [")
        text.append(b", ".join([entry(path) for _, path in group]))
        before = value
    return b"".join(text)
