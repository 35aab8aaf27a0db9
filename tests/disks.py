"""Real file systems on loop devices, made once for all tests."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

#: How each is made, and how large: the smallest that its own tools take.
_MAKE = {
    "ext4": (["mkfs.ext4", "-q"], 64 << 20),
    "xfs": (["mkfs.xfs", "-q", "-m", "reflink=1"], 320 << 20),
    "btrfs": (["mkfs.btrfs", "-q"], 128 << 20),
    "tmpfs": ([], 8 << 20),
}


@contextlib.contextmanager
def _mounted(kind: str, folder: Path) -> Iterator[Path]:
    """A file system of this kind, empty; skips with the reason where there can be none."""
    tool, size = _MAKE[kind]
    point = folder / kind
    point.mkdir()
    options = ["-t", kind]
    source = "none"
    if kind == "tmpfs":
        options += ["-o", f"size={size}"]
    else:
        if shutil.which(tool[0]) is None:
            pytest.skip(f"{tool[0]} is not installed")
        image = folder / f"{kind}.image"
        with image.open("wb") as file:
            file.truncate(size)
        _run([*tool, str(image)])
        source = str(image)
        options += ["-o", "loop"]
    _run(["mount", *options, source, str(point)])
    try:
        yield point
    finally:
        # Lazily where a failed test has left a file open: the loop device goes with the last user.
        if subprocess.run(["umount", str(point)], check=False).returncode:
            subprocess.run(["umount", "--lazy", str(point)], check=True)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{command[0]} is not possible here: {done.stderr.strip().splitlines()[-1:]}")


@pytest.fixture(scope="session")
def _disks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    with contextlib.ExitStack() as stack:
        made: dict[str, Path] = {}

        def disk(kind: str) -> Path:
            if os.geteuid():
                pytest.skip("only root can mount a file system")
            if kind not in made:
                made[kind] = stack.enter_context(_mounted(kind, tmp_path_factory.mktemp("disks")))
            return made[kind]

        yield disk


@pytest.fixture
def disk(_disks: Callable[[str], Path], request: pytest.FixtureRequest) -> Iterator[Callable[[str], str]]:
    """A folder of its own, empty, on a file system of the kind that is asked for."""
    folders = []

    def folder(kind: str) -> str:
        path = _disks(kind) / f"test{len(os.listdir(_disks(kind)))}"
        path.mkdir()
        folders.append(path)
        return str(path)

    yield folder
    for path in folders:
        shutil.rmtree(path)
