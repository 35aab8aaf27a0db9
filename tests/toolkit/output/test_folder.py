"""A folder with several files is there whole or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from loracore.errors import FileError, UsageError
from lorakit.output import folder
from lorakit.output.folder import FolderDraft
from tests.toolkit.output.conftest import DISK

KIND = (b"config.json",)


@contextmanager
def made(path: Path, *, force: bool = False, text: bytes = b"{}") -> Iterator[FolderDraft]:
    with FolderDraft(os.fsencode(path), force=force, kind=KIND) as draft:
        weights = draft.whole(draft.draft(b"below/weights"))
        weights.write(b"weights", 0)
        draft.write(b"config.json", text)
        yield draft


def holds(path: Path) -> dict[str, bytes]:
    return {os.fspath(each.relative_to(path)): each.read_bytes() for each in path.rglob("*") if each.is_file()}


WHOLE = {"config.json": b"{}", "below/weights": b"weights"}


def test_a_folder_appears_with_all_its_files(tmp_path: Path) -> None:
    """Until then it is hidden, and has no weights."""
    with made(tmp_path / "a") as draft:
        (hidden,) = os.listdir(tmp_path)
        assert hidden.startswith(".lorad-")
        assert not [name for _, _, names in os.walk(tmp_path) for name in names if name == "weights"]
        draft.finish()
        assert holds(tmp_path / "a") == WHOLE
    assert os.listdir(tmp_path) == ["a"]


def test_leaving_without_finishing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), made(tmp_path / "a"):
        raise RuntimeError
    assert os.listdir(tmp_path) == []


@pytest.fixture(params=["renameat2", "rename"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Also as where the kernel or the file system has no renameat2."""
    if request.param == "rename":
        monkeypatch.setattr(folder, "_libc", None)
    return str(request.param)


def test_a_folder_of_its_kind_is_replaced_when_told_so(kernel: str, tmp_path: Path) -> None:
    """With all that was in it; nothing of it stays."""
    for text in (b"{}", b"[]"):
        with made(tmp_path / "a", force=True, text=text) as draft:
            draft.finish()
        (tmp_path / "a" / "old").touch()
    assert holds(tmp_path / "a") == {**WHOLE, "config.json": b"[]", "old": b""}
    with pytest.raises(UsageError, match="--force"), made(tmp_path / "a"):
        pass
    assert os.listdir(tmp_path) == ["a"]


def test_what_is_no_such_folder_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name, word in (("home", "without config.json"), ("file", "no folder")):
        with pytest.raises(UsageError, match=word), made(tmp_path / name, force=True):
            pass
    assert (tmp_path / "home" / "letter").read_text() == "mine"
    assert (tmp_path / "file").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    with made(tmp_path / "empty", force=True) as draft:
        draft.finish()
    assert holds(tmp_path / "empty") == WHOLE
    with pytest.raises(FileError, match="make that folder first"), made(tmp_path / "none" / "a"):
        pass


@pytest.mark.parametrize("empty", [False, True])
def test_what_comes_meanwhile_is_not_replaced(kernel: str, empty: bool, tmp_path: Path) -> None:
    """Not even an empty folder, which rename(2) would replace in silence."""
    with made(tmp_path / "a") as draft:
        (tmp_path / "a").mkdir()
        if not empty:
            (tmp_path / "a" / "letter").write_text("theirs")
        with pytest.raises(UsageError, match="meanwhile"):
            draft.finish()
    assert holds(tmp_path / "a") == ({} if empty else {"letter": b"theirs"})
    assert os.listdir(tmp_path) == ["a"]


KILLED = """
import sys
from lorakit.output.folder import FolderDraft
with FolderDraft(sys.argv[1].encode()) as draft:
    for number in range(3):
        weights = draft.whole(draft.draft(b"model-%d.safetensors" % number))
        weights.reserve(1 << 20)
        weights.write(b"x" * 4096, 0)
    print("writing", flush=True)
    sys.stdin.read()
"""


def test_a_killed_process_leaves_no_weights(tmp_path: Path) -> None:
    """Nothing under the name, and in the hidden folder nothing."""
    command = [sys.executable, "-c", KILLED, os.fspath(tmp_path / "a")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        process.send_signal(signal.SIGKILL)
    (hidden,) = os.listdir(tmp_path)
    assert hidden.startswith(".lorad-")
    assert os.listdir(tmp_path / hidden) == []


def test_what_a_killed_process_left_goes_with_the_next(tmp_path: Path) -> None:
    """But not the hidden folder of one that is still at it, nor what only looks like one."""
    (tmp_path / ".lorad-0123.tmp").mkdir()
    command = [sys.executable, "-c", KILLED, os.fspath(tmp_path / "a")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        before = set(os.listdir(tmp_path))
        with made(tmp_path / "b") as draft:
            draft.finish()
        assert set(os.listdir(tmp_path)) == {*before, "b"}
        process.send_signal(signal.SIGKILL)
    with made(tmp_path / "c") as draft:
        draft.finish()
    assert set(os.listdir(tmp_path)) == {".lorad-0123.tmp", "b", "c"}


def test_a_full_disk_is_one_clear_line(disk: Path) -> None:
    """That names the file as it would be, not the hidden one; and the disk is empty again."""
    with (
        pytest.raises(FileError, match=r"disk/a/below/weights: it cannot be written: no space left.*make room"),
        FolderDraft(os.fsencode(disk / "a")) as draft,
    ):
        draft.draft(b"below/weights").reserve(2 * DISK)
    assert os.listdir(disk) == []
