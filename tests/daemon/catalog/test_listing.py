"""`listing` against what it follows from, and queries on it against the same asked of plain Python objects."""

from __future__ import annotations

import fnmatch
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loracore.expressions import parse
from loracore.facts import Facts, encode
from loracore.paths import CATALOGUE
from lorad.catalog import Catalog, Identified, Row
from lorad.catalog.conditions import SHORT
from lorad.catalog.facts import FactsTable
from lorad.catalog.listing import Listed, facets, find, is_listed, page
from lorad.catalog.views import connect

WORDS = ("ohwx", "Straße", "sks cat", "少女", "ab", "lux_v2", "Ärger")
FAMILIES = (None, "sdxl", "sd15", "flux")
STATES = ("pending", "unique", "grouped", "duplicate", "failed", "ignored")
MTIME = 1_750_000_000_000_000_000  # 2025-06-15


def row(number: int, status: str = "unique", size: int = 10, mtime_ns: int = MTIME) -> Row:
    return Row(
        number,
        1,
        number,
        size,
        mtime_ns,
        30,
        40,
        status,
        None,
        None,
        None,
        "safetensors",
        None,
        None,
        0.5,
        None,
        0,
        0,
    )


words = st.sampled_from(WORDS)
facts = st.builds(
    Facts,
    family=st.sampled_from(FAMILIES),
    base=st.none() | words,
    base_file=st.none() | words,
    rank=st.none() | st.integers(1, 6),
    title=st.none() | words,
    triggers=st.lists(words, max_size=2).map(tuple),
    tags=st.lists(st.tuples(words, st.integers(1, 9)), max_size=3).map(tuple),
    sound=st.booleans(),
    date=st.sampled_from((None, "2024-12-31T10:00:00+00:00", "2025-06-01", "2025-06-30T23:00:00+00:00")),
)
File = tuple[bytes, str, int, Facts | None]
files = st.lists(
    st.tuples(words, st.sampled_from(STATES), st.integers(0, 3), st.none() | facts), min_size=1, max_size=12
).map(
    lambda drawn: [
        (f"/root/{'sub/' if size % 2 else ''}{word}-{number}.safetensors".encode(), state, size, described)
        for number, (word, state, size, described) in enumerate(drawn)
    ]
)


def text(value: str | None) -> str:
    return (value or "").casefold()


def haystack(file: File) -> list[str]:
    path, _, _, said = file
    said = said or Facts()
    name = path.rsplit(b"/", 1)[-1].decode()
    return [text(name), text(said.title), *map(text, said.triggers), *(text(tag) for tag, _ in said.tags)]


def has_word(word: str) -> Callable[[File], bool]:
    return lambda file: any(text(word) in each for each in haystack(file))


def bases(file: File) -> list[str]:
    return [text(each) for each in (said(file).base, said(file).base_file) if each]


def rank(file: File) -> float:
    return (file[3] and file[3].rank) or float("nan")


def said(file: File) -> Facts:
    return file[3] or Facts()


