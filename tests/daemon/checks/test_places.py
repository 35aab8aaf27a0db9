"""The doctor tells of aliases and bind mounts among the roots, and of places where an action cannot be taken."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from loracore.control import Finding
from lorad.checks.places import examine_places
from tests.unions import UNIONS, Union

Disk = Callable[[str], str]
_HOLDS = """
import os, sys
from lorad.dedupe.rootlock import RootLocks
locks = RootLocks("abcd1234")
locks.use([os.fsencode(sys.argv[1])])
print("held", flush=True)
sys.stdin.read()
locks.close()
"""


def findings(*roots: Path, action: str = "delete", grace: float = math.inf) -> list[Finding]:
    found = list(examine_places([os.fsencode(root) for root in roots], action, grace))
    assert all(bool(one.remedy) == (one.level != "ok") for one in found)
    return found


@pytest.mark.parametrize("kind", sorted(UNIONS))
def test_folders_that_are_one_storage(union: Union, tmp_path: Path, kind: str) -> None:
    branch = tmp_path / "branch"
    branch.mkdir()
    pool = union(kind, branch)
    (one,) = [each for each in findings(branch, pool) if "read-only" not in each.text]
    assert (one.name, one.level) == (f"folder {pool}", "warning")
    assert f"shows the same files as {branch}" in one.text
    assert "watch one" in one.remedy


def test_a_bind_mount_is_told_without_a_probe(union: Union, tmp_path: Path) -> None:
    """Also deep in a root, showing a folder deep in another; nothing is written where it is only reported."""
    branch, around = tmp_path / "branch" / "deep", tmp_path / "unions"
    branch.mkdir(parents=True)
    pool = union("bind", branch)
    before = branch.stat().st_mtime_ns
    (one,) = findings(tmp_path / "branch", around, action="report")
    assert (one.name, one.level) == (f"folder {pool}", "warning")
    assert "bind mount" in one.text
    assert branch.stat().st_mtime_ns == before


def test_nothing_is_tried_where_it_is_only_reported(union: Union, tmp_path: Path) -> None:
    branch = tmp_path / "branch"
    branch.mkdir()
    pool = union("mergerfs", branch)
    before = branch.stat().st_mtime_ns
    assert findings(branch, pool, action="report") == []
    assert branch.stat().st_mtime_ns == before


def test_what_is_not_proven_to_be_apart(union: Union, tmp_path: Path, disk: Disk) -> None:
    """Nothing is done by itself between a pool and another disk."""
    branch = tmp_path / "branch"
    branch.mkdir()
    assert findings(Path(disk("ext4")), tmp_path) == []
    (one,) = findings(Path(disk("ext4")), union("mergerfs", branch))
    assert "may show files" in one.text
    assert "--apply" in one.remedy


@pytest.mark.parametrize("kind", ["mergerfs", "bindfs"])
def test_where_no_names_can_change_places(union: Union, tmp_path: Path, kind: str) -> None:
    """Only where the action needs it."""
    branch = tmp_path / "branch"
    branch.mkdir()
    pool = union(kind, branch)
    for action in ("hardlink", "symlink"):
        (one,) = findings(pool, action=action)
        assert one.level == "problem"
        assert "exchange two names" in one.text
    assert findings(pool, action="delete") == []
    assert findings(branch, action="symlink") == []
    assert list(branch.iterdir()) == []


def test_a_place_in_a_root_that_is_read_only(union: Union, tmp_path: Path) -> None:
    branch = tmp_path / "branch"
    branch.mkdir()
    pool = union("bind-ro", branch)
    found = findings(tmp_path / "unions")
    assert [one.name for one in found] == [f"folder {pool}"]
    assert "read-only" in found[0].text


@pytest.mark.parametrize("action", ["delete", "hardlink", "symlink"])
def test_no_grace(tmp_path: Path, action: str) -> None:
    """What goes is then removed at once; reflink and quarantine remove nothing."""
    (one,) = findings(tmp_path, action=action, grace=0)
    assert one.name == "grace"
    assert "removed at once" in one.text
    assert "made anew" in one.text
    for other in ("reflink", "quarantine", "report"):
        assert findings(tmp_path, action=other, grace=0) == []
    assert findings(tmp_path, action=action, grace=1) == []


def test_a_root_that_another_lorad_acts_in(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    command = [sys.executable, "-c", _HOLDS, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        (one,) = findings(inner)
        other.communicate()
    assert one.level == "problem"
    assert "only reported on" in one.text
    assert "token abcd1234" in one.text
    assert findings(inner) == []
