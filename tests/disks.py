"""Real file systems on loop devices, made once for all tests."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
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


class Hanging:
    """A folder served by a program, which can be made to hang: all calls to it wait then."""

    def __init__(self, source: Path, folder: Path) -> None:
        self.folder = folder
        self._program = subprocess.Popen(
            ["bindfs", "-f", "-o", "attr_timeout=0,entry_timeout=0,negative_timeout=0", source, folder],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while not os.path.ismount(folder):
            if self._program.poll() is not None:
                pytest.skip("FUSE is not possible here")

    def hang(self) -> None:
        self._program.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._program.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """What waits for it gets an error."""
        self._program.kill()
        self._program.wait()
        subprocess.run(["umount", "--lazy", self.folder], check=False)


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[Hanging]:
    """A mount of the folder `source`, both in the test's folder."""
    if os.geteuid() or shutil.which("bindfs") is None:
        pytest.skip("needs root and bindfs")
    source, folder = tmp_path / "source", tmp_path / "served"
    source.mkdir()
    folder.mkdir()
    served = Hanging(source, folder)
    yield served
    served.end()


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A small file system in memory, mounted on a folder with these options."""
    if os.geteuid():
        pytest.skip("only root can mount a file system")
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size=8m,{options}", "none", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
