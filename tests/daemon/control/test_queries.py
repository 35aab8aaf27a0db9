"""Queries show what the JSON files of the same generation show, page by page."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from blake3 import blake3

from loracore import config
from loracore.control import (
    Answer,
    Duplicates,
    Failed,
    Files,
    Find,
    Found,
    Groups,
    ListDuplicates,
    ListFailed,
    ListFiles,
    ListGroups,
    Refusal,
    Show,
    Shown,
)
from lorad.catalog import Catalog, Row
from lorad.control import pages
from lorad.control.queries import Queries, Query
from tests.builders.weights import random_weights
from tests.daemon.control.serving import ODD, SPECS, Library, Line, Served, serving
from tests.integration.scanning import view


def ask(library: Library, query: Query) -> Answer:
    queries = Queries(str(library.state))
    try:
        return decoded(queries.answer(query))
    finally:
        queries.close()


def decoded(answer: Answer | msgspec.Raw) -> Answer:
    return msgspec.msgpack.decode(answer, type=Answer) if isinstance(answer, msgspec.Raw) else answer


def everything(queries: Queries, query: Query) -> list[Any]:
    """All pages of a list."""
    found = []
    while True:
        page: Any = decoded(queries.answer(query))
        assert not isinstance(page, Refusal), page
        found.append(page)
        if not page.cursor:
            return found
        query = msgspec.structs.replace(query, cursor=page.cursor)


def path(library: Library, name: str) -> bytes:
    return os.fsencode(library.folder / name)


def test_groups_are_those_of_groups_json(library: Library) -> None:
    answer = ask(library, ListGroups())
    assert isinstance(answer, Groups)
    listed = {group.signature.hex(): [os.fsdecode(path) for path in group.paths] for group in answer.groups}
    written = view(library.state, "groups")
    assert listed == written["groups"]
    assert answer.generation == written["generation"]


def test_duplicates_are_those_of_duplicates_json(library: Library) -> None:
    """Sets, levels, what is wasted and whether all is told apart."""
    answer = ask(library, ListDuplicates())
    assert isinstance(answer, Duplicates)
    written = view(library.state, "duplicates")
    sets = {os.fsdecode(one.kept): [os.fsdecode(path) for path, _ in one.others] for one in answer.sets}
    assert sets == {kept: sorted(others) for kept, others in written["duplicates"].items()}
    assert {os.fsdecode(path): level for one in answer.sets for path, level in one.others} == written["levels"]
    assert sum(one.wasted_bytes for one in answer.sets) == written["wasted_bytes"]
    assert answer.complete is written["complete"] is True


@pytest.mark.parametrize("level", ["inode", "file", "tensors", "weights"])
def test_duplicates_of_one_level(library: Library, level: str) -> None:
    answer = ask(library, ListDuplicates(level))
    assert isinstance(answer, Duplicates)
    levels = view(library.state, "duplicates")["levels"]
    found = {os.fsdecode(path) for one in answer.sets for path, _ in one.others}
    assert found == {path for path, its in levels.items() if its == level}


def test_failed_files_with_their_reason(library: Library) -> None:
    answer = ask(library, ListFailed())
    assert isinstance(answer, Failed)
    files = view(library.state, "processed")["files"]
    listed = {os.fsdecode(file.path): file.reason for file in answer.files}
    assert listed == {path: row["error"] for path, row in files.items() if row["status"] == "failed"} != {}


def test_show_says_what_the_json_files_say(library: Library) -> None:
    """Of every file, by every name."""
    files = view(library.state, "processed")["files"]
    duplicates = view(library.state, "duplicates")
    refined = view(library.state, "refined_groups")["refined_groups"]
    for name, row in files.items():
        answer = ask(library, Show(os.fsencode(name)))
        assert isinstance(answer, Shown)
        assert (answer.status, answer.size, answer.mtime_ns, answer.error) == (
            row["status"], row["size"], row["mtime_ns"], row["error"],
        )  # fmt: skip
        assert (answer.layout.hex() if answer.layout else None) == row["layout"]
        assert list(map(os.fsdecode, answer.links)) == duplicates["links"].get(name, [])
        if answer.weights is not None:
            assert name in refined[answer.weights.hex()]
        others = [os.fsdecode(path) for path, _ in answer.duplicates]
        if answer.kept is None:
            assert name not in duplicates["levels"]
        else:
            assert duplicates["duplicates"][os.fsdecode(answer.kept)] == others
            assert name in [os.fsdecode(answer.kept), *others]
    shown = ask(library, Show(path(library, "a.safetensors")))
    assert isinstance(shown, Shown)
    assert (shown.format, shown.layers) == ("safetensors", len(SPECS))


def test_names_that_are_not_utf8_are_found(library: Library) -> None:
    odd = os.path.join(os.fsencode(library.folder), ODD)
    answer = ask(library, Show(odd))
    assert isinstance(answer, Shown)
    assert answer.path == odd


@pytest.mark.parametrize("name", ["nothing", "../loras", "/dev/null"])
def test_what_is_not_in_the_catalogue_is_said(library: Library, name: str) -> None:
    answer = ask(library, Show(path(library, name)))
    assert isinstance(answer, Refusal)
    assert answer.code == "not-found"


def test_find_by_each_kind_of_hash(library: Library) -> None:
    """Layout and weight signatures and the digests of layers, whole and by prefix, in either case."""
    layers = random_weights(SPECS, 1)
    names = sorted(layers)
    digests = [blake3(layers[name][2]).digest() for name in names]
    same = {path(library, f"{name}.safetensors") for name in "abc"} | {path(library, os.fsdecode(ODD))}
    layout = next(iter(view(library.state, "groups")["groups"]))
    large = max(range(len(names)), key=lambda index: len(layers[names[index]][2]))
    for kind, wanted in (
        ("weights", blake3(b"".join(digests)).hexdigest()), ("layer", digests[large].hex()), ("layout", layout),
    ):  # fmt: skip
        for prefix in (wanted, wanted[:17].upper(), wanted[:12]):
            answer = ask(library, Find(prefix))
            assert isinstance(answer, Found)
            assert {(match.kind, match.hash) for match in answer.matches} == {(kind, wanted)}
            if kind != "layout":
                assert {match.path for match in answer.matches} == same


@pytest.mark.parametrize("prefix", ["", "abc", "xyzt", "0" * 65, "abcd efgh", "ａｂｃｄ", "12\n4"])
def test_what_is_no_hash_is_refused(library: Library, prefix: str) -> None:
    answer = ask(library, Find(prefix))
    assert isinstance(answer, Refusal)
    assert answer.code == "malformed"


def test_find_of_nothing_is_empty_and_says_what_is_not_looked_through(library: Library) -> None:
    answer = ask(library, Find("f" * 64))
    assert isinstance(answer, Found)
    assert answer.matches == []
    assert "set on_arrival = true in [hashes]" in answer.note


def test_pages_make_up_the_whole_list(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """In pages of one row each: nothing twice, nothing missing, groups and sets in parts."""
    whole: Any = ask(library, ListGroups())
    monkeypatch.setattr(pages, "PAGE_BYTES", 10)
    queries = Queries(str(library.state))
    parts = everything(queries, ListGroups())
    assert len(parts) == 7
    rows = [(group.signature, path) for page in parts for group in page.groups for path in group.paths]
    assert rows == [(group.signature, path) for group in whole.groups for path in group.paths]
    sets = everything(queries, ListDuplicates())
    assert sum(len(page.sets) for page in sets) == 4
    assert (
        sum(one.wasted_bytes for page in sets for one in page.sets)
        == view(library.state, "duplicates")["wasted_bytes"]
    )
    queries.close()


def test_a_list_goes_on_behind_its_cursor_when_its_pages_are_gone(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in a daemon that was started again meanwhile."""
    monkeypatch.setattr(pages, "PAGE_BYTES", 10)
    first = Queries(str(library.state))
    start: Any = decoded(first.answer(ListGroups()))
    everything_else = everything(first, ListGroups(start.cursor))
    first.close()
    second = Queries(str(library.state))
    assert everything(second, ListGroups(start.cursor)) == everything_else
    second.rest()
    assert everything(second, ListGroups(start.cursor)) == everything_else
    second.close()


