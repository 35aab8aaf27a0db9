"""A catalogue of an earlier lorad becomes one of this version, with all that was learnt."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from loracore.paths import CATALOGUE
from loracore.tags import Tags
from lorad.catalog import Catalog, Identified, Row
from lorad.catalog.schema import MIGRATIONS
from lorad.catalog.tables import FileTable
from lorad.catalog.views import connect

#: The tables of version 1, as lorad wrote them before it kept identity hashes.
_VERSION_1 = """
    CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
    CREATE TABLE layouts (
        id INTEGER PRIMARY KEY, signature BLOB NOT NULL UNIQUE, encoded BLOB NOT NULL,
        sequence BLOB, exhausted INTEGER NOT NULL DEFAULT 0
    );
    CREATE TABLE arrangements (id INTEGER PRIMARY KEY, signature BLOB NOT NULL UNIQUE, encoded BLOB NOT NULL);
    CREATE TABLE files (
        id INTEGER PRIMARY KEY,
        dev INTEGER NOT NULL, ino INTEGER NOT NULL, size INTEGER NOT NULL,
        mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL, read_ns INTEGER NOT NULL,
        status TEXT NOT NULL, layout INTEGER, arrangement INTEGER, base INTEGER, format TEXT,
        residue BLOB, signature BLOB, load_seconds REAL NOT NULL, error TEXT, deaths INTEGER NOT NULL,
        passed_over INTEGER NOT NULL
    );
    CREATE TABLE names (path BLOB PRIMARY KEY, file INTEGER NOT NULL, active INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE answers (
        file INTEGER NOT NULL, number INTEGER NOT NULL, key BLOB NOT NULL, digests BLOB NOT NULL,
        PRIMARY KEY (file, number)
    );
    PRAGMA user_version = 1;
"""


def tables(db: sqlite3.Connection) -> set[tuple[str, str]]:
    return set(db.execute("SELECT type, name FROM sqlite_schema"))


def test_version_1_keeps_what_it_has_and_takes_hashes(tmp_path: Path) -> None:
    old = sqlite3.connect(tmp_path / CATALOGUE)
    old.executescript(_VERSION_1)
    row = Row(7, 1, 2, 10, 20, 30, 40, "unique", 3, None, 8, "safetensors", b"r", b"s", 0.5, None, 0, 0)
    old.execute(f"INSERT INTO files VALUES ({', '.join('?' * 18)})", row[:18])
    old.execute("INSERT INTO names VALUES (?, 7, 1)", (b"/a\xff",))
    old.execute("INSERT INTO answers VALUES (7, 0, ?, ?)", (b"k", b"d" * 32))
    old.execute("INSERT INTO meta VALUES ('generation', 5), ('complete', 1)")
    old.commit()
    old.close()
    catalog = Catalog(str(tmp_path))
    # Its header is to be read again for the function, and the JSON files to be rendered again.
    row = row._replace(function=b"")
    assert (catalog.generation, catalog.number("complete"), list(catalog.files.rows())) == (5, 0, [row])
    assert list(catalog.names.rows()) == [(b"/a\xff", 7, 1, None)]
    assert catalog.answers.of(7) == {0: b"d" * 32}
    catalog.hashes.save(7, Identified(sha256=b"h" * 32))
    catalog.close()
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    Catalog(str(fresh)).close()
    with sqlite3.connect(tmp_path / CATALOGUE) as new, sqlite3.connect(fresh / CATALOGUE) as other:
        assert tables(new) == tables(other)
        assert new.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
        assert new.execute("SELECT file, sha256, deaths FROM hashes").fetchall() == [(7, b"h" * 32, 0)]
    new.close()
    other.close()


def test_version_5_knows_the_weights_of_duplicates_and_all_are_old(tmp_path: Path) -> None:
    """What was guessed of names and inodes goes, with its tables."""
    old = sqlite3.connect(tmp_path / CATALOGUE)
    for script in MIGRATIONS[:5]:
        old.executescript(script)
    old.execute("PRAGMA user_version = 5")
    rest = (3, None, 8, "safetensors", b"r", b"s" * 32, 0.5, None, 0, 0, b"/b\0/c", b"extents")
    for number, status in enumerate(("unique", "duplicate"), start=1):
        values = (number, 1, 2, 10, 20, 30, 40, status, *rest)
        old.execute(f"INSERT INTO files VALUES ({', '.join('?' * len(values))})", values)
    old.execute("INSERT INTO newcomers VALUES (?, 1, 2, 3)", (b"/a",))
    old.execute("INSERT INTO held VALUES (?, ?, 4.0)", (b"/a", b"s" * 32))
    old.execute("INSERT INTO meta VALUES ('known_since', x''), ('acts', 1)")
    old.commit()
    old.close()
    catalog = Catalog(str(tmp_path))
    found = [(row.status, row.weights, row.was, row.fresh, row.extents) for row in catalog.files.rows()]
    assert found == [("unique", None, None, 0, b"extents"), ("duplicate", b"s" * 32, None, 0, b"extents")]
    assert (catalog.held.at(b"/a"), catalog.number("acts")) == ([], 0)
    catalog.close()
    with sqlite3.connect(tmp_path / CATALOGUE) as new:
        assert not {("table", name) for name in ("newcomers", "departed", "held")} & tables(new)
    new.close()


def test_hashes_go_with_their_file(tmp_path: Path) -> None:
    catalog = Catalog(str(tmp_path))
    for file in (1, 2):
        catalog.hashes.save(file, Identified(sha256=bytes([file]) * 32))
    catalog.drop_files([1])
    catalog.close()
    with sqlite3.connect(tmp_path / CATALOGUE) as db:
        assert db.execute("SELECT file FROM hashes").fetchall() == [(2,)]
    db.close()


def test_version_9_lists_what_it_listed_and_takes_tags(tmp_path: Path) -> None:
    """The rows of its list are made anew, as it had fewer columns."""
    old = sqlite3.connect(tmp_path / CATALOGUE)
    for script in MIGRATIONS[:9]:
        old.executescript(script)
    old.execute("PRAGMA user_version = 9")
    FileTable(old).save(
        [Row(7, 1, 2, 10, 20, 30, 40, "unique", 3, None, 8, "safetensors", b"r", b"s", 0.5, None, 0, 0)]
    )
    old.execute("INSERT INTO names (path, file, active) VALUES (?, 7, 1)", (b"/a",))
    old.execute("INSERT INTO meta VALUES ('listing', 1)")
    old.commit()
    old.close()
    catalog = Catalog(str(tmp_path))
    catalog.tags.save(7, 1, Tags(("good",)))
    catalog.facts.refresh([7], [])
    catalog.commit(new_generation=True)
    catalog.close()
    with closing(connect(str(tmp_path))) as db:
        (row,) = db.execute("SELECT path, state, own FROM listing").fetchall()
        assert row == (b"/a", "unique", "\ngood\n")
