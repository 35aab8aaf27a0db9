"""What a process says of its edits: to a daemon that hears it, and to nobody at no cost."""

from __future__ import annotations

import queue
import socket
from pathlib import Path

import pytest

from loracore.identity import Edited, Identity
from loractl import edits
from loractl.address import SOCKET
from loractl.edits import EditNotes
from tests.daemon.control.serving import SECONDS, Served
from tests.toolkit.jobs.edit.files import lora

ONE = Edited(b"/a", Identity(1, 2, 3, 4, 5), Identity(1, 3, 3, 4, 6))


def test_a_daemon_hears_of_them(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SOCKET, served.socket)
    served.held = queue.Queue()
    with EditNotes() as notes:
        for _ in range(3):
            notes.note([ONE])
            assert list(served.held.get(timeout=SECONDS).request.files) == [ONE]


@pytest.mark.parametrize("there", ["nothing", "tcp://localhost:1", "tcp://nonsense", "silence", "ends"])
def test_what_does_not_answer_is_passed_over(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str
) -> None:
    """No error, and it is asked no more: also a socket that nobody reads, and a daemon that ends meanwhile."""
    monkeypatch.setattr(edits, "_PATIENCE", 0.2)
    place = {"ends": served.socket, "nothing": str(tmp_path / "none.sock"), "silence": str(tmp_path / "s")}
    monkeypatch.setenv(SOCKET, place.get(there, there))
    served.held = queue.Queue()
    with socket.socket(socket.AF_UNIX) as silent, EditNotes() as notes:
        silent.bind(str(tmp_path / "s"))
        silent.listen()
        if there == "ends":
            notes.note([ONE])
            served.server.stop()
        notes.note([ONE])
        monkeypatch.setenv(SOCKET, served.socket)
        notes.note([ONE])
    assert served.held.qsize() == (there == "ends")


def test_a_job_here_says_it(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`loractl edit` of many files sends several at once, each of them as it was and as it is."""
    from tests.integration.scanning import loractl

    served.held = queue.Queue()
    paths = [lora(tmp_path / f"{number}.safetensors", seed=number) for number in range(70)]
    before = {path: Identity.of(path.stat()) for path in paths}
    environment = {SOCKET: served.socket, "XDG_STATE_HOME": str(tmp_path / "edits")}
    ended = loractl("edit", *paths, "--title", "Ink", "--apply", environment=environment)
    assert ended.returncode == 0, ended.stderr
    said: dict[bytes, Edited] = {}
    messages = served.held.qsize()
    for _ in range(messages):
        said.update((file.path, file) for file in served.held.get().request.files)
    assert messages < len(paths)
    assert said == {bytes(path): Edited(bytes(path), before[path], Identity.of(path.stat())) for path in paths}
