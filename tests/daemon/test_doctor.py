"""The doctor names what is wrong, and a remedy for it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from loracore.control import Finding, Root
from lorad import doctor
from lorad.doctor import examine
from lorad.watch.mounts import Mount
from tests.daemon.control.serving import Library, library

__all__ = ["library"]


def findings(library: Library, tmp_path: Path, *roots: Root) -> dict[str, Finding]:
    found = examine(str(library.state), str(tmp_path), roots).findings
    assert all(bool(one.remedy) == (one.level != "ok") for one in found)
    return {one.name.split()[0]: one for one in found}


def test_a_sound_machine_has_no_problem(library: Library, tmp_path: Path) -> None:
    found = findings(library, tmp_path, Root(os.fsencode(library.folder), "watching", folders=3))
    assert {"inotify", "folder", "state", "runtime", "GPU", "open"} == found.keys()
    assert all(one.level != "problem" for one in found.values())
    assert os.listdir(library.folder)


def test_probes_leave_nothing_behind(library: Library, tmp_path: Path) -> None:
    before = sorted(os.listdir(library.state))
    findings(library, tmp_path)
    assert sorted(os.listdir(library.state)) == before


def test_a_folder_that_is_not_there_is_a_problem(library: Library, tmp_path: Path) -> None:
    assert findings(library, tmp_path, Root(b"/no such folder", "missing"))["folder"].level == "problem"


def test_more_folders_than_watches_is_a_problem(library: Library, tmp_path: Path) -> None:
    found = findings(library, tmp_path, Root(os.fsencode(tmp_path), "degraded", "no watches", 10**9))
    assert found["inotify"].level == "problem"
    assert "max_user_watches" in found["inotify"].remedy


def test_a_state_folder_on_a_network_disk_is_a_problem(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A root there is only a warning: it is polled."""
    monkeypatch.setattr(doctor, "_mount", lambda path: Mount(b"/", b"nfs4", 1))
    found = examine(str(library.state), str(tmp_path), [Root(os.fsencode(tmp_path), "polling")]).findings
    levels = {(one.name.split()[0], one.level) for one in found if "nfs4" in one.text}
    assert {("folder", "warning"), ("state", "problem")} <= levels


def test_little_space_is_a_problem(library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_NO_SPACE", 1 << 60)
    monkeypatch.setattr(doctor, "_LITTLE_SPACE", 1 << 60)
    assert findings(library, tmp_path)["state"].level == "problem"
