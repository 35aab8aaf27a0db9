"""A file in memory, or on a read-only file system, is not kept for one on a disk that can be written."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

from lorad.dedupe.places import Places, why_lost
from lorad.library.keepers import Rule, Rules
from tests.daemon.watch.conftest import mounted

Disk = Callable[[str], str]


def test_whether_a_file_may_be_kept_is_asked_of_the_disks(disk: Disk) -> None:
    """SPEC 5, may keep: before something goes for good it is asked again."""
    folder, memory = os.fsencode(disk("ext4")), os.fsencode(disk("tmpfs"))
    frozen = os.path.join(folder, b"frozen")
    os.mkdir(frozen)

    def why_not(kept: bytes, gone: bytes, *rules: Rule) -> str:
        return Places(Rules(keep=rules)).why_not(kept + b"/a", gone + b"/b")

    assert why_not(folder, folder) == why_not(memory, memory) == why_not(folder, memory) == ""
    assert "lies in memory" in why_not(memory, folder)
    with mounted(frozen):
        os.mkdir(os.path.join(frozen, b"in"))
        subprocess.run(["mount", "-o", "remount,ro", frozen], check=True)
        assert "read-only file system" in why_not(frozen, memory)
        assert why_not(frozen, memory, Rule("path-prefix", folder)) != ""
        assert why_not(frozen, memory, Rule("path-prefix", frozen)) == ""


def test_what_is_in_memory_would_be_lost(disk: Disk) -> None:
    """SPEC 5: a file on a disk never goes for it; the other way round it does, and among files in memory."""
    folder, memory = os.fsencode(disk("ext4")) + b"/a", os.fsencode(disk("tmpfs")) + b"/a"
    assert "lies in memory" in why_lost(memory, folder)
    assert why_lost(folder, memory) == why_lost(memory, memory + b"b") == why_lost(folder, folder) == ""


def test_a_file_whose_folder_is_not_there_is_not_kept(disk: Disk) -> None:
    """SPEC 5: what cannot be reached is no reason to remove another one."""
    folder = os.fsencode(disk("ext4"))
    assert "cannot be reached" in Places().why_not(folder + b"/gone/a", folder + b"/b")
