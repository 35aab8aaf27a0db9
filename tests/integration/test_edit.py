"""An edited file beside a running daemon: it is the same weights, and the daemon can be asked for an edit too."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import lorakit
from loracore.control import ActionTaken
from loracore.identity import Edited, Identity
from loracore.jobs.edit import EditParameters
from loracore.jobs.job import Alone
from loractl import Client
from lorakit.jobs.edit.job import JOB
from tests.integration.running import Running
from tests.integration.scanning import loractl, view
from tests.toolkit.jobs.edit.files import left, lora

#: More than one batch of an edit.
PAIRS = 40


def test_an_edited_file_is_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its header alone differs: a duplicate by its tensors, and after undo by all bytes again."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "edits"))
    folder = tmp_path / "loras"
    folder.mkdir()
    one, two = lora(folder / "a.safetensors"), folder / "b.safetensors"
    shutil.copyfile(one, two)
    daemon = Running(tmp_path, [folder])
    with daemon, daemon.client() as client:
        client.wait()
        assert levels(daemon) == {"file"}
        found = lorakit.edit(two, title="Ink", apply=True)
        client.wait()
        assert levels(daemon) == {"tensors"}
        lorakit.edit(undo=found["id"])
        client.wait()
        assert levels(daemon) == {"file"}
        by_daemon(client, two)
        client.wait()
        assert levels(daemon) == {"tensors"}
    assert not left(folder)


def test_an_edit_reads_no_data_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many files, by the command, its undo and the daemon's own job: headers alone are read."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "edits"))
    folder = tmp_path / "loras"
    folder.mkdir()
    for seed in range(PAIRS):
        path = lora(folder / f"a{seed}.safetensors", seed=seed)
        shutil.copy2(path, folder / f"b{seed}.safetensors")
    edited = sorted(folder.glob("b*"))
    # An edit says it within a second, and the daemon looks later.
    with Running(tmp_path, [folder], settle_seconds=3.0) as daemon, daemon.client() as client:
        client.wait()
        sets, read = whole_sets(client), data_read(daemon)
        assert len(sets) == PAIRS
        edit = command(daemon, tmp_path)
        done = json.loads(edit(*edited, "--title", "Ink", "--apply"))
        for again in (
            lambda: edit("--undo", done["id"]),
            lambda: by_daemon(client, *edited),
            lambda: lorakit.edit(edited, title="said to nobody", apply=True),
        ):
            client.wait()
            assert (whole_sets(client), data_read(daemon)) == (sets, read)
            again()
        client.wait()
        assert whole_sets(client) == sets
        assert data_read(daemon) > read


def test_an_edit_may_be_said_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read as a stranger has its digests again: of it and a new duplicate, that one alone is read."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "edits"))
    folder = tmp_path / "loras"
    folder.mkdir()
    one, two = lora(folder / "a.safetensors"), folder / "b.safetensors"
    shutil.copyfile(one, two)
    with Running(tmp_path, [folder]) as daemon, daemon.client() as client:
        client.wait()
        both = data_read(daemon)
        for is_said, files in ((True, 1), (False, 2)):
            two.unlink()
            client.wait()
            said = list[Edited]()
            parameters = EditParameters((os.fsencode(one),), title=f"Ink {files}", apply=True)
            JOB.run(parameters, Alone(edited=said.extend))
            client.wait()
            client.note_edits(said if is_said else [])
            client.wait()
            read = data_read(daemon)
            shutil.copyfile(one, tmp_path / "part").rename(two)
            client.wait()
            assert levels(daemon) == {"file"}
            assert 2 * (data_read(daemon) - read) == files * both


def test_an_edited_file_is_no_newcomer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was there stays when it is edited, and what is hidden for a file stays hidden when that one is."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "edits"))
    folder = tmp_path / "loras"
    folder.mkdir()
    one, two, new = (folder / f"{name}.safetensors" for name in ("a", "b", "new"))
    lora(one)
    shutil.copy2(one, two)
    daemon = Running(tmp_path, [folder], tables="[dedupe]\naction = 'delete'\n")
    with daemon, daemon.client() as client, client.events(["action"]) as events:
        client.wait()
        edit = command(daemon, tmp_path)
        for name in (one, two):
            edit(name, "--title", "Ink", "--apply")
            client.wait()
        shutil.copyfile(one, tmp_path / "part").rename(new)
        event = next(events).event
        assert isinstance(event, ActionTaken)
        assert event.path == os.fsencode(new)
        edit(one, two, "--title", "Oil", "--apply")
        client.wait()
        assert client.status().hidden.files == 1
        assert [path.exists() for path in (one, two, new)] == [True, True, False]
        assert [entry.path for entry in client.history()] == [os.fsencode(new)]


@pytest.mark.parametrize("is_hidden", [False, True])
def test_a_false_word_is_found_out_by_the_comparison(tmp_path: Path, is_hidden: bool) -> None:
    """What is kept has other weights than was said: both are read anew, and what is hidden for it returns."""
    folder = tmp_path / "loras"
    folder.mkdir()
    kept, new = folder / "a.safetensors", folder / "new.safetensors"
    lora(kept)
    shutil.copyfile(kept, tmp_path / "same")
    policy = "delete" if is_hidden else "report"
    with (
        Running(tmp_path, [folder], tables=f"[dedupe]\naction = '{policy}'\n") as daemon,
        daemon.client() as client,
        client.events(["action", "given-back"]) as events,
    ):
        client.wait()
        shutil.copyfile(kept, tmp_path / "part").rename(new)
        if is_hidden:
            assert isinstance(next(events).event, ActionTaken)
        client.wait()
        before = Identity.of(kept.stat())
        lora(tmp_path / "other", seed=7).rename(kept)
        client.note_edits([Edited(os.fsencode(kept), before, Identity.of(kept.stat()))])
        client.wait()
        if is_hidden:
            assert [file.name for file in folder.iterdir() if file.name.startswith(".new")]
            assert client.free().refused == 1
            while not new.exists():
                next(events)
        else:
            assert len(whole_sets(client)) == 1
            assert client.apply_dedupe("delete").refused == 1
        client.wait()
        assert whole_sets(client) == set()
        assert new.read_bytes() == (tmp_path / "same").read_bytes()


def command(daemon: Running, folder: Path) -> Callable[..., str]:
    """`loractl edit` of a user of this daemon, and what it prints for programs."""
    environment = {"XDG_STATE_HOME": str(folder / "edits"), "LORAD_SOCKET": str(daemon.runtime / "control.sock")}

    def edit(*arguments: object) -> str:
        ended = loractl("edit", "--json", *arguments, environment=environment)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    return edit


def whole_sets(client: Client) -> set[frozenset[bytes]]:
    return {frozenset([one.kept, *(path for path, _ in one.others)]) for one in client.duplicates()}


def data_read(daemon: Running) -> int:
    """Bytes of layers, and of what lies between them."""
    stages = view(daemon.state, "statistics")["stages"]
    return sum(stages[stage]["bytes"] for stage in ("samples", "layers", "residue"))


def levels(daemon: Running) -> set[str]:
    return set(view(daemon.state, "duplicates")["levels"].values())


def by_daemon(client: Client, *paths: Path) -> None:
    found = client.edit(tuple(map(os.fsencode, paths)), title="of the daemon", apply=True)
    assert {file.state for file in found.files} == {"done"}