TERMS: dict[str, Callable[[File], bool]] = {
    "family=sdxl": lambda file: said(file).family == "sdxl",
    "family!=sdxl": lambda file: said(file).family != "sdxl",
    "family=unknown": lambda file: said(file).family is None,
    "family=s*": lambda file: fnmatch.fnmatchcase(text(said(file).family), "s*"),
    "base~STRASSE": lambda file: any("strasse" in base for base in bases(file)),
    "base!~ohwx": lambda file: not any("ohwx" in base for base in bases(file)),
    "base=AB": lambda file: "ab" in bases(file),
    "base=l*": lambda file: any(base.startswith("l") for base in bases(file)),
    "base=unknown": lambda file: not bases(file),
    "base!=unknown": lambda file: bool(bases(file)),
    "rank>=3": lambda file: rank(file) >= 3,
    "rank<3": lambda file: rank(file) < 3,
    "rank!=3": lambda file: rank(file) != 3,
    "title=Ohwx": lambda file: text(said(file).title) == "ohwx",
    "trigger~at": lambda file: any("at" in text(word) for word in said(file).triggers),
    "trigger=ärger": lambda file: any(text(word) == "ärger" for word in said(file).triggers),
    "trigger=s*t": lambda file: any(fnmatch.fnmatchcase(text(word), "s*t") for word in said(file).triggers),
    "trigger=o*": lambda file: any(text(word).startswith("o") for word in said(file).triggers),
    "tag=ohwx": lambda file: any(text(tag) == "ohwx" for tag, _ in said(file).tags),
    "tag!~少": lambda file: not any("少" in text(tag) for tag, _ in said(file).tags),
    "tag=*ux_v?": lambda file: any(fnmatch.fnmatchcase(text(tag), "*ux_v?") for tag, _ in said(file).tags),
    "sound=yes": lambda file: file[1] != "failed" and file[3] is not None and file[3].sound,
    "sound!=yes": lambda file: file[1] == "failed" or file[3] is None or not file[3].sound,
    "sound=no": lambda file: file[1] == "failed" or (file[3] is not None and not file[3].sound),
    "dir=/root/sub": lambda file: file[0].startswith(b"/root/sub/"),
    "dir!=/root/sub": lambda file: not file[0].startswith(b"/root/sub/"),
    "name~V2-": lambda file: "v2-" in text(file[0].rsplit(b"/", 1)[-1].decode()),
    "path~/SUB/": lambda file: b"/sub/" in file[0],
    "path=/root/o*": lambda file: file[0].startswith(b"/root/o"),
    "size>1": lambda file: file[2] > 1,
    "state=unique": lambda file: file[1] == "unique",
    "state!=unique": lambda file: file[1] != "unique",
    "date=2025-06": lambda file: text(said(file).date).startswith("2025-06"),
    "date>2025-06": lambda file: text(said(file).date) > "2025-07",
    "date<2025": lambda file: bool(said(file).date) and text(said(file).date) < "2025",
    "modified=2025-06": lambda file: True,
    "modified>2025-06-15": lambda file: False,
    "modified>9999-12": lambda file: False,
    "modified>0001": lambda file: True,
    "modified>999999w": lambda file: True,
    "date>999999w": lambda file: bool(said(file).date),
    "name=[!o]*": lambda file: not text(file[0].rsplit(b"/", 1)[-1].decode()).startswith("o"),
    "name=*o*w*-*": lambda file: fnmatch.fnmatchcase(text(file[0].rsplit(b"/", 1)[-1].decode()), "*o*w*-*"),
    "base!=*": lambda file: not bases(file),
    "trigger=[z-a]x": lambda file: False,
    "hash=none": lambda file: True,
    "ohwx": has_word("ohwx"),
    "STRASSE": has_word("straße"),
    "少女": has_word("少女"),
    "ab": has_word("ab"),
    "!lux": lambda file: not has_word("lux")(file),
    "!ab": lambda file: not has_word("ab")(file),
    '"sks cat"': has_word("sks cat"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("catalogue")


def filled(folder: Path, listed: list[File]) -> None:
    """A catalogue of exactly these files."""
    catalog = Catalog(str(folder))
    catalog.drop_files([each.id for each in catalog.files.rows()])
    catalog.facts.refresh((), [path for path, *_ in catalog.names.rows()])
    catalog._db.execute("DELETE FROM listing")
    catalog._db.execute("INSERT INTO words(words) VALUES ('delete-all')")
    catalog._db.execute("DELETE FROM texts")
    for number, (path, state, size, described) in enumerate(listed, 1):
        catalog.files.save([row(number, state, size)])
        catalog.names.save([(path, number, 1, None)])
        if described is not None:
            catalog.facts.save(number, encode(described), None)
    catalog.facts.refresh(range(1, len(listed) + 1), ())
    catalog.commit(new_generation=True)
    catalog.close()


def asked(
    db: sqlite3.Connection, expression: str, sort: str = "path", *, descending: bool = False, few: int = 10_000
) -> list[Listed]:
    """All rows, page by page."""
    found = find(db, parse(expression), few=few)
    listed: list[Listed] = []
    after = None
    while True:
        total, rows = page(db, found, sort=sort, descending=descending, after=after, most=3)
        listed += [file for file, _ in rows]
        if len(rows) < 3:
            assert len(listed) == total
            return listed
        after = rows[-1][1]


@settings(max_examples=200)
@given(files, st.lists(st.sampled_from(sorted(TERMS)), max_size=3), st.sampled_from([0, 2, 10_000]))
def test_terms_find_what_they_say(folder: Path, listed: list[File], terms: list[str], few: int) -> None:
    """Whether they are held to be few or many."""
    filled(folder, listed)
    wanted = sorted(
        file[0] for file in listed if file[1] != "ignored" and all(TERMS[term](file) for term in terms)
    )
    with closing(connect(str(folder))) as db:
        found = asked(db, " ".join(terms), few=few)
        assert [file.path for file in found] == wanted
        described = {file[0]: file[3] for file in listed}
        assert all(file.facts == described[file.path] for file in found)


@settings(max_examples=300)
@given(
    files,
    st.sampled_from(["path", "size", "rank", "title", "family", "state", "modified", "base", "name"]),
    st.booleans(),
    st.sampled_from(["", "rank>=3", "name~V2-", "ohwx", "!ab", "rank!=3 ab"]),
)
def test_pages_go_on_in_every_order(
    folder: Path, listed: list[File], sort: str, descending: bool, expression: str
) -> None:
    filled(folder, listed)
    keys: dict[str, Callable[[File], Any]] = {
        "path": lambda file: file[0],
        "size": lambda file: file[2],
        "rank": lambda file: said(file).rank,
        "title": lambda file: text(said(file).title) or None,
        "family": lambda file: said(file).family,
        "state": lambda file: file[1],
        "modified": lambda file: MTIME,
        "base": lambda file: "\n".join(["", *bases(file), ""]) if bases(file) else None,
        "name": lambda file: text(file[0].rsplit(b"/", 1)[-1].decode()),
    }
    key = keys[sort]
    asked_for = [file for file in listed if all(TERMS[term](file) for term in expression.split())]
    shown = sorted((file for file in asked_for if file[1] != "ignored"), key=lambda file: file[0])
    if sort == "path":
        wanted = shown[::-1] if descending else shown
    else:
        known = [file for file in shown if key(file) is not None]
        wanted = sorted(known, key=key, reverse=descending) + [file for file in shown if key(file) is None]
    with closing(connect(str(folder))) as db:
        for few in (0, 10_000):
            found = asked(db, expression, sort, descending=descending, few=few)
            assert [file.path for file in found] == [file[0] for file in wanted]


@pytest.mark.parametrize("sort", ["path", "title", "name"])
@pytest.mark.parametrize("descending", [False, True])
def test_many_rows_are_found_wherever_they_stand(folder: Path, sort: str, descending: bool) -> None:
    """Also where those with a word are the last by the order."""
    last = [f"{letter}{number:02}" for letter in ("a", "ohwx b") for number in range(20)]
    listed = [(f"/root/{name}.pt".encode(), "unique", 1, Facts(title=name)) for name in last]
    filled(folder, listed)
    wanted = sorted((path for path, *_ in listed if b"ohwx" in path), reverse=descending)
    with closing(connect(str(folder))) as db:
        assert [file.path for file in asked(db, "ohwx", sort, descending=descending, few=0)] == wanted


def test_a_text_is_searched_beyond_a_nul(folder: Path) -> None:
    """At which SQLite's globs end."""
    facts = Facts(title="a\0sks", triggers=("b\0sks",))
    filled(folder, [(b"/root/a.pt", "unique", 1, facts)])
    with closing(connect(str(folder))) as db:
        for expression in ("title~sks", "title=*sks", "trigger~sks", "sks", "ks", "title=a\0sks", "title~\0s"):
            assert len(asked(db, expression)) == 1, expression
        assert not asked(db, "title~\0x") + asked(db, "!sks")


@given(files, st.sampled_from(["rank>=3", "ohwx", "!lux", "name~V2-"]))
def test_facets_count_all_that_is_asked_for(folder: Path, listed: list[File], term: str) -> None:
    filled(folder, listed)
    shown = [file for file in listed if file[1] != "ignored" and TERMS[term](file)]
    with closing(connect(str(folder))) as db:
        for few in (0, 10_000):
            found = facets(db, find(db, parse(term), few=few), ["state", "family", "author", "rank"])
            assert list(found) == ["state", "family", "author", "rank"]
            assert dict(found["family"]) == Counter(said(file).family or "" for file in shown)
            assert dict(found["rank"]) == Counter(str(said(file).rank or "") for file in shown)
            assert dict(found["state"]) == Counter(file[1] for file in shown)
            assert dict(found["author"]) == ({"": len(shown)} if shown else {})


def test_the_index_of_what_is_short_has_the_columns_that_are_held_to_be_in_it(tmp_path: Path) -> None:
    Catalog(str(tmp_path)).close()
    with closing(connect(str(tmp_path))) as db:
        columns = [name for _, _, name in db.execute("PRAGMA index_info(listing_short)")]
    assert columns == list(SHORT)


def listing(db: sqlite3.Connection) -> list[tuple[Any, ...]]:
    """All that is listed, without the numbers of rows; the index of words is as the texts are."""
    db.execute("INSERT INTO words(words, rank) VALUES ('integrity-check', 1)")
    names = [name for _, name, *_ in db.execute("PRAGMA table_info(listing)") if name != "id"]
    columns = [*(f"listing.{name}" for name in names), "text", "tags"]
    query = f"SELECT {', '.join(columns)} FROM listing JOIN texts USING (id) ORDER BY path"
    return db.execute(query).fetchall()


paths = st.sampled_from([f"/r/{name}.pt".encode() for name in ("a", "b", "c", "d")])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("file"), st.integers(1, 3), st.sampled_from(STATES)),
        st.tuples(st.just("facts"), st.integers(1, 3), facts),
        st.tuples(st.just("name"), paths, st.tuples(st.integers(1, 3), st.sampled_from([0, 1, 2]))),
        st.tuples(st.just("unname"), paths, st.none()),
        st.tuples(st.just("drop"), st.integers(1, 3), st.none()),
        st.tuples(st.just("commit"), st.none(), st.none()),
    ),
    max_size=25,
)


