"""When an inode was made does not change with what is done to it; `stat` says the same."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lorad.watch.statx import born_ns


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_birth_outlasts_what_is_done(disk: Callable[[str], str], kind: str) -> None:
    """Mode, times, content, name and links change; a copy is born anew."""
    path = Path(disk(kind), "file")
    earliest = time.time_ns() - 10**9
    path.write_bytes(b"x")
    ino = path.stat().st_ino
    born = born_ns(os.fsencode(path), ino)
    assert born is not None
    assert earliest < born <= time.time_ns()
    path.chmod(0o600)
    os.utime(path, ns=(1, 1))
    path.write_bytes(b"y")
    os.link(path, path.with_name("link"))
    path = path.rename(path.with_name("moved"))
    assert born_ns(os.fsencode(path), ino) == born
    said = subprocess.run(["stat", "--format=%W", path], capture_output=True, text=True, check=True).stdout
    assert int(said) == born // 10**9
    path.with_name("copy").write_bytes(b"y")
    copy = path.with_name("copy")
    assert (born_ns(os.fsencode(copy), copy.stat().st_ino) or 0) > born


def test_nothing_is_said_of_another_file(tmp_path: Path) -> None:
    """Nor of one that is gone, nor where the file system does not know."""
    path = tmp_path / "file"
    path.touch()
    assert born_ns(os.fsencode(path), path.stat().st_ino + 1) is None
    assert born_ns(os.fsencode(tmp_path / "gone"), 1) is None
    assert born_ns(b"/proc/self/status", os.stat("/proc/self/status").st_ino) is None
