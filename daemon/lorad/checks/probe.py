"""How a folder is, asked by a process that is killed where its file system does not answer.

`python -m lorad.checks.probe FOLDER` writes what it found as JSON. It imports little, and is no
helper as `lorad.workers` runs: there is one for each folder at once, and none answers twice.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Collection
from contextlib import suppress
from typing import NamedTuple

#: Seconds that all folders together have to answer.
_PATIENCE = 3.0
#: Seconds in which one that has answered meanwhile is read.
_AT_LEAST = 0.2
#: Helpers that were killed and could not end: each waits for its file system.
_left: list[subprocess.Popen[bytes]] = []


class Probe(NamedTuple):
    """What was found of a folder. `answers` is False where nothing was."""

    answers: bool = False
    is_folder: bool = False
    readable: bool = False
    writable: bool = False
    read_only: bool = False
    device: int = 0
    free_inodes: int | None = None
    error: str = ""


def probe(folder: bytes) -> Probe:
    """Look at a folder; this may take as long as its file system does."""
    try:
        status, disk = os.stat(folder), os.statvfs(folder)
    except OSError as error:
        return Probe(answers=True, error=(error.strerror or str(error)).lower())
    return Probe(
        answers=True,
        is_folder=os.path.isdir(folder),
        readable=os.access(folder, os.R_OK | os.X_OK),
        writable=os.access(folder, os.W_OK | os.X_OK),
        read_only=bool(disk.f_flag & os.ST_RDONLY),
        device=status.st_dev,
        free_inodes=disk.f_favail if disk.f_files else None,
    )


def probe_all(folders: Collection[bytes]) -> dict[bytes, Probe]:
    """Look at folders, all at once; of those that do not answer in time, nothing is known. Raises OSError."""
    _left[:] = [helper for helper in _left if helper.poll() is None]
    helpers = {folder: _start(folder) for folder in dict.fromkeys(folders)}
    deadline = time.monotonic() + _PATIENCE
    return {folder: _answer(helper, deadline) for folder, helper in helpers.items()}


def _start(folder: bytes) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "lorad.checks.probe", folder],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def _answer(helper: subprocess.Popen[bytes], deadline: float) -> Probe:
    try:
        said, _ = helper.communicate(timeout=max(_AT_LEAST, deadline - time.monotonic()))
        return Probe(*json.loads(said))
    except subprocess.TimeoutExpired:
        helper.kill()
        if helper.stdout is not None:
            helper.stdout.close()
        try:
            helper.wait(_AT_LEAST)
        except subprocess.TimeoutExpired:
            # What waits for a disk may not even be killed.
            _left.append(helper)
    except (ValueError, TypeError):
        return Probe(answers=True, error="it could not be examined")
    return Probe()


def main() -> None:
    with suppress(BrokenPipeError):
        print(json.dumps(probe(os.fsencode(sys.argv[1]))))


if __name__ == "__main__":
    main()
