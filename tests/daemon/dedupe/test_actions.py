"""What is refused, and with which word; sidecars; what is nothing to do."""

from __future__ import annotations

import errno
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from lorad.dedupe.orders import Order, Refused, Side

from tests.daemon.dedupe.world import GONE, KEPT, SIDECARS, World, files_in, look, make_world, read, side

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")


def _refused(world: World, order: Order, match: str) -> None:
    before = world.look()
    with world.actor() as actor:
        with pytest.raises(Refused, match=match):
            actor.apply(order)
        assert {each.state for each in world.history()} <= {"failed"}
    assert world.look() == before
    assert not world.leftovers()


@pytest.mark.parametrize("action", ["hardlink", "symlink"])
@pytest.mark.parametrize("what", ["mode", "owner", "acl"])
def test_a_link_changes_nobodys_access(tmp_path: Path, action: str, what: str) -> None:
    """A link has one owner, mode and ACL for both names, so where they differ it is refused."""
    world = make_world(str(tmp_path))
    if what == "mode":
        os.chmod(world.gone, 0o600)
    elif what == "acl":
        os.removexattr(world.gone, "system.posix_acl_access")
    elif os.geteuid() == 0:
        os.chown(world.gone, 77, 88)
    else:
        pytest.skip("only root can give a file away")
    _refused(world, world.order(action), "owner, mode or ACL differ")
    assert world.apply("quarantine").state == "done"


@pytest.mark.parametrize("action", ["hardlink", "reflink"])
def test_files_that_differ_outside_tensors_are_never_made_one(tmp_path: Path, action: str) -> None:
    """`reflink` and `hardlink` are for level `file` only."""
    world = make_world(str(tmp_path), level="tensors")
    _refused(world, world.order(action, "tensors"), "level 'tensors'")
    _refused(world, world.order(action, "file"), r"not the same|not as long")


def test_names_of_one_file(tmp_path: Path) -> None:
    """There is nothing to do, and nothing is written down."""
    world = make_world(str(tmp_path))
    os.unlink(world.gone)
    os.link(world.kept, world.gone)
    with world.actor() as actor:
        for action in ("hardlink", "delete", "quarantine", "reflink", "symlink"):
            assert actor.apply(world.order(action)).state == "nothing"
        assert actor.apply(world.order("delete", "inode")).state == "nothing"
        assert not world.history()
    assert os.path.samefile(world.kept, world.gone)


@pytest.mark.parametrize(
    ("root", "path"),
    [
        (b"root", b"root/../outside.safetensors"),
        (b"root", b"root//x.safetensors"),
        (b"root/models", b"root/downloads/new/gone.safetensors"),
        (b"root", b"root"),
        (b"", b"root/x.safetensors"),
    ],
)
def test_never_outside_a_root(tmp_path: Path, root: bytes, path: bytes) -> None:
    """A path that does not lie beneath its root as it is written is refused."""
    world = make_world(str(tmp_path))
    top = os.fsencode(tmp_path)
    outside = os.path.join(top, b"outside.safetensors")
    os.link(world.gone, outside)
    identity = side(world.gone, world.root).identity
    gone = Side(os.path.join(top, path), identity, os.path.join(top, root) if root else b"")
    _refused(world, Order("delete", "file", side(world.kept, world.root), gone), "does not lie beneath")
    assert os.path.exists(outside)


def test_a_root_may_be_a_link_itself(tmp_path: Path) -> None:
    """Whoever configured it wants what it leads to; beneath it no link is followed."""
    world = make_world(str(tmp_path))
    alias = os.fsencode(tmp_path / "alias")
    os.symlink(world.root, alias)
    seen = World(alias, world.state)
    before = world.look()
    assert seen.apply("symlink").state == "done"
    assert os.path.samefile(world.kept, world.gone)
    seen.undo(1)
    assert world.look() == before


def test_what_a_link_leads_to_is_not_taken_away(tmp_path: Path) -> None:
    """A file that an action's symbolic link leads to stays, until that is undone."""
    world = make_world(str(tmp_path))
    third = os.path.join(world.root, b"third.safetensors")
    with open(third, "wb") as file:
        file.write(read(world.kept))
    world.apply("symlink")
    for action in ("delete", "quarantine"):
        order = Order(action, "file", side(third, world.root), side(world.kept, world.root))
        before = world.look()
        with world.actor() as actor, pytest.raises(Refused, match="undo that first"):
            actor.apply(order)
        assert world.look() == before
    world.undo(1)
    with world.actor() as actor:
        assert actor.apply(Order("delete", "file", order.kept, side(world.kept, world.root))).state == "done"


