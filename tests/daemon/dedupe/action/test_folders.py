"""Two folders are the same where all their names are, and all bytes of all their files (SPEC section 5)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lorad.dedupe.action import folders
from lorad.dedupe.action.folders import same_folders
from lorad.dedupe.action.order import Progress, silent
from tests.builders.real import by_peft

BIG = 3 << 20


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """What PEFT writes, with something below it, twice."""
    one = tmp_path / "one"
    by_peft(str(one))
    (one / "samples").mkdir()
    (one / "samples/\udcff.png").write_bytes(os.urandom(BIG))
    (one / "empty").mkdir()
    (one / "empty.txt").touch()
    shutil.copytree(one, tmp_path / "other")
    return one, tmp_path / "other"


def why(pair: tuple[Path, Path], progress: Progress = silent) -> str:
    opened = [os.open(folder, os.O_RDONLY | os.O_DIRECTORY) for folder in pair]
    before = set(os.listdir("/proc/self/fd"))
    try:
        return same_folders(*opened, progress=progress)
    finally:
        assert len(os.listdir("/proc/self/fd")) == len(before)
        for fd in opened:
            os.close(fd)


def test_equal_folders_are_the_same(pair: tuple[Path, Path]) -> None:
    """Times and modes are not looked at, nor what an action left there on its way."""
    (pair[1] / "README.md").chmod(0o600)
    os.utime(pair[1] / "README.md", (1, 1))
    (pair[1] / ".lorad-0af3-12.tmp").touch()
    (pair[0] / "samples/.lorad-0af3-12.tmp").touch()
    seen: list[tuple[int, int]] = []
    assert why(pair, lambda done, total: seen.append((done, total))) == ""
    total = sum(path.stat().st_size for path in pair[1].rglob("[!.]*") if path.is_file())
    assert seen[-1] == (total, total)


def test_a_name_of_the_same_inode_is_not_read(pair: tuple[Path, Path]) -> None:
    for path in [path for path in pair[0].rglob("*") if path.is_file()]:
        other = pair[1] / path.relative_to(pair[0])
        other.unlink()
        os.link(path, other)
    seen: list[int] = []
    assert why(pair, lambda done, total: seen.append(done)) == ""
    assert seen == []


def altered(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))


def linked(path: Path) -> None:
    path.unlink()
    path.symlink_to(f"../{path.parent.parent.name}/nowhere")


def piped(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("side", [0, 1], ids=["kept", "gone"])
@pytest.mark.parametrize(
    ("change", "name", "reason"),
    [
        (altered, "adapter_model.safetensors", "adapter_model.safetensors has other bytes"),
        (altered, "samples/\udcff.png", r"samples/\xff.png has other bytes"),
        (lambda path: os.truncate(path, 1), "adapter_config.json", "adapter_config.json has other bytes"),
        (linked, "adapter_config.json", "adapter_config.json is not a regular file in both"),
        (piped, "adapter_config.json", "adapter_config.json is not a regular file in both"),
        (Path.unlink, "empty.txt", "empty.txt is "),
        (Path.rmdir, "empty", "empty is "),
        (Path.touch, "samples/new", "samples/new is "),
        (Path.mkdir, "new", "new is "),
        (Path.touch, ".hidden", ".hidden is "),
        (Path.touch, ".README.md.aside-of-mine", ".README.md.aside-of-mine is "),
    ],
)
def test_what_differs_is_named(
    pair: tuple[Path, Path], side: int, change: Callable[[Path], None], name: str, reason: str
) -> None:
    change(pair[side] / name)
    assert why(pair).startswith(reason)


def test_a_link_is_no_folder(pair: tuple[Path, Path]) -> None:
    (pair[1] / "samples").rename(pair[1].parent / "elsewhere")
    (pair[1] / "samples").symlink_to("../elsewhere")
    assert why(pair) == "samples is not a regular file in both"


def test_a_folder_is_not_the_same_as_itself(pair: tuple[Path, Path]) -> None:
    assert why((pair[0], pair[0])) == "both are one folder"


def test_what_changes_meanwhile_is_not_the_same(pair: tuple[Path, Path]) -> None:
    picture = pair[1] / "samples/\udcff.png"

    def write(done: int, total: int) -> None:
        picture.touch()

    assert why(pair, write) == r"samples/\xff.png changed while it was compared"
    assert why(pair, lambda done, total: os.truncate(picture, 1)) != ""


def test_more_than_an_adapters_folder_is_not_looked_through(pair: tuple[Path, Path]) -> None:
    deep = "/".join("d" * (folders._MAX_DEPTH + 2))
    for folder in pair:
        os.makedirs(folder / deep)
    assert why(pair) == "it holds more than any adapter's folder"
    for folder in pair:
        shutil.rmtree(folder / "d")
    assert why(pair) == ""
    for folder in (pair[side] / name for side in (0, 1) for name in "xy"):
        folder.mkdir()
        for number in range(folders._MAX_ENTRIES // 2):
            (folder / str(number)).touch()
    assert why(pair) == "it holds more than any adapter's folder"
