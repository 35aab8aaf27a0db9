"""The doctor names what is wrong, and a remedy for it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from loracore.control import Finding, Root
from loracore.paths import CATALOGUE
from lorad.checks import doctor, places
from lorad.checks.doctor import examine
from lorad.dedupe.action.journal import Journal
from lorad.dedupe.policy import Policy
from lorad.watch.exclude import Exclude
from lorad.watch.mounts import Mount
from tests.daemon.control.serving import Library, library
from tests.disks import Hanging, mounted

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


def test_a_journal_that_cannot_be_read_is_a_problem(library: Library, tmp_path: Path) -> None:
    """Nothing can be undone without it, which is to be known before it is needed."""
    journal = Journal(str(library.state))
    journal.close()
    assert findings(library, tmp_path)["journal"].level == "ok"
    Path(journal.path).write_bytes(b"no database" * 1000)
    damaged = findings(library, tmp_path)["journal"]
    os.unlink(journal.path)
    gone = findings(library, tmp_path)["journal"]
    assert [damaged.level, gone.level] == ["problem", "problem"]
    assert "damaged" in damaged.text
    assert "missing" in gone.text
    assert "backup" in damaged.remedy


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
    monkeypatch.setattr(doctor, "mount_of", lambda path: Mount(b"/", b"nfs4", 1))
    found = examine(str(library.state), str(tmp_path), [Root(os.fsencode(tmp_path), "polling")]).findings
    levels = {(one.name.split()[0], one.level) for one in found if "nfs4" in one.text}
    assert {("folder", "warning"), ("state", "problem")} <= levels


def test_little_space_is_a_problem(library: Library, tmp_path: Path, disk: Callable[[str], str]) -> None:
    state = disk("tmpfs")
    shutil.copy(library.state / CATALOGUE, state)
    found = {one.name.split()[0]: one for one in examine(state, str(tmp_path), ()).findings}
    assert found["state"].level == "problem"
    assert "MiB are free" in found["state"].text


def acting(library: Library, roots: list[Path], policy: Policy) -> dict[str, Finding]:
    """Findings about an action, by the folder that it is about."""
    given = [Root(os.fsencode(root), "watching") for root in roots]
    found = examine(str(library.state), str(library.state), given, policy).findings
    return {one.name: one for one in found if one.name.startswith((policy.action, "quarantine"))}


def forbidden(monkeypatch: pytest.MonkeyPatch, **facts: bool) -> None:
    """All folders are found to be like this."""
    probes = doctor.probe_all
    monkeypatch.setattr(
        doctor, "probe_all", lambda folders: {key: one._replace(**facts) for key, one in probes(folders).items()}
    )


def test_an_action_needs_folders_that_can_be_written(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The profile *act* is the remedy, as the owner of the files; to report needs nothing."""
    roots = [tmp_path / "a", tmp_path / "b"]
    for root in roots:
        root.mkdir()
    assert acting(library, roots, Policy("report")) == {}
    for action in ("hardlink", "symlink", "quarantine", "delete"):
        assert [one.level for one in acting(library, roots, Policy(action)).values()] == ["ok", "ok"]
    forbidden(monkeypatch, writable=False)
    found = acting(library, roots, Policy("delete"))
    assert {one.level for one in found.values()} == {"problem"}
    assert "service install --act" in found[f"delete in {roots[0]}"].remedy
    scope = (os.fsencode(roots[1]),)
    assert list(acting(library, roots, Policy("delete", scope=scope))) == [f"delete in {roots[1]}"]
    forbidden(monkeypatch, read_only=True)
    remedy = acting(library, roots, Policy("delete"))[f"delete in {roots[0]}"].remedy
    assert "service install --act" in remedy


