"""A plan tells what will be refused before it is applied, in the words in which the action refuses it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from loracore.identity import Identity
from lorad.dedupe.action.actor import Actor
from lorad.dedupe.action.order import Order, Side
from lorad.dedupe.action.registry import ACTIONS
from lorad.dedupe.plan import Plan, Step
from lorad.dedupe.refusals import Refusals
from lorad.dedupe.rootlock import RootLocks
from lorad.dedupe.sets import Skipped
from lorad.library.keepers import Copy
from lorad.watch.statx import owns_all
from tests.builders.weights import random_weights
from tests.builders.write import write_safetensors
from tests.daemon.dedupe.world import SPECS
from tests.unions import Union

Disk = Callable[[str], str]
RENAMING = [action for action in ACTIONS if action != "reflink"]
OTHER_USER = 61_234


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that other users can reach, unlike pytest's."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    subprocess.run(["chattr", "-R", "-i", "-a", str(path)], check=False, capture_output=True)
    shutil.rmtree(path)


@dataclass(frozen=True)
class Library:
    """A root with two files that are the same, and the state folder of who acts on them."""

    root: Path
    kept: Path
    gone: Path
    state: Path

    def seen_at(self, root: Path) -> Library:
        """The same library by another mount."""
        return Library(root, root / "kept" / self.kept.name, root / "gone" / self.gone.name, self.state)

    def step(self, action: str, gone: Path | None = None, kept: Path | None = None) -> Step:
        gone, kept = gone or self.gone, kept or self.kept
        size = gone.stat().st_size
        return Step(os.fsencode(gone), os.fsencode(kept), "file", action, size, "is older", copy(gone), copy(kept))

    def planned(self, *steps: Step, by_itself: bool = False, locks: RootLocks | None = None) -> Plan:
        refusals = Refusals(str(self.state), locks)
        plan = Plan(steps[0].action, list(steps), [], sum(step.bytes for step in steps), None)
        sifted = refusals.sifted(plan, [os.fsencode(self.root)], by_itself=by_itself)
        refusals.close()
        return sifted

    def refusal(self, action: str) -> str:
        """What the plan says, which is all that the action says."""
        step = self.step(action)
        plan = self.planned(step)
        assert plan.bytes == sum(each.bytes for each in plan.steps)
        with Actor(str(self.state)) as actor:
            (result,) = actor.apply([Order(action, "file", self.side(step.kept), self.side(step.path))])
        if plan.steps:
            assert plan.steps == [step]
            assert result.state not in ("refused", "nothing"), result
            return ""
        (skipped,) = plan.skipped
        assert result.state == "refused", skipped
        assert skipped.reason.endswith(result.text)
        return skipped.reason

    def side(self, path: bytes) -> Side:
        return Side(path, Identity.of(os.lstat(path)), os.fsencode(self.root))


def copy(path: Path) -> Copy:
    now = path.lstat()
    return Copy((os.fsencode(path),), now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns, b"")


def library(root: Path, *, kept: str = "kept", gone: str = "gone", state: Path | None = None) -> Library:
    files = [root / name / "style.safetensors" for name in (kept, gone)]
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_safetensors(str(path), random_weights(SPECS, 1))
    state = state or root.with_name(f"{root.name}-state")
    state.mkdir(exist_ok=True)
    return Library(root, *files, state)


@contextlib.contextmanager
def mounted(*command: str | Path) -> Iterator[None]:
    if os.geteuid():
        pytest.skip("only root can mount")
    subprocess.run(["mount", *command], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", command[-1]], check=True)


@contextlib.contextmanager
def user(number: int) -> Iterator[None]:
    """Be another user, without any capability."""
    if os.geteuid():
        pytest.skip("only root can become another user")
    owns_all.cache_clear()
    os.setegid(number)
    os.seteuid(number)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        owns_all.cache_clear()


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "tmpfs"])
@pytest.mark.parametrize("action", ACTIONS)
def test_what_can_be_done_is_not_refused(disk: Disk, kind: str, action: str) -> None:
    """But blocks can be shared on file systems alone that share them."""
    said = library(Path(disk(kind)) / "root").refusal(action)
    assert said == "" or (action == "reflink" and kind in ("ext4", "tmpfs") and "cannot share blocks" in said)


@pytest.mark.parametrize("action", ACTIONS)
def test_a_read_only_mount(union: Union, disk: Disk, action: str) -> None:
    branch = Path(disk("xfs")) / "branch"
    made = library(branch)
    root = union("bind-ro", branch)
    said = made.seen_at(root).refusal(action)
    assert "read-only" in said
    assert "mount it for writing" in said


@pytest.mark.parametrize("action", RENAMING)
def test_a_read_only_subvolume(disk: Disk, action: str) -> None:
    base = Path(disk("btrfs"))
    root = base / "root"
    subprocess.run(["btrfs", "subvolume", "create", root], check=True, capture_output=True)
    made = library(root)
    subprocess.run(["btrfs", "property", "set", root, "ro", "true"], check=True)
    try:
        assert "read-only" in made.refusal(action)
    finally:
        subprocess.run(["btrfs", "property", "set", root, "ro", "false"], check=True)


@pytest.mark.parametrize("action", RENAMING)
def test_a_mount_point(folder: Path, action: str) -> None:
    """A file that something is mounted on keeps its name."""
    made = library(folder / "root")
    source = folder / "source.safetensors"
    shutil.copy(made.gone, source)
    with mounted("--bind", source, made.gone):
        said = made.refusal(action)
    assert "busy" in said
    assert "unmount" in said


@pytest.mark.parametrize("action", ["delete", "symlink"])
def test_a_mount_point_that_another_mount_shows(folder: Path, action: str) -> None:
    """It is the entry of the folder that is mounted on, by whichever mount it is reached."""
    made = library(folder / "disk")
    root = folder / "root"
    root.mkdir()
    with mounted("--bind", folder / "disk", root), mounted("--bind", made.kept, made.gone):
        seen = made.seen_at(root)
        assert not os.path.ismount(seen.gone)
        assert "busy" in seen.refusal(action)


@pytest.mark.parametrize("action", RENAMING)
@pytest.mark.parametrize("flag", ["i", "a"])
@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_is_immutable_or_append_only(folder: Path, action: str, flag: str, what: str) -> None:
    """A link could be made in a folder that takes files and gives none away, but neither used nor removed."""
    made = library(folder / "root")
    locked = made.gone if what == "file" else made.gone.parent
    if subprocess.run(["chattr", f"+{flag}", locked], check=False, capture_output=True).returncode:
        pytest.skip("files cannot be made immutable here")
    try:
        if (what, flag) == ("folder", "a") and ACTIONS[action].needs_exchange:
            said = made.planned(made.step(action)).skipped[0].reason
        else:
            said = made.refusal(action)
    finally:
        subprocess.run(["chattr", f"-{flag}", locked], check=True)
    assert "chattr -i -a" in said


def test_a_kept_file_that_is_immutable_gets_no_hard_link(folder: Path) -> None:
    """Other actions do not touch it."""
    made = library(folder / "root")
    if subprocess.run(["chattr", "+i", made.kept], check=False, capture_output=True).returncode:
        pytest.skip("files cannot be made immutable here")
    assert "chattr -i -a" in made.refusal("hardlink")
    assert made.refusal("symlink") == ""


def test_bind_mounts_of_one_disk(folder: Path) -> None:
    """Neither a hard link nor a move into quarantine leads from one to the other; the rest stays in its folder."""
    made = library(folder / "root")
    apart = folder / "apart"
    shutil.move(made.gone.parent, apart)
    made.gone.parent.mkdir()
    with mounted("--bind", apart, made.gone.parent):
        assert made.gone.stat().st_dev == made.kept.stat().st_dev
        assert "hard link" in made.refusal("hardlink")
        assert "root of its own" in made.refusal("quarantine")
        assert made.refusal("symlink") == ""


@pytest.mark.parametrize(("action", "words"), [("hardlink", "hard link"), ("reflink", "between file systems")])
def test_another_device(disk: Disk, union: Union, action: str, words: str) -> None:
    made = library(Path(disk("xfs")) / "root")
    apart = Path(disk("btrfs")) / "apart"
    shutil.copytree(made.gone.parent, apart)
    with mounted("--bind", apart, made.gone.parent):
        assert words in made.refusal(action)


def test_project_quotas(disk: Disk) -> None:
    """A folder that passes its project on takes no name of a file of another one."""
    made = library(Path(disk("xfs")) / "root")
    if subprocess.run(["chattr", "-p", "7", "+P", made.gone.parent], check=False, capture_output=True).returncode:
        pytest.skip("chattr knows no projects, or this file system has none")
    assert "project" in made.refusal("hardlink")


@pytest.mark.parametrize("kind", ["mergerfs", "bindfs"])
@pytest.mark.parametrize("action", RENAMING)
def test_no_exchange_of_names(union: Union, tmp_path: Path, kind: str, action: str) -> None:
    """Only links need it. It is tried once a mount, and leaves nothing behind."""
    made = library(tmp_path / "branch")
    root = union(kind, made.root)
    seen = made.seen_at(root)
    before = sorted(tmp_path.rglob("*"))
    step = seen.step(action)
    words = [row.reason for row in seen.planned(step).skipped]
    assert sorted(tmp_path.rglob("*")) == before
    assert seen.refusal(action) == "".join(words)
    assert bool(words) == ACTIONS[action].needs_exchange
    assert all("exchange two names" in reason for reason in words)


@pytest.mark.parametrize("action", ACTIONS)
def test_a_file_of_another_user(folder: Path, action: str) -> None:
    """Only its owner can hold it against writers."""
    made = library(folder / "root")
    for path in (folder, *folder.rglob("*")):
        os.chown(path, OTHER_USER, OTHER_USER)
    for path in (made.kept, made.gone):
        os.chown(path, 0, 0)
        with user(OTHER_USER):
            assert "belongs to another user" in made.refusal(action)
        os.chown(path, OTHER_USER, OTHER_USER)


@pytest.mark.parametrize("action", RENAMING)
@pytest.mark.parametrize("mode", [0o755, 0o1777])
def test_a_folder_of_another_user(folder: Path, action: str, mode: int) -> None:
    """Where the file is one's own: one may not change its folder, or only files of one's own in it."""
    made = library(folder / "root")
    for path in (folder, *folder.rglob("*")):
        os.chown(path, OTHER_USER, OTHER_USER)
    os.chown(made.gone.parent, 0, 0)
    made.gone.parent.chmod(mode)
    with user(OTHER_USER):
        said = made.refusal(action)
    assert ("permission denied" in said) if mode == 0o755 else not said


def test_another_users_file_in_a_sticky_folder_is_not_renamed(folder: Path) -> None:
    """Whoever may hold it: only the owner of the file, or of the folder, may give it another name."""
    made = library(folder / "root")
    made.gone.parent.chmod(0o1777)
    with user(OTHER_USER):
        (skipped,) = made.planned(made.step("delete")).skipped
        assert "another user" in skipped.reason


@pytest.mark.parametrize("action", ["hardlink", "symlink"])
def test_another_owner_mode_or_acl(folder: Path, action: str) -> None:
    made = library(folder / "root")
    made.gone.chmod(0o600)
    assert "owner, mode or ACL" in made.refusal(action)


def test_a_quarantine_that_others_may_change(folder: Path, disk: Disk) -> None:
    """In the root, where the state folder is on another disk; one that is no folder is of no use either."""
    made = library(folder / "root", state=Path(disk("tmpfs")) / "state")
    inside = made.root / ".lorad-quarantine"
    inside.mkdir()
    inside.chmod(0o777)
    assert "others may change it" in made.refusal("quarantine")
    inside.rmdir()
    inside.touch()
    assert "cannot be used for quarantine" in made.refusal("quarantine")


def test_xfs_that_was_made_without_sharing(tmp_path: Path) -> None:
    if os.geteuid() or shutil.which("mkfs.xfs") is None:
        pytest.skip("needs root and mkfs.xfs")
    image, point = tmp_path / "image", tmp_path / "disk"
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(320 << 20)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=0", image], check=True)
    with mounted("-o", "loop", image, point):
        assert "cannot share blocks" in library(point / "root").refusal("reflink")


def test_a_file_goes_with_all_its_names_or_not_at_all(folder: Path) -> None:
    """Where one of them has to stay, the others are left as well, and say why."""
    made = library(folder / "root")
    other = made.root / "locked" / "style.safetensors"
    other.parent.mkdir()
    os.link(made.gone, other)
    steps = [made.step("delete")._replace(bytes=0), made.step("delete", other)]
    assert made.planned(*steps).steps == steps
    with mounted("--bind", made.kept, other):
        # The name is covered; what is mounted on it is another file.
        plan = made.planned(*steps)
    assert plan.steps == []
    assert plan.bytes == 0
    reasons = {row.path: row.reason for row in plan.skipped}
    assert "busy" in reasons[os.fsencode(other)]
    assert str(other) in reasons[os.fsencode(made.gone)]


def test_a_name_that_two_mounts_show_is_one(folder: Path) -> None:
    """It is acted on where it can be written, and its bytes count once."""
    made = library(folder / "root")
    second = made.root / "second"
    second.mkdir()
    with mounted("--bind", made.gone.parent, second):
        steps = [made.step("delete")._replace(bytes=0), made.step("delete", second / made.gone.name)]
        plan = made.planned(*steps)
        assert plan.steps == [steps[0]._replace(bytes=steps[1].bytes)]
        assert plan.bytes == steps[1].bytes
        assert [row.path for row in plan.skipped] == [steps[1].path]
        assert str(made.gone) in plan.skipped[0].reason
        subprocess.run(["mount", "-o", "remount,bind,ro", second], check=True)
        assert made.planned(*steps).steps == plan.steps


def test_an_alias(union: Union, tmp_path: Path) -> None:
    """A file is never acted on for itself; by themselves, no files between a pool and another disk."""
    made = library(tmp_path / "root" / "branch")
    pool = union("mergerfs-cache", made.root)
    both = Library(Path("/"), made.kept, made.gone, made.state)
    (skipped,) = both.planned(both.step("delete", pool / "kept/style.safetensors")).skipped
    assert "itself" in skipped.reason
    step = both.step("delete", pool / "gone/style.safetensors", made.kept)
    (skipped,) = both.planned(step, by_itself=True).skipped
    assert "may be" in skipped.reason


def test_another_lorad_acts_there(folder: Path) -> None:
    made = library(folder / "root")
    ours = RootLocks("11111111")
    ours.use([os.fsencode(made.root)])
    assert made.planned(made.step("delete"), locks=ours).skipped == []
    ours.close()


def test_a_plan_to_report_is_left_as_it_is(folder: Path) -> None:
    """Nothing is tried for the sake of what is not done."""
    made = library(folder / "root")
    plan = made.planned(made.step("report"))
    assert plan.steps == [made.step("report")]


def test_what_is_skipped_already_stays_so(folder: Path) -> None:
    made = library(folder / "root")
    refusals = Refusals(str(made.state))
    row = Skipped(b"/elsewhere", b"/kept", "file", "younger than min_age")
    plan = refusals.sifted(Plan("delete", [made.step("delete")], [row], 1, 5), [os.fsencode(made.root)])
    assert (plan.skipped, plan.due_ns) == ([row], 5)
    (step,) = plan.steps
    (skipped,) = refusals.sifted(plan._replace(skipped=[]), [b"/elsewhere"]).skipped
    assert "watched folder" in skipped.reason
    made.gone.unlink()
    assert refusals.sifted(plan, [os.fsencode(made.root)]).steps == [step]
    refusals.close()
