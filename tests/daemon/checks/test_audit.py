"""The audit finds what differs and nothing else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from loracore.config import Watch
from loracore.control import Difference
from lorad.checks.audit import audit
from tests.daemon.control.serving import Library, library
from tests.daemon.watch.conftest import mounted

__all__ = ["library"]


@pytest.fixture
def copy(library: Library, tmp_path: Path) -> Library:
    """A library of one's own: its catalogue says where the shared files are, so only the state is copied."""
    state = tmp_path / "state"
    shutil.copytree(library.state, state)
    return Library(library.folder, state)


def run(library: Library, *roots: Path, sleep: Callable[[float], None] = lambda _: None) -> list[Difference]:
    where = tuple(map(str, roots or (library.folder,)))
    return audit(str(library.state), Watch(roots=where), sleep=sleep).differences


def test_an_idle_library_has_no_differences(library: Library) -> None:
    answer = audit(str(library.state), Watch(roots=(str(library.folder),)))
    assert answer.files == 9
    assert answer.differences == []


def test_the_disk_is_compared_by_name_and_identity(library: Library) -> None:
    """Missing, unknown and changed files are told, each with its name; undone, nothing is."""
    gone, changed, new = (library.folder / name for name in ("f.safetensors", "notes.txt", "new.safetensors"))
    before = os.stat(changed)
    hidden = library.folder.parent / "hidden"
    try:
        gone.rename(hidden)
        new.write_bytes(b"x")
        os.utime(changed, ns=(1, 1))
        found = {os.fsdecode(one.path): one.what for one in run(library)}
        assert found == {str(gone): "missing", str(new): "unknown", str(changed): "changed"}
    finally:
        hidden.rename(gone)
        new.unlink()
        os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))
    # Renaming and setting times changes ctime, so these files are not those that were read.
    assert {one.what for one in run(library)} == {"changed"}


def test_what_settles_meanwhile_is_no_difference(copy: Library) -> None:
    """A file that is written while the audit looks: it looks again."""
    before = {one.path for one in run(copy)}
    new = copy.folder / "settling.safetensors"
    new.write_bytes(b"x")
    slept = []

    def settle(seconds: float) -> None:
        slept.append(seconds)
        new.unlink(missing_ok=True)

    try:
        assert {one.path for one in run(copy, sleep=settle)} == before
        assert slept
    finally:
        new.unlink(missing_ok=True)


def test_what_has_just_changed_is_said_to_have(copy: Library) -> None:
    new = copy.folder / "young.safetensors"
    new.write_bytes(b"x")
    try:
        (young,) = [one for one in run(copy) if one.what == "unknown"]
        assert "not have settled" in young.text
    finally:
        new.unlink()


def test_a_root_that_is_not_there_is_one_difference(copy: Library) -> None:
    """A disk that is not mounted is not a mass deletion."""
    missing = copy.folder.parent / "unmounted"
    assert [one.what for one in run(copy, missing) if one.path == os.fsencode(missing)] == ["missing"]


def test_files_on_a_disk_that_is_not_mounted_are_one_difference(copy: Library) -> None:
    """Likewise those in a folder that something else is mounted over."""
    with mounted(os.fsencode(copy.folder)):
        (found,) = [one for one in run(copy) if not one.what.endswith(".json")]
    assert found.path == os.fsencode(copy.folder)
    assert "not mounted" in found.text
    assert found.text.endswith(": 9")


def test_what_is_left_out_is_not_looked_at(copy: Library) -> None:
    before = run(copy)
    new = copy.folder / ".Trash-0" / "new.safetensors"
    new.parent.mkdir()
    new.write_bytes(b"x")
    try:
        assert run(copy) == before
    finally:
        shutil.rmtree(new.parent)


def test_files_of_a_folder_that_is_not_watched_any_more_are_stale(copy: Library, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert {one.what for one in run(copy, elsewhere)} == {"stale"}


@pytest.mark.parametrize(
    ("name", "spoil", "word"),
    [
        ("duplicates.json", lambda text: text.replace("safetensors", "safetensor", 1), "line"),
        ("groups.json", lambda text: text[:-20], "not a JSON file"),
        ("processed.json", lambda text: text.replace('"generation": 1', '"generation": 77'), "generation 77"),
        ("statistics.json", lambda text: "[]", "not a JSON file"),
        ("refined_groups.json", lambda text: None, "cannot be read"),
    ],
)
def test_json_files_are_compared_with_the_catalogue(
    copy: Library, name: str, spoil: Callable[[str], str | None], word: str
) -> None:
    """One that does not parse, lags behind, says otherwise or is not there."""
    file = copy.state / name
    spoilt = spoil(file.read_text())
    if spoilt is None:
        file.unlink()
    else:
        file.write_text(spoilt)
    found = [one for one in run(copy) if one.what.endswith(".json")]
    assert [one.what for one in found] == [name]
    assert word in found[0].text


def test_only_the_moment_of_writing_may_differ(copy: Library) -> None:
    for file in copy.state.glob("*.json"):
        file.write_text(file.read_text().replace('"updated": "20', '"updated": "19'))
    assert [one for one in run(copy) if one.what.endswith(".json")] == []


def test_differences_fit_into_an_answer(copy: Library, tmp_path: Path) -> None:
    """What does not fit is counted."""
    answer = audit(str(copy.state), Watch(roots=(str(tmp_path),)), sleep=lambda _: None, room=300)
    assert len(answer.differences) >= 1
    assert len(answer.differences) + answer.omitted >= 9
