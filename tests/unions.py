"""One folder under a second name: bind mounts, union mounts, FUSE."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

_OVERLAY = "mount -t overlay none -o lowerdir={},upperdir={},workdir={{spare}}/work {{pool}}"
#: Each kind with the command that shows `{branch}` at `{pool}`, too; `{spare}` are empty folders beside them.
UNIONS = {
    "bind": "mount --bind {branch} {pool}",
    "bind-ro": "mount --bind {branch} {pool} && mount -o remount,bind,ro {pool}",
    "mergerfs": "mergerfs -o use_ino,category.create=ff {branch} {pool}",
    "mergerfs-cache": "mergerfs -o use_ino,cache.files=auto-full,cache.attr=120,cache.entry=120 {branch} {pool}",
    "mergerfs-second": "mergerfs -o category.create=ff {spare}/other:{branch} {pool}",
    "bindfs": "bindfs {branch} {pool}",
    "bindfs-ro": "bindfs -r {branch} {pool}",
    "overlay-upper": _OVERLAY.format("{spare}/other", "{branch}"),
    "overlay-lower": _OVERLAY.format("{branch}", "{spare}/other"),
    "overlay-lowers": "mount -t overlay none -o lowerdir={branch}:{spare}/other {pool}",
}
#: Those of which one folder is the other by device and inode.
BOUND = ("bind", "bind-ro")

Union = Callable[[str, Path], Path]


@pytest.fixture
def union(tmp_path: Path) -> Iterator[Union]:
    """Mounts a folder of this kind over a branch; returns its second name."""
    with contextlib.ExitStack() as stack:
        yield lambda kind, branch: stack.enter_context(_mounted(kind, branch, tmp_path / "unions"))


@contextlib.contextmanager
def _mounted(kind: str, branch: Path, around: Path) -> Iterator[Path]:
    command = UNIONS[kind]
    if os.geteuid():
        pytest.skip("only root can mount")
    if shutil.which(command.split()[0]) is None:
        pytest.skip(f"{command.split()[0]} is not installed")
    pool, spare = around / f"{kind}-pool", branch.with_name(f"{branch.name}-{kind}")
    for folder in (pool, spare / "other", spare / "work"):
        folder.mkdir(parents=True)
    filled = command.format(branch=branch, pool=pool, spare=spare)
    done = subprocess.run(filled, shell=True, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{kind} is not possible here: {done.stderr.strip().splitlines()[-1:]}")
    try:
        yield pool
    finally:
        subprocess.run(["umount", "--lazy", str(pool)], check=True)