def test_nothing_is_overwritten_by_undo(tmp_path: Path) -> None:
    """What came to stand in the file's place stays, and the undo is refused until it is away."""
    for action in ("hardlink", "symlink", "delete", "quarantine"):
        world = make_world(str(tmp_path / action))
        before = world.look()
        done = world.apply(action)
        newcomer = world.gone + b".new"
        with open(newcomer, "wb") as file:
            file.write(b"something else")
        link = world.gone + b".link"
        if os.path.lexists(world.gone):
            os.rename(world.gone, link)
        os.rename(newcomer, world.gone)
        with pytest.raises(Refused, match="another file stands there now"):
            world.undo(done.id)
        assert read(world.gone) == b"something else"
        os.unlink(world.gone)
        if os.path.lexists(link):
            os.rename(link, world.gone)
        world.undo(done.id)
        assert world.look() == before


def test_what_was_changed_in_quarantine_stays_there(tmp_path: Path) -> None:
    """It is not the file that went; the undo is refused and says where it is."""
    world = make_world(str(tmp_path))
    world.apply("quarantine")
    (path,) = [name for name in world.leftovers() if name.endswith(b"gone.safetensors")]
    with open(path, "r+b") as file:
        file.write(b"x")
    with pytest.raises(Refused, match="changed in quarantine"):
        world.undo(1)
    assert os.path.exists(path)
    assert not os.path.lexists(world.gone)


@pytest.mark.parametrize("action", ["quarantine", "delete"])
def test_sidecars_stay_unless_they_are_to_move(tmp_path: Path, action: str) -> None:
    """`keep` leaves them; `move` takes them into quarantine; undo brings them back in both cases."""
    world = make_world(str(tmp_path))
    before = world.look()
    world.apply(action)
    assert set(world.look()) == set(before) - {GONE}
    world.undo(1)
    world.apply(action, sidecars="move")
    assert set(world.look()) == {KEPT}
    aside = {os.path.basename(name) for name in world.leftovers()}
    assert {os.path.basename(name) for name in SIDECARS} <= aside
    world.undo(2)
    assert world.look() == before
    assert not world.leftovers()


@pytest.mark.parametrize("other", [b"gone.pt", b"gone.preview.safetensors"])
def test_a_sidecar_of_two_models_stays(tmp_path: Path, other: bytes) -> None:
    """What another model file of the folder would miss too is not moved."""
    world = make_world(str(tmp_path))
    folder = os.path.dirname(world.gone)
    with open(os.path.join(folder, other), "wb") as file:
        file.write(b"another model")
    world.apply("quarantine", sidecars="move")
    left = {os.path.basename(name) for name in files_in(folder)}
    assert b"gone.preview.png" in left
    assert (b"gone.civitai.info" in left) == (other == b"gone.pt")


def test_a_sidecar_whose_name_was_taken(tmp_path: Path) -> None:
    """Undo is refused before anything is touched, as it would have to leave one behind."""
    world = make_world(str(tmp_path))
    before = world.look()
    world.apply("delete", sidecars="move")
    (taken,) = [name for name in SIDECARS if name.endswith(b".png")]
    path = os.path.join(world.root, taken)
    with open(path, "wb") as file:
        file.write(b"another picture")
    now = world.look()
    with pytest.raises(Refused, match=r"gone\.preview\.png: another file has its name now"):
        world.undo(1)
    assert world.look() == now
    os.unlink(path)
    world.undo(1)
    assert world.look() == before


def test_one_of_several_names(tmp_path: Path) -> None:
    """Removing one of several hard links frees nothing, which is what is counted; undo brings the name back."""
    world = make_world(str(tmp_path))
    other = world.gone + b".other"
    os.link(world.gone, other)
    before = look(world.gone)
    assert world.apply("delete").bytes == 0
    world.undo(1)
    assert look(world.gone) == before == look(other)


def test_the_kept_files_new_identity_is_told(tmp_path: Path) -> None:
    """A new hard link changes its ctime: who orders the next action on it need not read it again."""
    world = make_world(str(tmp_path))
    result = world.apply("hardlink")
    assert result.kept_now == side(world.kept, world.root).identity


def test_the_kept_files_new_identity_is_told_also_where_the_link_was_taken_back(tmp_path: Path) -> None:
    """Its ctime changed all the same; else everything ordered on it would be refused until the next scan."""
    world = make_world(str(tmp_path))

    def stop(step: str) -> None:
        if step == "temp made":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = side(world.kept, world.root).identity
    with world.actor(at=stop) as actor, pytest.raises(Refused) as refused:
        actor.apply(world.order("hardlink"))
    assert before != side(world.kept, world.root).identity == refused.value.kept_now


def test_quarantine_that_others_may_change_is_refused(tmp_path: Path) -> None:
    """Nothing is put where somebody else could change or take it."""
    world = make_world(str(tmp_path))
    folder = os.path.join(world.state, "quarantine")
    os.makedirs(folder)
    os.chmod(folder, 0o777)
    before = world.look()
    with world.actor() as actor, pytest.raises(Refused, match="others may change it"):
        actor.apply(world.order("quarantine"))
    assert world.look() == before
    os.rmdir(folder)
    os.symlink(tmp_path, folder)
    with world.actor() as actor, pytest.raises(Refused, match="cannot be used for quarantine"):
        actor.apply(world.order("quarantine"))
    assert world.look() == before


