"""Long lists in pages of about `PAGE_BYTES`, encoded once and kept while somebody reads on.

A cursor names the generation and the last row of the page before. While the pages of that generation are
kept they are what is given; later the list goes on behind that row in the newest generation.
"""

from __future__ import annotations

import base64
import binascii
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, NamedTuple, TypeVar

import msgspec

from loracore.control import PAGE_BYTES, Answer, Planned, PlannedStep, SkippedFile
from lorad.dedupe.plan import Plan, Step
from lorad.dedupe.sets import Skipped

#: Lists whose pages are kept.
_LISTS = 4
#: Bytes of one row beside its texts, at most about.
_ROW = 16

Key = tuple[bytes, ...]
T = TypeVar("T")
_CURSOR = msgspec.msgpack.Decoder(tuple[int, Key])


class Row(NamedTuple, Generic[T]):
    """One row of a list: what it is sorted by, and what is shown of it in about `size` bytes."""

    key: Key
    size: int
    shown: T


class BadCursor(Exception):
    """A cursor that no page gave."""


class Pages:
    """The newest few lists, as encoded pages by the cursor that asks for them."""

    def __init__(self) -> None:
        self._lists: OrderedDict[tuple[str, int], dict[str, msgspec.Raw]] = OrderedDict()

    def kept(self, what: str, cursor: str, generation: Callable[[], int]) -> msgspec.Raw | None:
        """A page that is at hand. A first page must be of the present generation. Raises BadCursor."""
        wanted = _generation(cursor) if cursor else generation()
        pages = self._lists.get((what, wanted))
        if pages is None or cursor not in pages:
            return None
        self._lists.move_to_end((what, wanted))
        return pages[cursor]

    def keep(self, what: str, generation: int, pages: dict[str, msgspec.Raw]) -> None:
        self._lists[what, generation] = pages
        self._lists.move_to_end((what, generation))
        while len(self._lists) > _LISTS:
            self._lists.popitem(last=False)

    def forget(self) -> None:
        self._lists.clear()


def paginate(
    generation: int, rows: Iterable[Row[T]], cursor: str, make: Callable[[list[T], str], Answer]
) -> dict[str, msgspec.Raw]:
    """Sorted rows as encoded pages, those behind `cursor`. Raises BadCursor."""
    pages: dict[str, msgspec.Raw] = {}
    for page, following in _cut(generation, rows, cursor):
        pages[cursor] = msgspec.Raw(msgspec.msgpack.encode(make(page, following)))
        cursor = following
    return pages


def _cut(generation: int, rows: Iterable[Row[T]], cursor: str) -> Iterator[tuple[list[T], str]]:
    after = _after(cursor) if cursor else ()
    page: list[T] = []
    room, last = PAGE_BYTES, after
    for key, size, shown in rows:
        if key <= after:
            continue
        room -= size + _ROW
        if page and room < 0:
            yield page, _cursor(generation, last)
            page, room = [], PAGE_BYTES - size - _ROW
        page.append(shown)
        last = key
    yield page, ""


def _cursor(generation: int, key: Key) -> str:
    return base64.urlsafe_b64encode(msgspec.msgpack.encode((generation, key))).decode()


def _decode(cursor: str) -> tuple[int, Key]:
    try:
        return _CURSOR.decode(base64.urlsafe_b64decode(cursor))
    except (msgspec.MsgspecError, binascii.Error, ValueError, RecursionError) as error:
        raise BadCursor(f"the cursor {cursor[:40]!a} is none that a page of this list gave") from error


def _generation(cursor: str) -> int:
    return _decode(cursor)[0]


def _after(cursor: str) -> Key:
    return _decode(cursor)[1]


def planned_pages(plan: Plan, generation: int, complete: bool, cursor: str) -> dict[str, msgspec.Raw]:
    """A plan as encoded pages, those behind `cursor`."""

    def make(rows: list[Step | Skipped], following: str) -> Planned:
        steps = [row for row in rows if isinstance(row, Step)]
        return Planned(
            generation,
            complete,
            plan.action,
            [
                PlannedStep(step.folder or step.path, step.kept, step.level, step.action, step.bytes, step.why)
                for step in steps
            ],
            [SkippedFile(*row) for row in rows if isinstance(row, Skipped)],
            sum(step.bytes for step in steps),
            following,
        )

    listed: list[Step | Skipped] = [*plan.steps, *plan.skipped]
    listed.sort(key=lambda row: (row.kept, row.path))
    rows = (Row((row.kept, row.path), len(row.kept) + len(row.path) + 120, row) for row in listed)
    return paginate(generation, rows, cursor, make)
