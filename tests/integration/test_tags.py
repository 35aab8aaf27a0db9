"""`loractl tag` against a real daemon: what users say of a model stays with its weights, wherever they go."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from loracore.errors import RefusedError
from loracore.paths import CATALOGUE
from loractl import Client
from tests.builders.architectures import llm, sd15
from tests.builders.weights import random_weights
from tests.builders.write import header, write_peft_folder, write_safetensors
from tests.integration.running import Running
from tests.integration.test_list import loractl, names

SECONDS = 60
SPECS = sd15(4, width=8, every=6)


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Two files of one layout, the same twice, and an adapter folder."""
    root = tmp_path / "library"
    (root / "old").mkdir(parents=True)
    for number in (1, 2):
        write_safetensors(str(root / f"{number}.safetensors"), random_weights(SPECS, number, alpha=2))
    write_safetensors(str(root / "old/same.safetensors"), random_weights(sd15(8, width=8, every=6), 3))
    shutil.copy(root / "old/same.safetensors", root / "copy.safetensors")
    write_peft_folder(str(root / "chat"), random_weights(llm(4), 4), rank=4, targets=["q_proj"], lora_alpha=8)
    return root


@pytest.fixture
def running(tmp_path: Path, library: Path) -> Iterator[Running]:
    with Running(tmp_path, [library]) as daemon:
        daemon.settle()
        yield daemon


def own(running: Running, path: Path) -> list[str]:
    with running.client() as client:
        return list(client.show(path).own)


def until_hashed(running: Running, path: Path) -> None:
    """Wait until it is known by its data."""
    with running.client() as client, client.events(["hashed"]) as events:
        client.wait(SECONDS)
        while not client.show(path).hashes:
            events.next(SECONDS)


def tag(running: Running, path: Path, *tags: str, note: str | None = None) -> None:
    with running.client() as client:
        (told,) = client.tag([path], add=tags, note=note)
    assert not told.refused


def test_files_are_found_by_what_users_say_of_them(running: Running, library: Path) -> None:
    first = str(library / "1.safetensors")
    done = loractl(
        running, "tag", first, str(library / "chat"), "--add", "Good one", "--add", "x", "--note", "Use 0.6"
    )
    assert (done.returncode, "Good one, x" in done.stdout) == (0, True)
    assert names(running, "own=good*") == ["1.safetensors", "adapter_model.safetensors"]
    for expression in (
        'tag="Good one"',
        "tag~good",
        "note~use",
        "good",
        "own=x note=use*",
        "own!=y name=1* own=x",
    ):
        assert "1.safetensors" in names(running, expression), expression
    assert "1.safetensors" not in names(running, "own!=x")
    done = loractl(running, "tag", first, "--remove", "X", "--json")
    assert json.loads(done.stdout) == {"files": [{"path": first, "tags": ["Good one"], "note": "Use 0.6"}]}
    with running.client() as client:
        assert (client.tags().tags, client.tags().away) == ({"Good one": 2, "x": 1}, 0)
        shown = client.show(first)
        assert (shown.own, shown.note) == (("Good one",), "Use 0.6")
    row = loractl(running, "list", "own=*", "--columns", "name,own,note").stdout
    assert "Good one, x" in row
    done = loractl(running, "tag", "--where", "own=*", "--remove", "good one", "--remove", "x", "--note", "")
    assert done.returncode == 0
    assert names(running, "own=*") == []
    with running.client() as client:
        assert client.tags().tags == {}


def test_what_is_said_is_of_all_files_of_the_weights(running: Running, library: Path) -> None:
    tag(running, library / "copy.safetensors", "good")
    assert own(running, library / "old/same.safetensors") == ["good"]
    shutil.copy(library / "copy.safetensors", library / "another.safetensors")
    shutil.copy(library / "1.safetensors", library / "other.safetensors")
    running.settle()
    assert own(running, library / "another.safetensors") == ["good"]
    assert own(running, library / "other.safetensors") == []


def rename(library: Path, file: Path) -> Path:
    return file.rename(library / "old/renamed.safetensors")


def copy_and_remove(library: Path, file: Path) -> Path:
    """As `mv` does to another file system: another inode, and it is not there in between."""
    away = library.parent / "away.safetensors"
    shutil.copyfile(file, away)
    file.unlink()
    return Path(shutil.copyfile(away, library / "old/again.safetensors"))


def edit(library: Path, file: Path) -> Path:
    command = [sys.executable, "-m", "loractl.cli", "edit", str(file), "--title", "Another", "--apply"]
    subprocess.run(command, check=True, env={**os.environ, "XDG_STATE_HOME": str(library.parent / "edits")})
    return file


