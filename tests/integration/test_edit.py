"""An edited file beside a running daemon: it is the same weights, and the daemon can be asked for an edit too."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import lorakit
from loractl import Client
from tests.integration.running import Running
from tests.integration.scanning import view
from tests.toolkit.jobs.edit.files import left, lora


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


def levels(daemon: Running) -> set[str]:
    return set(view(daemon.state, "duplicates")["levels"].values())


def by_daemon(client: Client, path: Path) -> None:
    found = client.edit((str(path).encode(),), title="of the daemon", apply=True)
    assert [file.state for file in found.files] == ["done"]
