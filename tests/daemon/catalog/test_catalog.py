"""What the catalogue promises: versions, and answers that outlive a process."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from loracore.errors import StateError
from loracore.paths import CATALOGUE
from lorad.catalog import Answer, Catalog, Row
from lorad.catalog.schema import MIGRATIONS
from lorad.library import Piece, Question


def row(number: int) -> Row:
    return Row(number, 1, number, 10, 20, 30, 40, "unique", None, None, None, None, None, None, 0.5, None, 0, 0)


def test_a_later_catalogue_is_refused(tmp_path: Path) -> None:
    """A catalogue that a newer lorad wrote is left alone, with the remedy."""
    with sqlite3.connect(tmp_path / CATALOGUE) as db:
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    db.close()
    with pytest.raises(StateError, match="newer lorad"):
        Catalog(str(tmp_path))


def test_what_was_committed_is_there_again_and_nothing_else(tmp_path: Path) -> None:
    """A process that is killed loses its open transaction only."""
    catalog = Catalog(str(tmp_path))
    catalog.files.save([row(1), row(2)])
    catalog.answers.save([Answer(1, 0, b"k" * 16, b"d" * 32)])
    layout = catalog.layouts.number(b"s" * 32, b"encoded")
    assert layout is not None
    question = Question(0, True, (Piece(3, 0, 7),))
    catalog.layouts.save_sequence(layout, [question], True)
    catalog.commit(new_generation=True)
    catalog.files.save([row(3)])
    again = Catalog(str(tmp_path))
    assert again.generation == 1
    assert list(again.files.rows()) == [row(1), row(2)]
    assert again.answers.keys() == {1: {0: b"k" * 16}}
    assert list(again.layouts.sequences()) == [(layout, (question,), True)]


def test_forgotten_files_leave_nothing(tmp_path: Path) -> None:
    """Digests are kept while their file lives, and cleared after."""
    catalog = Catalog(str(tmp_path))
    catalog.files.save([row(1)])
    catalog.names.save([(b"/a\xff", 1, 1, None)])
    catalog.answers.save([Answer(1, 0, b"", b"")])
    catalog.names.drop([b"/a\xff"])
    catalog.drop_files([1])
    assert (list(catalog.files.rows()), list(catalog.names.rows()), catalog.answers.of(1)) == ([], [], {})


def test_a_shared_answer_is_an_answer(tmp_path: Path) -> None:
    """Files that agree on every layer share what one of them was asked."""
    catalog = Catalog(str(tmp_path))
    catalog.answers.save([Answer(1, 4, b"k", b"d")])
    catalog.answers.share(1, 2, 4)
    assert catalog.answers.of(2) == {4: b"d"}