@pytest.mark.parametrize("move", [rename, copy_and_remove, edit])
@pytest.mark.parametrize("stopped", [False, True])
def test_it_outlives_moves(
    running: Running, library: Path, move: Callable[[Path, Path], Path], stopped: bool
) -> None:
    """With the daemon, and while it is stopped."""
    file = library / "1.safetensors"
    tag(running, file, "good", note="a note")
    until_hashed(running, file)
    if stopped:
        running.stop()
    moved = move(library, file)
    if stopped:
        running.start()
    running.settle()
    until_hashed(running, moved)
    assert own(running, moved) == ["good"]
    assert own(running, library / "2.safetensors") == []
    with running.client() as client:
        assert client.tags().tags == {"good": 1}


def test_it_comes_back_with_its_model(running: Running, library: Path) -> None:
    """Others of its layout that come meanwhile are looked at whole, and are not it."""
    file, kept = library / "1.safetensors", library.parent / "kept.safetensors"
    shutil.copyfile(file, kept)
    tag(running, file, "good")
    until_hashed(running, file)
    file.unlink()
    running.settle()
    with running.client() as client:
        assert client.tags().away == 1
    stranger = write_safetensors(str(library / "stranger.safetensors"), random_weights(SPECS, 5, alpha=2))
    until_hashed(running, Path(stranger))
    assert own(running, Path(stranger)) == []
    shutil.copyfile(kept, library / "back.safetensors")
    until_hashed(running, library / "back.safetensors")
    assert own(running, library / "back.safetensors") == ["good"]
    with running.client() as client:
        assert client.tags().away == 0


