"""Where files lie, for a real daemon: one storage under two names, two daemons, disks that come and go."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest

from loracore.control import ActionTaken, FileGivenBack
from tests.integration.running import Running, running
from tests.integration.test_daemon import lora
from tests.unions import Union

CASES = [
    *[(kind, "delete") for kind in ("mergerfs-cache", "bindfs", "overlay-upper", "overlay-lower", "bind")],
    *[("mergerfs-cache", action) for action in ("symlink", "hardlink", "quarantine")],
]
NAME = "style.safetensors"


def dedupe(**settings: str) -> str:
    return "\n".join(["[dedupe]", *(f"{key} = {value}" for key, value in settings.items())])


def acted_on(daemon: Running, do: Callable[[], object]) -> bytes:
    """The first name that is acted on by itself once this is done."""
    with daemon.client() as client, client.events(["action"]) as events:
        do()
        return next(event.event.path for event in events if isinstance(event.event, ActionTaken))


def unmount(daemon: Running, point: Path) -> None:
    """It may be looked at just now, as by the canary, but nothing is kept open."""
    for _ in range(20):
        if not subprocess.run(["umount", point], check=False, capture_output=True).returncode:
            return
        daemon.settle()
    raise AssertionError(f"{point} is kept open")


def names(*folders: Path) -> list[Path]:
    """The models in these folders, none of them a link."""
    found = [path for folder in folders for path in sorted(folder.rglob("*.safetensors"))]
    assert all(path.is_file() and not path.is_symlink() for path in found)
    return found


@pytest.mark.parametrize(("kind", "action"), CASES)
def test_a_file_is_never_acted_on_for_itself(tmp_path: Path, union: Union, kind: str, action: str) -> None:
    """Neither on request nor by itself, whatever shows it twice and whichever name the rules would keep."""
    branch = tmp_path / "disk" / "branch"
    branch.mkdir(parents=True)
    lora(branch / NAME, 1)
    pool = union(kind, branch)
    for keep in (branch, pool):
        tables = dedupe(action=f'"{action}"', keep=f"['path-prefix:{keep}', 'oldest']", grace='"0s"')
        with running(tmp_path / f"lorad-{keep.name}", branch, pool, tables=tables) as daemon:
            lora(branch / f"for {keep.name}.safetensors", len(keep.name))
            daemon.settle()
            with daemon.client() as client:
                plan = client.plan_dedupe()
                assert plan.steps == []
                assert len(plan.skipped) >= 1
                assert client.apply_dedupe().done == 0
                assert list(client.history()) == []
    seen = names(branch, pool)
    assert len(seen) == 6
    assert all(path.stat().st_size for path in seen)


def test_a_branch_goes_on_being_seen_to(tmp_path: Path, union: Union) -> None:
    """A copy within it is hidden by itself, and the file that it is a copy of stays, under both its names."""
    branch = tmp_path / "disk" / "branch"
    branch.mkdir(parents=True)
    lora(branch / NAME, 1)
    pool = union("mergerfs", branch)
    tables = dedupe(action='"delete"', keep=f"['path-prefix:{branch}', 'oldest']")
    with running(tmp_path / "lorad", branch, pool, tables=tables) as daemon:
        copied = acted_on(daemon, lambda: shutil.copy(branch / NAME, branch / "copy.safetensors"))
        assert os.path.basename(copied) == b"copy.safetensors"
        daemon.settle()
        assert names(branch, pool) == [branch / NAME, pool / NAME]


def test_two_daemons_with_opposite_rules(tmp_path: Path) -> None:
    """The second one only reports, and says so; it acts once the first has ended."""
    roots = [tmp_path / "loras" / name for name in ("a", "b")]
    for root in roots:
        root.mkdir(parents=True)
        for seed in range(3):
            lora(root / f"{seed}.safetensors", seed)

    def tables(keep: Path) -> str:
        return dedupe(action='"delete"', keep=f"['path-prefix:{keep}', 'oldest']", grace='"0s"')

    around = tmp_path / "loras"
    with running(tmp_path / "one", around, tables=tables(roots[0])) as one:
        newcomer = roots[1] / "new.safetensors"
        acted_on(one, lambda: shutil.copy(roots[0] / "0.safetensors", newcomer))
        (tmp_path / "two").mkdir()
        with Running(tmp_path / "two", [around], tables=tables(roots[1])) as two:
            two.settle()
            with two.client() as client:
                plan = client.plan_dedupe()
                assert plan.steps == []
                assert {row.reason.partition(" (")[0] for row in plan.skipped} == {"another lorad"}
                assert any("is only reported on" in finding.text for finding in client.doctor().findings)
            acted_on(one, lambda: shutil.copy(roots[0] / "1.safetensors", newcomer))
            with one.client() as client:
                assert client.apply_dedupe().done == 3
            two.settle()
            assert [path.parent for path in names(around)] == [roots[0]] * 3
            with two.client() as client:
                assert list(client.history()) == []
            one.stop()
            # It may believe for a second what it saw of the lock, and tries again then.
            acted_on(two, lambda: shutil.copy(roots[0] / "2.safetensors", roots[0] / "copy.safetensors"))
            assert names(around) == [roots[0] / f"{seed}.safetensors" for seed in range(3)]
        one.start()


def test_an_acting_daemon_keeps_no_disk_from_being_unmounted(tmp_path: Path, disk: Callable[[str], str]) -> None:
    """Nor from being mounted read-only; it is acted on again once it is back."""
    source, root = Path(disk("ext4")), tmp_path / "root"
    root.mkdir()
    lora(source / NAME, 1)
    mount = ["mount", "--bind", source, root]
    subprocess.run(mount, check=True)
    try:
        with running(tmp_path / "lorad", root, tables=dedupe(action='"hardlink"')) as daemon:
            shutil.copy(root / NAME, root / "copy.safetensors")
            daemon.settle()
            unmount(daemon, root)
            daemon.settle()
            subprocess.run(mount, check=True)
            daemon.settle()
            with daemon.client() as client:
                client.apply_dedupe()
            assert (root / NAME).samefile(root / "copy.safetensors")
    finally:
        subprocess.run(["umount", "--lazy", root], check=False)


def test_what_is_hidden_on_a_disk_that_is_not_there_is_not_lost(
    tmp_path: Path, disk: Callable[[str], str]
) -> None:
    """Whether lorad runs or not meanwhile; once the disk is back, it returns when it is missed."""
    source, root = Path(disk("ext4")), tmp_path / "root"
    mounted = root / "disk"
    mounted.mkdir(parents=True)
    (root / "other.txt").touch()
    (source / "deep").mkdir()
    lora(source / NAME, 1)
    mount = ["mount", "--bind", str(source), str(mounted)]
    subprocess.run(mount, check=True)
    try:
        with running(tmp_path / "lorad", root, tables=dedupe(action='"delete"')) as daemon:
            for copy in (mounted / "copy.safetensors", mounted / "deep" / "copy.safetensors"):
                acted_on(daemon, lambda copy=copy: shutil.copy(mounted / NAME, copy))  # type: ignore[misc]
            daemon.stop()
            subprocess.run(["umount", mounted], check=True)
            daemon.start()
            daemon.settle()
            with daemon.client() as client:
                assert [entry.state for entry in client.history()] == ["hidden"] * 2
            daemon.stop()
            subprocess.run(mount, check=True)
            daemon.start()
            daemon.settle()
            with daemon.client() as client, client.events() as events:
                (mounted / NAME).unlink()
                back = {e.event.path for e in islice((e for e in events if isinstance(e.event, FileGivenBack)), 2)}
            assert back == {os.fsencode(mounted / name) for name in ("copy.safetensors", "deep/copy.safetensors")}
    finally:
        subprocess.run(["umount", "--lazy", mounted], check=False)


@pytest.mark.parametrize("grace", ["0s", "7d"])
def test_a_link_follows_the_kept_file_to_another_disk(
    tmp_path: Path, disk: Callable[[str], str], grace: str
) -> None:
    """Whether what it stands for is still hidden or was freed: then nobody need have read the kept one."""
    here, there = tmp_path / "here", Path(disk("ext4")) / "there"
    link, moved = here / "copy.safetensors", there / "moved.safetensors"
    for root in (here, there):
        root.mkdir()
    lora(here / NAME, 1)
    tables = dedupe(action='"symlink"', grace=f'"{grace}"')
    with running(tmp_path / "lorad", here, there, tables=tables) as daemon, daemon.client() as client:
        acted_on(daemon, lambda: shutil.copy(here / NAME, link))
        while [entry.state for entry in client.history()] != ["freed" if grace == "0s" else "hidden"]:
            daemon.settle()
        shutil.copy2(here / NAME, moved)
        (here / NAME).unlink()
        while os.readlink(link) != str(moved):
            daemon.settle()


def gone_back(daemon: Running, remove: Callable[[], object]) -> bytes:
    """The first name that is given back once this is done."""
    with daemon.client() as client, client.events() as events:
        remove()
        return next(event.event.path for event in events if isinstance(event.event, FileGivenBack))


def test_a_disk_that_came_back_under_another_number_is_that_disk(tmp_path: Path) -> None:
    """What is removed on it is gone, so that what was hidden for it returns."""
    root, mounted = tmp_path / "root", tmp_path / "mounted"
    for folder in (root, mounted):
        folder.mkdir()
    image, other = tmp_path / "image", tmp_path / "other"
    for path in (image, other):
        subprocess.run(["truncate", "--size=32M", path], check=True)
        subprocess.run(["mkfs.ext4", "-q", path], check=True)

    def attached(path: Path) -> str:
        command = ["losetup", "--show", "--find", str(path)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    devices = [attached(image)]
    try:
        subprocess.run(["mount", devices[0], mounted], check=True)
        lora(mounted / NAME, 1)
        with running(tmp_path / "lorad", root, mounted, tables=dedupe(action='"delete"')) as daemon:
            copied = acted_on(daemon, lambda: shutil.copy(mounted / NAME, root / "copy.safetensors"))
            number = mounted.stat().st_dev
            unmount(daemon, mounted)
            subprocess.run(["losetup", "--detach", devices.pop()], check=True)
            devices += [attached(other), attached(image)]
            subprocess.run(["mount", devices[1], mounted], check=True)
            assert mounted.stat().st_dev != number
            daemon.settle()
            assert gone_back(daemon, (mounted / NAME).unlink) == copied
    finally:
        subprocess.run(["umount", "--lazy", mounted], check=False)
        for device in devices:
            subprocess.run(["losetup", "--detach", device], check=False)


def test_what_goes_with_a_subvolume_is_gone(tmp_path: Path, disk: Callable[[str], str]) -> None:
    """A snapshot that is deleted is no disk that was unmounted."""
    root = Path(disk("btrfs"))
    btrfs = ["btrfs", "subvolume"]
    subprocess.run([*btrfs, "create", root / "library"], check=True, capture_output=True)
    lora(root / "library" / NAME, 1)
    with running(tmp_path / "lorad", root, tables=dedupe(action='"delete"')) as daemon:
        copied = acted_on(daemon, lambda: shutil.copy(root / "library" / NAME, root / "copy.safetensors"))
        command = [*btrfs, "snapshot", root / "library", root / "snapshot"]
        subprocess.run(command, check=True, capture_output=True)
        (root / "library" / NAME).unlink()
        daemon.settle()
        delete = [*btrfs, "delete", root / "snapshot"]
        assert gone_back(daemon, lambda: subprocess.run(delete, check=True, capture_output=True)) == copied
        daemon.settle()
        with daemon.client() as client:
            assert client.audit().differences == []


def test_what_was_away_when_it_was_missed_returns_with_its_disk(
    tmp_path: Path, disk: Callable[[str], str]
) -> None:
    """As soon as that is looked through."""
    source, root = Path(disk("ext4")), tmp_path / "root"
    mounted = root / "disk"
    mounted.mkdir(parents=True)
    lora(root / NAME, 1)
    mount = ["mount", "--bind", str(source), str(mounted)]
    subprocess.run(mount, check=True)
    try:
        with running(tmp_path / "lorad", root, tables=dedupe(action='"delete"')) as daemon:
            copied = acted_on(daemon, lambda: shutil.copy(root / NAME, mounted / "copy.safetensors"))
            unmount(daemon, mounted)
            daemon.settle()
            (root / NAME).unlink()
            daemon.settle()
            assert gone_back(daemon, lambda: subprocess.run(mount, check=True)) == copied
    finally:
        subprocess.run(["umount", "--lazy", mounted], check=False)


def test_what_a_hard_link_stands_for_is_freed(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    lora(root / NAME, 1)
    tables = dedupe(action='"hardlink"', grace='"0s"')
    with running(tmp_path / "lorad", root, tables=tables) as daemon, daemon.client() as client:
        acted_on(daemon, lambda: shutil.copy(root / NAME, root / "copy.safetensors"))
        while [entry.state for entry in client.history()] != ["linked"]:
            daemon.settle()
        assert (root / NAME).samefile(root / "copy.safetensors")
        assert sorted(path.name for path in root.iterdir()) == [".lorad-lock", "copy.safetensors", NAME]


@pytest.mark.parametrize("beside", ["more.txt", ""])
@pytest.mark.parametrize("how", ["excluded", "no root"])
def test_a_kept_file_out_of_view_counts_until_it_is_gone(tmp_path: Path, how: str, beside: str) -> None:
    """It need not be seen for that, and its folder may be empty then."""
    root, other = tmp_path / "root", tmp_path / "other"
    for folder in (root, other):
        folder.mkdir()
    kept = (root / "old" if how == "excluded" else other) / NAME
    kept.parent.mkdir(exist_ok=True)
    if beside:
        (kept.parent / beside).touch()
    lora(kept, 1)
    with running(tmp_path / "lorad", root, other, tables=dedupe(action='"delete"')) as daemon:
        copied = acted_on(daemon, lambda: shutil.copy(kept, root / "copy.safetensors"))
        if how == "excluded":
            daemon.watch["exclude"] = ["old"]
        daemon.configure([root] if how == "no root" else [root, other])
        os.kill(daemon.pid, signal.SIGHUP)
        daemon.settle()
        assert not (root / "copy.safetensors").exists()
        assert gone_back(daemon, kept.unlink) == copied


@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize("what", ["the link", "its folder", "a link whose name is taken"])
def test_a_link_that_is_moved_leads_to_its_kept_file(tmp_path: Path, what: str, *, stopped: bool) -> None:
    """One folder deeper a relative link says nothing; what it stands for is missed at its new name."""
    root = tmp_path / "root"
    copy, moved = root / "new" / "copy.safetensors", root / "other" / "deep" / "copy.safetensors"
    copy.parent.mkdir(parents=True)
    (root / "other").mkdir()
    kept = lora(root / NAME, 1)
    with running(tmp_path / "lorad", root, tables=dedupe(action='"symlink"')) as daemon:
        acted_on(daemon, lambda: lora(copy, 1))
        daemon.settle()
        if stopped:
            daemon.stop()
        if what == "its folder":
            copy.parent.rename(moved.parent)
        else:
            moved.parent.mkdir()
            copy.rename(moved)
        if what == "a link whose name is taken":
            lora(copy, 2)
        assert not moved.exists()
        if stopped:
            daemon.start()
        while not moved.exists():
            daemon.settle()
        assert moved.samefile(kept)
        assert gone_back(daemon, kept.unlink) == os.fsencode(moved)
        assert not moved.is_symlink()
        daemon.settle()
        with daemon.client() as client:
            assert client.audit().differences == []


def test_what_a_followed_link_leads_to_is_missed(tmp_path: Path) -> None:
    """No watch tells of it, as it lies in no root."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root, outside):
        folder.mkdir()
    kept = lora(root / NAME, 1)
    tables = dedupe(action='"delete"')
    with running(tmp_path / "lorad", root, tables=tables, follow_symlinks="true") as daemon:
        copied = acted_on(daemon, lambda: shutil.copy(kept, root / "copy.safetensors"))
        shutil.move(kept, outside / NAME)
        kept.symlink_to(outside / NAME)
        daemon.settle()
        daemon.settle()
        assert not (root / "copy.safetensors").exists()
        assert gone_back(daemon, (outside / NAME).unlink) == copied
