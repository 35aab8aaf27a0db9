"""The answer to `list`: files by what they are, page by page, and how many have each value of a field.

Each page is looked up anew behind the last row of the one before, in the newest generation.
"""

from __future__ import annotations

import base64
import binascii
import sqlite3

import msgspec

from loracore.control import MOST_LISTED, PAGE_BYTES, Files, ListedFile, ListFiles
from loracore.expressions import FIELDS, BadExpression, field_named, parse
from lorad.catalog import listing
from lorad.catalog.listing import FACETS, Place
from lorad.catalog.views import Head
from lorad.control.pages import BadCursor

#: Fields that a list cannot be sorted by: they have several values, or are asked for alone.
_UNSORTED = frozenset({"dir", "component", "trigger", "tag", "hash"})
_PLACE = msgspec.msgpack.Decoder(tuple[str | int | float | None, bytes])


def files(db: sqlite3.Connection, head: Head, request: ListFiles) -> Files:
    """One page. Raises BadExpression and BadCursor."""
    found = listing.condition(parse(request.expression))
    sort, descending = _order(request.sort)
    for field in request.facets:
        if field not in FACETS:
            raise BadExpression(f"the values of {field[:40]!r} are not counted; of {', '.join(FACETS)} they are")
    after = _decode(request.cursor) if request.cursor else None
    total = listing.total(db, found)
    most = min(max(request.most, 0), MOST_LISTED)
    page: list[ListedFile] = []
    last: Place | None
    cursor, room, last = "", PAGE_BYTES, None
    rows = listing.rows(db, found, total, sort=sort, descending=descending, after=after, most=most + 1)
    for row, place in rows if most else ():
        file = ListedFile(*row)
        room -= len(msgspec.msgpack.encode(file))
        if last is not None and (room < 0 or len(page) == most):
            cursor = _encode(last)
            break
        page.append(file)
        last = place
    return Files(head.generation, page, total, listing.facets(db, found, request.facets), cursor)


def _order(sort: str) -> tuple[str, bool]:
    """The field, and whether its highest come first."""
    field = field_named(sort.removeprefix("-"))
    if field in _UNSORTED:
        usable = ", ".join(name for name in FIELDS if name not in _UNSORTED)
        raise BadExpression(f"files cannot be sorted by {field}; by {usable} they can")
    return field, sort.startswith("-")


def _encode(place: Place) -> str:
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(tuple(place))).decode()


def _decode(cursor: str) -> Place:
    try:
        return Place(*_PLACE.decode(base64.urlsafe_b64decode(cursor)))
    except (msgspec.MsgspecError, binascii.Error, ValueError, RecursionError) as error:
        raise BadCursor(f"the cursor {cursor[:40]!a} is none that a page of this list gave") from error