def test_other_weights_at_the_same_place_are_not_it(running: Running, library: Path) -> None:
    """Not even where they are written into the same inode, with its size and time."""
    file = library / "1.safetensors"
    tag(running, file, "good")
    until_hashed(running, file)
    before = file.stat()
    content = (library / "2.safetensors").read_bytes()
    assert len(content) == before.st_size
    with file.open("r+b") as opened:
        opened.write(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    running.settle()
    until_hashed(running, file)
    assert own(running, file) == []
    assert own(running, library / "2.safetensors") == []


@pytest.mark.parametrize("lost", [(), (CATALOGUE,)])
def test_what_was_answered_is_kept_whatever_is_killed(
    running: Running, library: Path, lost: tuple[str, ...]
) -> None:
    """Also where the catalogue is lost, which is made anew."""
    tag(running, library / "1.safetensors", "good")
    tag(running, library / "chat", "talks")
    running.stop(signal.SIGKILL)
    for name in lost:
        for suffix in ("", "-wal", "-shm"):
            (running.state / (name + suffix)).unlink(missing_ok=True)
    running.start()
    running.settle()
    assert names(running, "own=good") == ["1.safetensors"]
    assert names(running, "own=talks") == ["adapter_model.safetensors"]


def test_what_is_said_of_two_that_turn_out_to_be_one_is_joined(running: Running, library: Path) -> None:
    file, kept = library / "1.safetensors", library.parent / "kept.safetensors"
    shutil.copyfile(file, kept)
    tag(running, file, "good", note="first")
    until_hashed(running, file)
    file.unlink()
    running.settle()
    with running.client() as client:
        # Before it is known by its data, most often.
        shutil.copyfile(kept, library / "back.safetensors")
        client.wait(SECONDS)
        client.tag([library / "back.safetensors"], add=["late"])
    until_hashed(running, library / "back.safetensors")
    assert sorted(own(running, library / "back.safetensors")) == ["good", "late"]
    with running.client() as client:
        assert client.tags().tags == {"good": 1, "late": 1}


def test_only_what_is_tagged_is_hashed(running: Running, library: Path) -> None:
    tag(running, library / "1.safetensors", "good")
    until_hashed(running, library / "1.safetensors")
    with running.client() as client:
        assert not client.show(library / "2.safetensors").hashes
        assert not client.status().hashing.on_arrival


def test_bad_input_is_refused_by_name(running: Running, library: Path) -> None:
    (library / "bad.safetensors").write_bytes(header([])[:5])
    running.settle()
    for arguments, reason in (
        (["/nowhere", "--add", "x"], "it is in no watched folder, not seen yet, or put aside"),
        ([str(library / "bad.safetensors"), "--add", "x"], "bad.safetensors"),
        ([str(library), "--add", "x"], "--where dir=FOLDER"),
        (["--add", "x"], "--where"),
        ([str(library / "1.safetensors"), "--add", " x"], "spaces"),
        ([str(library / "1.safetensors"), "--add", "x\ny"], "a line break or a control character"),
        ([str(library / "1.safetensors"), "--add", "x" * 101], "over 100 characters"),
        ([str(library / "1.safetensors"), "--note", "\a"], "plain text"),
        (["--where", "rnak>3", "--add", "x"], "no field 'rnak'"),
    ):
        done = loractl(running, "tag", *arguments)
        assert (done.returncode, reason in done.stderr) == (2, True), (arguments, done.stderr)
    with running.client() as client:
        with pytest.raises(RefusedError, match="101 tags, more than 100"):
            client.tag([library / "1.safetensors"], add=[f"tag {number}" for number in range(101)])
        assert client.tags().tags == {}


def test_many_files_are_tagged_in_requests_of_a_bounded_size(running: Running, library: Path) -> None:
    for number in range(450):
        (library / f"{'long name ' * 12}{number}.safetensors").hardlink_to(library / "1.safetensors")
    running.settle()
    done = loractl(running, "tag", "--where", "name~long", "--add", "many", "--json")
    assert len(json.loads(done.stdout)["files"]) == 450
    assert len(names(running, "own=many")) == 451


def test_a_damaged_file_of_tags_costs_the_tags_alone(running: Running, library: Path) -> None:
    tag(running, library / "1.safetensors", "good")
    running.stop()
    (running.state / "tags.sqlite").write_bytes(b"no database" * 1000)
    running.start()
    running.settle()
    with running.client() as client:
        _refused(client, library / "1.safetensors")
        assert len(list(client.list())) == 5
    assert (running.state / "tags.sqlite").read_bytes().startswith(b"no database")


def test_one_of_another_time_says_nothing_of_other_weights(running: Running, library: Path) -> None:
    """It is put back from a backup, and others were tagged meanwhile."""
    first, second = library / "1.safetensors", library / "2.safetensors"
    database, backup = running.state / "tags.sqlite", running.state / "backup"
    tag(running, first, "one", note="a note")
    until_hashed(running, first)
    running.stop()
    database.rename(backup)
    running.start()
    running.settle()
    tag(running, second, "two")
    until_hashed(running, second)
    running.stop()
    backup.rename(database)
    for _ in range(2):
        running.start()
        running.settle()
        assert (own(running, first), own(running, second)) == (["one"], [])
        assert (names(running, "own=one"), names(running, "own=two")) == (["1.safetensors"], [])
        running.stop()


def test_a_digest_that_was_not_saved_is_taken_from_the_catalogue(running: Running, library: Path) -> None:
    """As after a kill between the two writes: without it, a move to another disk would lose the tag."""
    first = library / "1.safetensors"
    tag(running, first, "one")
    until_hashed(running, first)
    running.stop()
    with closing(sqlite3.connect(running.state / "tags.sqlite", isolation_level=None)) as database:
        (before,) = database.execute("SELECT digests FROM models").fetchone()
        database.execute("UPDATE models SET digests = x''")
        running.start()
        running.settle()
        running.stop()
        assert before
        assert database.execute("SELECT digests FROM models").fetchall() == [(before,)]


def test_who_has_it_open_stops_nothing_but_tagging(running: Running, library: Path) -> None:
    with closing(sqlite3.connect(running.state / "tags.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with running.client() as client:
            with pytest.raises(RefusedError, match=r"nothing was kept: .*tags\.sqlite: .*locked"):
                client.tag([library / "1.safetensors"], add=["x"])
            assert len(list(client.list())) == 5
            assert not running.log.read_text().count("catalogue.sqlite")
    assert own(running, library / "1.safetensors") == []
    tag(running, library / "1.safetensors", "x")
    assert names(running, "own=x") == ["1.safetensors"]


def test_what_could_not_be_committed_is_in_the_list_later(running: Running, library: Path) -> None:
    """The catalogue is locked when something is said, and begun anew from what is written down."""
    tag(running, library / "1.safetensors", "old")
    with closing(sqlite3.connect(running.state / CATALOGUE, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        tag(running, library / "1.safetensors", "new")
    running.settle_when_it_can()
    assert own(running, library / "1.safetensors") == ["old", "new"]
    assert names(running, "own=new") == ["1.safetensors"]


def _refused(client: Client, path: Path) -> None:
    with pytest.raises(RefusedError, match=r"tags\.sqlite: .*move it away"):
        client.tag([path], add=["x"])
