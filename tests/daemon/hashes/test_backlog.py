"""What is to be hashed, and in which order: what arrived last is what people look for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lorad.catalog import Catalog, Identified, Row
from lorad.catalog.hashes import Counts
from lorad.hashes.backlog import Backlog

_DIGEST = bytes(32)


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    catalog = Catalog(str(tmp_path))
    yield catalog
    catalog.close()


@pytest.fixture
def backlog(tmp_path: Path, catalog: Catalog) -> Iterator[Backlog]:
    backlog = Backlog(str(tmp_path))
    yield backlog
    backlog.close()


def add(catalog: Catalog, *numbers: int, status: str = "unique") -> None:
    rest = (status, None, None, None, None, None, None, 0.0, None, 0, 0)
    catalog.files.save(Row(number, -1, number, 10, 20, 30, 40, *rest) for number in numbers)
    catalog.names.save((b"/%d" % number, number, 1, None) for number in numbers)
    catalog.commit(new_generation=True)


def given(backlog: Backlog) -> list[int]:
    """All that it gives."""
    files = []
    while (wanted := backlog.next()) is not None:
        files.append(wanted.file)
    return files


def test_newcomers_come_first_then_the_newest(catalog: Catalog, backlog: Backlog) -> None:
    """Each once, also those that arrive meanwhile."""
    add(catalog, 1, 2, 3)
    first = backlog.next()
    assert first is not None
    assert first.file == 3
    assert first.identity.dev == 2**64 - 1, "as stat gives it"
    add(catalog, 4, 5)
    assert given(backlog) == [4, 5, 2, 1]
    assert given(backlog) == []
    backlog.begin()
    assert given(backlog) == [5, 4, 3, 2, 1]


def test_only_what_is_known_in_view_and_has_no_hashes(catalog: Catalog, backlog: Backlog) -> None:
    add(catalog, 1, 2, 3, 4)
    add(catalog, 5, status="failed")
    add(catalog, 6, status="ignored")
    add(catalog, 7, status="pending")
    add(catalog, 8, status="duplicate")
    add(catalog, 9, status="grouped")
    catalog.hashes.save(2, Identified(sha256=_DIGEST))
    catalog.hashes.save(3, Identified(error="it is bad", deaths=3))
    catalog.hashes.save(9, Identified(deaths=2))
    catalog.names.set_active(0, [b"/4"])
    catalog.commit(new_generation=True)
    assert backlog.counts() == Counts(hashed=1, waiting=3, failed=1)
    assert given(backlog) == [9, 8, 1]
    backlog.begin()
    wanted = backlog.next()
    assert wanted is not None
    assert wanted.deaths == 2


def test_a_file_has_all_its_names(catalog: Catalog, backlog: Backlog) -> None:
    add(catalog, 1)
    catalog.names.save([(b"/other \xff", 1, 1, None)])
    catalog.commit(new_generation=True)
    wanted = backlog.next()
    assert wanted is not None
    assert wanted.paths == [b"/1", b"/other \xff"]