@pytest.mark.parametrize("cursor", ["x", "AAAA", "ÿ", "a" * 5000, "kgGQ" * 3])
def test_cursors_of_nobody_are_refused(library: Library, cursor: str) -> None:
    answer = ask(library, ListGroups(cursor))
    assert isinstance(answer, Refusal | Groups)
    if isinstance(answer, Refusal):
        assert answer.code == "malformed"


def test_an_unknown_level_is_refused(library: Library) -> None:
    answer = ask(library, ListDuplicates("everything"))
    assert isinstance(answer, Refusal)
    assert answer.code == "malformed"


def test_without_a_catalogue_a_query_fails_and_recovers(library: Library, tmp_path: Path) -> None:
    """A typed refusal; when the catalogue is there, it is used."""
    state = tmp_path / "state"
    state.mkdir()
    with (
        serving(Library(library.folder, state), tmp_path / "run", config.Control()) as served,
        Line(served) as line,
    ):
        refused = line.ask(ListGroups())
        assert isinstance(refused, Refusal)
        assert refused.code == "failed"
        for name in os.listdir(library.state):
            if name.startswith("catalogue"):
                shutil.copy(library.state / name, state / name)
        assert isinstance(line.ask(ListGroups()), Groups)


def test_answers_over_the_socket_are_the_same(served: Served) -> None:
    with Line(served) as line:
        for query in (ListGroups(), ListDuplicates(), ListFailed(), Show(path(served.library, "a.safetensors"))):
            assert line.ask(query) == ask(served.library, query)
    assert json.loads((served.library.state / "groups.json").read_text())["generation"] >= 1


def test_a_list_that_takes_too_long_is_given_up_and_the_next_one_is_answered(tmp_path: Path) -> None:
    """The clock is looked at every 10,000 steps, so there have to be some rows."""
    catalog = Catalog(str(tmp_path))
    form = (None, None, None, "safetensors", None, None, 0.5, None, 0, 0)
    for number in range(1, 3001):
        catalog.files.save([Row(number, 1, number, 10, 20, 30, 40, "unique", *form)])
        catalog.names.save([(b"/r/%d.pt" % number, number, 1, None)])
    catalog.facts.refresh(range(1, 3001), ())
    catalog.close()
    queries = Queries(str(tmp_path), patience=0)
    refused = queries.answer(ListFiles("size>5 name!~x"))
    assert isinstance(refused, Refusal)
    assert refused.code == "malformed"
    assert "takes longer than 0 s" in refused.text
    assert isinstance(queries.answer(ListGroups()), msgspec.Raw)
    queries.close()
    patient = Queries(str(tmp_path))
    answer = patient.answer(ListFiles("size>5 name!~x"))
    assert isinstance(answer, Files)
    assert answer.total == 3000
    patient.close()
