"""Lists of what the catalogue holds, in pages: groups, failed files, duplicates, and files by hash or kind.

Those by what they are come from the newest generation, each page from behind the last row of the one before.
"""

from __future__ import annotations

import base64
import binascii
import sqlite3
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

import msgspec

from loracore.control import (
    MOST_IN_SET,
    MOST_LISTED,
    PAGE_BYTES,
    Duplicates,
    DuplicateSet,
    Failed,
    FailedFile,
    Files,
    FileSet,
    FileSets,
    Found,
    Group,
    Groups,
    ListedFile,
    ListFiles,
    ListNames,
    ListRuns,
    Match,
)
from loracore.expressions import FIELDS, BadExpression, field_named, parse
from loracore.facts import Facts
from lorad.catalog import listing
from lorad.catalog.duplicates import Copies, names_in_sets, sets_of
from lorad.catalog.listing import FACETS, Place
from lorad.catalog.runs import run_name
from lorad.catalog.search import Hit, search
from lorad.catalog.views import Head, Name, names_by_layout, names_failed, read_terms
from lorad.control.pages import BadCursor, Row, paginate
from lorad.library.keepers import Copy, Rules
from lorad.publish.duplicates import judge, own_bytes

#: Makes the pages of a list from a cursor on, by the cursors at which they begin.
Compute = Callable[[sqlite3.Connection, Head, str], dict[str, msgspec.Raw]]

#: Fields that a list cannot be sorted by: they have several values, or are asked for alone.
_UNSORTED = frozenset({"dir", "component", "trigger", "tag", "own", "hash"})
_PLACE = msgspec.msgpack.Decoder(tuple[str | int | float | None, bytes])


class _Member(NamedTuple):
    """One file of a set besides the kept one. `wasted`: its bytes that were not counted with another one."""

    kept: bytes
    path: bytes
    level: str
    differs: bool
    wasted: int


def groups(db: sqlite3.Connection, head: Head, cursor: str) -> dict[str, msgspec.Raw]:
    def make(rows: list[tuple[bytes, bytes]], following: str) -> Groups:
        groups = [Group(sign, [path for _, path in part]) for sign, part in groupby(rows, lambda row: row[0])]
        return Groups(head.generation, groups, following)

    rows = (Row((sign, path), len(path), (sign, path)) for sign, path in names_by_layout(db))
    return paginate(head.generation, rows, cursor, make)


def failed(db: sqlite3.Connection, head: Head, cursor: str) -> dict[str, msgspec.Raw]:
    def make(files: list[FailedFile], following: str) -> Failed:
        return Failed(head.generation, files, following)

    rows = (Row((path,), len(path) + len(error), FailedFile(path, error)) for path, error in names_failed(db))
    return paginate(head.generation, rows, cursor, make)


def duplicates(db: sqlite3.Connection, head: Head, cursor: str, level: str) -> dict[str, msgspec.Raw]:
    rules, sets = sets_among(db, names_in_sets(db))
    judged = [(found, copies) for copies in sets if (found := judge(copies, rules)) is not None]

    def rows() -> Iterator[Row[_Member]]:
        for found, copies in sorted(judged, key=lambda each: each[0].kept):
            listed = [path for path in sorted(found.levels) if not level or found.levels[path] == level]
            own = own_bytes(copies, {found.kept, *found.differs}, frozenset(listed))
            for path in listed:
                member = _Member(found.kept, path, found.levels[path], path in found.differs, own.get(path, 0))
                yield Row((found.kept, path), len(path) + 10, member)

    def make(members: list[_Member], following: str) -> Duplicates:
        sets = []
        for kept, part in groupby(members, lambda member: member.kept):
            others = list(part)
            wasted = sum(member.wasted for member in others)
            differing = [member.path for member in others if member.differs]
            sets.append(DuplicateSet(kept, [(member.path, member.level) for member in others], wasted, differing))
        return Duplicates(head.generation, head.complete, sets, following)

    return paginate(head.generation, rows(), cursor, make)


def with_hash(
    db: sqlite3.Connection, head: Head, cursor: str, prefix: str, missing: Callable[[sqlite3.Connection], str]
) -> dict[str, msgspec.Raw]:
    """Files that have a hash which begins so; `missing` says why some may not be found."""
    hits = sorted(search(db, prefix))
    note = "" if hits else missing(db)

    def make(page: list[Hit], following: str) -> Found:
        return Found([Match(hit.path, hit.kind, hit.hash.hex()) for hit in page], following, note)

    rows = (Row((hit.kind.encode(), hit.hash, hit.path), len(hit.path) + 80, hit) for hit in hits)
    return paginate(head.generation, rows, cursor, make)


def sets_among(db: sqlite3.Connection, names: Iterable[Name]) -> tuple[Rules, list[list[Copy]]]:
    """The sets among these names, and the rules that say what is kept of them."""
    terms = read_terms(db)
    copies = Copies(terms.storage, follow=terms.follow)
    return terms.rules, list(map(copies.set_of, sets_of(names)))


def files(db: sqlite3.Connection, head: Head, request: ListFiles) -> Files:
    """One page of files by what they are. Raises BadExpression and BadCursor."""
    found = listing.find(db, parse(request.expression))
    sort, descending = _order(request.sort)
    for field in request.facets:
        if field not in FACETS:
            raise BadExpression(f"the values of {field[:40]!r} are not counted; of {', '.join(FACETS)} they are")
    after = _decode(request.cursor) if request.cursor else None
    most = min(max(request.most, 0), MOST_LISTED)
    page: list[ListedFile] = []
    last: Place | None
    cursor, room, last = "", PAGE_BYTES, None
    total, rows = listing.page(
        db, found, sort=sort, descending=descending, after=after, most=most + 1 if most else 0
    )
    for row, place in rows:
        file = ListedFile(*row)
        room -= len(msgspec.msgpack.encode(file))
        if last is not None and (room < 0 or len(page) == most):
            cursor = _encode(last)
            break
        page.append(file)
        last = place
    return Files(head.generation, page, total, listing.facets(db, found, request.facets), cursor)


def sets(db: sqlite3.Connection, head: Head, request: ListRuns | ListNames) -> FileSets:
    """One page of runs, or of names that several weights have. Raises BadExpression and BadCursor."""
    found = listing.find(db, parse(request.expression))
    by = "run" if isinstance(request, ListRuns) else "stem"
    values = listing.sets(db, found, by)
    first = bisect_right(values, str(_decode(request.cursor).value)) if request.cursor else 0
    page: list[FileSet] = []
    room = PAGE_BYTES
    for value in values[first:]:
        members = [ListedFile(*row) for row in listing.members(db, found, by, value, MOST_IN_SET)]
        name = run_name(value, members[0].facts or Facts()) if by == "run" and members else value
        room -= sum(len(msgspec.msgpack.encode(file)) for file in members)
        if page and room < 0:
            return FileSets(head.generation, page, len(values), _encode(Place(values[first + len(page) - 1], b"")))
        page.append(FileSet(name, listing.size(db, found, by, value), members))
    return FileSets(head.generation, page, len(values))


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