@contextmanager
def _as_user(uid: int, gid: int) -> Iterator[None]:
    """What the service does in the profile `act`: no right but an ordinary user's."""
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


@pytest.fixture
def open_folder() -> Iterator[str]:
    """A folder that other users can look into, which pytest's own cannot be."""
    with tempfile.TemporaryDirectory(prefix="lorad-test-") as folder:
        os.chmod(folder, 0o755)
        yield folder


@needs_root
@pytest.mark.parametrize("action", ["hardlink", "symlink", "delete", "quarantine"])
def test_the_owner_needs_no_other_right(open_folder: str, action: str) -> None:
    """Acting and undoing work as the owner of the files, without any capability."""
    world = make_world(open_folder)
    for base, _, names in os.walk(open_folder.encode()):
        for path in (base, *(os.path.join(base, name) for name in names)):
            os.chown(path, 1234, 2345)
    before = world.look()
    with _as_user(1234, 2345):
        world.apply(action)
        world.undo(1)
    assert world.look() == before
    assert not world.leftovers()


@needs_root
def test_another_users_file_is_refused(open_folder: str) -> None:
    """Only an owner can hold a file against writers; the message says whom to run as."""
    world = make_world(open_folder)
    os.chown(open_folder, 4321, 4321)
    for path in (world.kept, world.gone):
        os.removexattr(path, "system.posix_acl_access")
        os.chmod(path, 0o644)
    before = world.look()
    with _as_user(4321, 4321), world.actor() as actor, pytest.raises(Refused, match="belongs to another user"):
        actor.apply(world.order("delete"))
    assert world.look() == before


@needs_root
def test_a_group_that_could_not_be_given_back_is_refused(open_folder: str) -> None:
    """Undo could not restore it, so the file is not removed in the first place; quarantine keeps it as it is."""
    world = make_world(open_folder)
    for base, _, names in os.walk(open_folder.encode()):
        for path in (base, *(os.path.join(base, name) for name in names)):
            os.chown(path, 1234, 2345)
    before = world.look()
    with _as_user(1234, 1234):
        with world.actor() as actor, pytest.raises(Refused, match="not permitted"):
            actor.apply(world.order("delete"))
        world.undo(world.apply("quarantine").id)
    assert world.look() == before
    assert not world.leftovers()


@pytest.mark.parametrize("action", ["hardlink", "symlink", "delete", "quarantine"])
def test_a_mode_without_an_acl_comes_back(tmp_path: Path, action: str) -> None:
    """Every bit of it, whatever the umask is."""
    world = make_world(str(tmp_path))
    for path in (world.kept, world.gone):
        os.removexattr(path, "system.posix_acl_access")
        os.chmod(path, 0o1657)
    before = world.look()
    world.apply(action)
    world.undo(1)
    assert world.look() == before


@pytest.mark.parametrize(
    ("action", "which", "said"),
    [
        ("delete", "gone", r"cannot set it aside \(rename\): .*chattr -i"),
        ("quarantine", "gone", r"cannot move it into quarantine \(rename\): .*chattr -i"),
        ("symlink", "gone", r"cannot put the link in its place \(rename\): .*chattr -i"),
        ("hardlink", "kept", r"cannot link .*kept.safetensors in its place \(link\): .*of that file \(chattr -i"),
    ],
)
def test_what_the_system_forbids_is_named_with_the_remedy(
    disk: Callable[[str], str], action: str, which: str, said: str
) -> None:
    """A file that may not be changed is not to be told to make room."""
    world = make_world(disk("ext4"))
    path = world.kept if which == "kept" else world.gone
    if subprocess.run(["chattr", "+i", path], capture_output=True, check=False).returncode:
        pytest.skip("chattr is not possible here")
    try:
        order = world.order(action)
        with world.actor() as actor, pytest.raises(Refused, match=said):
            actor.apply(order)
    finally:
        subprocess.run(["chattr", "-i", path], check=True)


@pytest.mark.parametrize(
    ("call", "number", "said"),
    [
        ("fchown", errno.EPERM, r"the owner \d+:\d+ \(chown\): operation not permitted; .*CAP_CHOWN"),
        ("setxattr", errno.ENOSPC, r"the attribute \S+ \(setxattr\): no space left on device; make room"),
        ("fchmod", errno.EROFS, r"the mode \d+ \(chmod\): read-only file system; mount it for writing"),
    ],
)
def test_attributes_that_could_not_be_given_back_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, said: str
) -> None:
    """Which of them it is, and what helps depends on why."""
    world = make_world(str(tmp_path))
    if call == "fchown" and os.geteuid():
        pytest.skip("only root can give a file away")

    def fails(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    order = world.order("delete")
    monkeypatch.setattr(os, call, fails)
    with world.actor() as actor, pytest.raises(Refused, match="cannot give a copy of it " + said):
        actor.apply(order)