def test_what_is_put_aside_stays_on_its_file_system(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A root on another one than the state folder needs to be writable at its top, whatever the scope."""
    inner = tmp_path / "inner"
    inner.mkdir()
    monkeypatch.setattr(places, "_device", lambda folder: 0)
    probes, top = doctor.probe_all, os.fsencode(tmp_path)
    monkeypatch.setattr(
        doctor,
        "probe_all",
        lambda folders: {key: one._replace(writable=key != top) for key, one in probes(folders).items()},
    )
    policy = Policy("quarantine", scope=(os.fsencode(inner),))
    found = acting(library, [tmp_path], policy)
    assert found[f"quarantine in {inner}"].level == "ok"
    assert found[f"quarantine in {tmp_path}"].level == "problem"


def test_reflink_needs_a_file_system_that_shares(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = {b"ext4": "problem", b"xfs": "ok", b"btrfs": "ok", b"ocfs2": "ok", b"zfs": "problem"}
    for kind, level in kinds.items():
        monkeypatch.setattr(places, "mount_of", lambda path, kind=kind: Mount(b"/", kind, 1))
        found = acting(library, [tmp_path], Policy("reflink"))
        assert found[f"reflink in {tmp_path}"].level == level


def test_a_scope_that_is_not_there_is_a_problem(library: Library, tmp_path: Path) -> None:
    found = acting(library, [tmp_path], Policy("delete", scope=(b"/no such folder",)))
    assert found["delete in /no such folder"].level == "problem"


def test_a_scope_that_is_left_out_of_the_watch_is_a_problem(library: Library, tmp_path: Path) -> None:
    """Nothing in it is ever looked at."""
    inner = tmp_path / "epochs"
    inner.mkdir()
    roots = [Root(os.fsencode(tmp_path), "watching")]
    policy = Policy("delete", scope=(os.fsencode(inner),))
    exclude = Exclude(["epochs"], [os.fsencode(tmp_path)])
    found = examine(str(library.state), str(library.state), roots, policy, exclude=exclude).findings
    (finding,) = [one for one in found if one.name == f"delete in {inner}"]
    assert finding.level == "problem"
    assert "exclude" in finding.text


def test_a_folder_that_does_not_answer_is_a_problem(library: Library, tmp_path: Path, hanging: Hanging) -> None:
    """It is named, and keeps neither the others nor the doctor waiting; so each time that he is asked."""
    hanging.hang()
    roots = [hanging.folder, library.folder]
    for _ in range(2):
        found = acting(library, roots, Policy("hardlink"))
        assert [one.level for one in found.values()] == ["problem", "ok"]
        assert "does not answer" in found[f"hardlink in {hanging.folder}"].text
        given = [Root(os.fsencode(root), "watching") for root in roots]
        folders = examine(str(library.state), str(tmp_path), given).findings[1:3]
        assert [one.level for one in folders] == ["problem", "ok"]
    hanging.go_on()
    assert [one.level for one in acting(library, roots, Policy("hardlink")).values()] == ["ok", "ok"]


@pytest.mark.parametrize(
    ("options", "said"),
    [("nr_inodes=4", "no inodes are left"), ("remount,ro", "read-only")],
    ids=["inodes", "read-only"],
)
def test_a_state_folder_on_a_sick_disk_is_a_problem(
    library: Library, tmp_path: Path, options: str, said: str
) -> None:
    """The doctor answers where nothing can be written, and says why that is so."""
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounted(disk, "nr_inodes=4" if "inodes" in options else "rw"):
        shutil.copy(library.state / CATALOGUE, disk)
        for name in "ab":
            (disk / name).touch()
        if "remount" in options:
            Journal(str(disk)).close()
            subprocess.run(["mount", "-o", options, disk], check=True)
        found = {one.name.split()[0]: one for one in examine(str(disk), str(tmp_path), ()).findings}
        assert found["state"].level == "problem"
        assert said in found["state"].text
        assert "make room" not in found["state"].remedy + getattr(found.get("journal"), "remedy", "")


def test_folders_of_its_own_that_are_gone_are_a_problem(library: Library, tmp_path: Path) -> None:
    """What cannot be looked at is said, not a traceback."""
    gone = tmp_path / "gone"
    found = {one.name.split()[0]: one for one in examine(str(gone), str(gone / "run"), ()).findings}
    assert [found[name].level for name in ("state", "runtime")] == ["problem", "problem"]
    assert {"inotify", "GPU", "open"} < found.keys()