@settings(max_examples=150)
@given(steps)
def test_rows_follow_from_the_other_tables(tmp_path_factory: pytest.TempPathFactory, taken: list[Any]) -> None:
    """Whatever is written to those, brought up to date at each commit they are what they would be if made anew."""
    folder = tmp_path_factory.mktemp("follow")
    catalog = Catalog(str(folder))
    files: set[int] = set()
    names: set[bytes] = set()
    for kind, what, value in [*taken, ("commit", None, None)]:
        match kind:
            case "file":
                catalog.files.save([row(what, value)])
                files.add(what)
            case "facts":
                catalog.facts.save(what, encode(value), None)
                files.add(what)
            case "name":
                catalog.names.save([(what, value[0], value[1], None)])
                names.add(what)
            case "unname":
                catalog.names.drop([what])
                names.add(what)
            case "drop":
                catalog.drop_files([what])
                files.add(what)
            case "commit":
                catalog.facts.refresh(files, names)
                catalog.commit(new_generation=True)
                files, names = set(), set()
    followed = listing(catalog._db)
    catalog._db.execute("DELETE FROM meta WHERE key = 'listing'")
    assert FactsTable(catalog._db, lists=True).begin()
    assert listing(catalog._db) == followed
    catalog.close()


@pytest.fixture
def two_names(tmp_path: Path) -> Iterator[Catalog]:
    catalog = Catalog(str(tmp_path))
    catalog.files.save([row(1)])
    catalog.names.save([(b"/r/a.pt", 1, 1, None), (b"/r/b.pt", 1, 1, None)])
    catalog.facts.refresh([1], ())
    yield catalog
    catalog.close()


def test_an_inode_of_two_names_is_a_duplicate_as_everywhere(two_names: Catalog) -> None:
    states = "SELECT state FROM listing ORDER BY path"
    assert two_names._db.execute(states).fetchall() == [("duplicate",), ("duplicate",)]
    two_names.names.drop([b"/r/b.pt"])
    two_names.facts.refresh((), [b"/r/b.pt"])
    assert two_names._db.execute(states).fetchall() == [("unique",)]


def test_what_one_wrote_that_does_not_list_is_listed_by_the_next(tmp_path: Path) -> None:
    """As `scan` does on the state folder of a daemon."""
    Catalog(str(tmp_path)).close()
    quiet = Catalog(str(tmp_path), lists=False)
    quiet.files.save([row(1)])
    quiet.names.save([(b"/r/a.pt", 1, 1, None)])
    quiet.facts.refresh([1], [b"/r/a.pt"])
    quiet.close()
    catalog = Catalog(str(tmp_path))
    assert [path for path, *_ in listing(catalog._db)] == [b"/r/a.pt"]
    catalog.close()


def test_rows_that_are_still_to_be_made_are_not_taken_for_none(tmp_path: Path) -> None:
    """After an update, and where the catalogue is of a version before them."""
    Catalog(str(tmp_path)).close()
    with closing(sqlite3.connect(tmp_path / CATALOGUE)) as db:
        assert is_listed(db)
        db.execute("DELETE FROM meta WHERE key = 'listing'")
        assert not is_listed(db)
        db.execute("DROP TABLE listing")
        assert not is_listed(db)


def test_a_stated_hash_is_held_against_the_real_one(tmp_path: Path) -> None:
    """Of any length, and told with each row; a file that was not hashed is unchecked."""
    digest = bytes(range(32))
    stated = {"right": "0x" + digest.hex().upper(), "short": digest.hex()[:12], "wrong": "ff" * 32, "none": None}
    stated["unchecked"] = stated["right"]
    listed: list[File] = [
        (f"/{name}".encode(), "unique", 10, Facts(model_hash=one)) for name, one in sorted(stated.items())
    ]
    filled(tmp_path, listed)
    catalog = Catalog(str(tmp_path))
    for number, (path, *_) in enumerate(listed, 1):
        if path != b"/unchecked":
            catalog.hashes.save(number, Identified(model=digest))
    catalog.commit(new_generation=True)
    catalog.close()
    with closing(connect(str(tmp_path))) as db:
        told = {file.path: file.hash for file in asked(db, "")}
        assert told == {
            b"/right": "right", b"/short": "right", b"/wrong": "wrong", b"/none": "none",
            b"/unchecked": "unchecked",
        }  # fmt: skip
        for value in ("right", "wrong", "none", "unchecked"):
            assert {file.path for file in asked(db, f"hash={value}")} == {
                p for p, one in told.items() if one == value
            }
            assert {file.path for file in asked(db, f"hash!={value}")} == {
                p for p, one in told.items() if one != value
            }
