"""What is refused and with which word, what is nothing to do, and groups that share their syncs."""

from __future__ import annotations

import errno
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from loracore.errors import StateError
from lorad.dedupe.action.actor import Actor
from lorad.dedupe.action.order import FreeOrder, Order, Refused
from tests.daemon.dedupe.world import GONE, World, act, another, files_in, look, make_world, read, side

HIDING = ("hardlink", "symlink", "delete", "quarantine")
HOSTILE = (
    b"\xff\xfe.safetensors", b"a\nb.safetensors", b"x" * 243 + b".safetensors",
    "\u00fc".encode() * 121 + b".safetensors", b"-rf *.safetensors", b" .safetensors", b".hidden.safetensors",
)  # fmt: skip
OVER = ("undone", "given_back", "refused")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")


def _refused(world: World, order: Order, match: str) -> None:
    before = world.look()
    with world.actor() as actor:
        with pytest.raises(Refused, match=match):
            act(actor, order)
        assert {each.state for each in world.history()} <= {"refused"}
    assert world.look() == before
    assert not world.leftovers()


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
        for action in (*HIDING, "reflink"):
            assert act(actor, world.order(action)).state == "nothing"
        assert act(actor, world.order("delete", "inode")).state == "nothing"
        assert not world.history()
    assert os.path.samefile(world.kept, world.gone)


def test_one_of_several_names(tmp_path: Path) -> None:
    """Removing one of several hard links frees nothing, which is what is counted; undo brings the name back."""
    world = make_world(str(tmp_path))
    other = world.gone + b".other"
    os.link(world.gone, other)
    before = look(world.gone)
    for freed in (False, True):
        number = world.apply("delete").id
        if freed:
            assert world.free(number).bytes == 0
        world.undo(number)
        assert look(world.gone) == before == look(other)


@pytest.mark.parametrize("taken_back", [False, True])
def test_the_kept_files_new_identity_is_told(tmp_path: Path, taken_back: bool) -> None:
    """A new hard link changes its ctime, also one that was taken back: it need not be read again for that."""
    world = make_world(str(tmp_path))

    def stop(step: str) -> None:
        if taken_back and step == "link made":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = side(world.kept, world.root).identity
    with world.actor(at=stop) as actor:
        (result,) = actor.apply([world.order("hardlink")])
    assert result.state == ("refused" if taken_back else "hidden")
    assert result.kept_before == before
    assert before != side(world.kept, world.root).identity == result.kept_now


@pytest.mark.parametrize("action", HIDING)
def test_a_set_that_was_undone_can_be_acted_on_at_once(tmp_path: Path, action: str) -> None:
    """A link made, or taken away again, changes a ctime and no content: neither stands in the way."""
    world = make_world(str(tmp_path))
    before, order = world.look(), world.order(action)
    os.link(world.kept, os.path.join(world.root, b"elsewhere"))
    before[b"elsewhere"] = look(world.kept)
    for _ in range(2):
        with world.actor() as actor:
            number = act(actor, order).id
        world.undo(number)
        assert world.look() == before


# Groups


@pytest.mark.parametrize("action", HIDING)
def test_several_of_a_group_may_go_for_one_kept_file(tmp_path: Path, action: str) -> None:
    """Hidden, freed and undone together, each is as it was."""
    world = make_world(str(tmp_path))
    paths = [world.gone, *(another(world, b"%d.safetensors" % number) for number in range(3))]
    before = world.look()
    for freed in (False, True):
        orders = [Order(action, "file", side(world.kept, world.root), side(path, world.root)) for path in paths]
        with world.actor() as actor:
            numbers = [result.id for result in actor.apply(orders)]
            assert {each.state for each in world.history(numbers[0] - 1)} <= {"hidden", "quarantined"}
            kept = (side(world.kept, world.root),)
            if freed:
                results = actor.free([FreeOrder(number, kept) for number in numbers])
                assert {result.state for result in results} <= {"freed", "linked"}
            assert {result.state for result in actor.undo(numbers)} == {"undone"}
        assert world.look() == before
    assert not world.leftovers()


@pytest.mark.parametrize("action", HIDING)
@pytest.mark.parametrize("number", range(3))
def test_one_that_is_refused_stops_no_other_of_its_group(tmp_path: Path, action: str, number: int) -> None:
    """Before anything was done, or after its name changed: it is as before, and the others are done."""
    world = make_world(str(tmp_path))
    paths = [world.gone, another(world, b"2.safetensors"), another(world, b"3.safetensors")]
    orders = [Order(action, "file", side(world.kept, world.root), side(path, world.root)) for path in paths]
    before = look(paths[number])
    steps = iter(range(10))

    def write(step: str) -> None:
        # Somebody who opens it for writing breaks the lease, and is told to try again.
        if step == "put aside" and next(steps) == number:
            with suppress(BlockingIOError, FileNotFoundError):
                os.close(os.open(aside[number], os.O_RDWR | os.O_NONBLOCK))

    with world.actor(write) as actor:
        aside = [
            os.path.join(
                os.path.dirname(path), b".%s.aside-%s-%d" % (os.path.basename(path), actor.token.encode(), at)
            )
            for at, path in enumerate(paths, 1)
        ]
        if action == "quarantine":
            folder = os.path.join(os.fsencode(world.state), b"quarantine")
            aside = [
                os.path.join(folder, b"%s-%d" % (actor.token.encode(), at), os.path.basename(path))
                for at, path in enumerate(aside, 1)
            ]
        states = [result.state for result in actor.apply(orders)]
    assert states.pop(number) == "refused"
    assert set(states) <= {"hidden", "quarantined"}
    assert look(paths[number]) == before


def _three(world: World, action: str) -> list[Order]:
    paths = [world.gone, another(world, b"2.safetensors"), another(world, b"3.safetensors")]
    kept = side(world.kept, world.root)
    return [Order(action, "file", kept, side(path, world.root), "keep", bytes=1) for path in paths]


def _run(actor: Actor, operation: str, orders: list[Order], numbers: list[int]) -> None:
    match operation:
        case "apply":
            actor.apply(orders)
        case "free":
            actor.free([FreeOrder(number, (orders[0].kept,)) for number in numbers])
        case "give back":
            actor.give_back(numbers)
        case _:
            actor.undo(numbers)


def _begun(world: World, orders: list[Order], operation: str) -> list[int]:
    """What is done before an operation; the ids that it is on."""
    if operation == "apply":
        return []
    with world.actor() as actor:
        numbers = [result.id for result in actor.apply(orders)]
        if operation == "undo freed":
            _run(actor, "free", orders, numbers)
    return numbers


@pytest.mark.parametrize(
    ("action", "operation"),
    [
        *(
            (action, operation)
            for action in HIDING
            for operation in ("apply", "free", "undo hidden", "undo freed")
        ),
        ("delete", "give back"),
        ("quarantine", "give back"),
    ],
)
def test_a_journal_that_is_full_at_any_step_loses_nothing(
    disk: Callable[[str], str], tmp_path: Path, action: str, operation: str
) -> None:
    """Of a group of three: each content is there meanwhile, and all comes back once there is room."""
    probe = make_world(str(tmp_path / "probe"))
    steps: list[str] = []
    orders = _three(probe, action)
    begun = orders, _begun(probe, orders, operation)
    with probe.actor(steps.append) as actor:
        _run(actor, operation, *begun)
    for number, step in enumerate(steps):
        state = disk("tmpfs")
        world = make_world(str(tmp_path / str(number)), state=state)
        orders = _three(world, action)
        before = world.look()
        begun = orders, _begun(world, orders, operation)
        seen = iter(range(len(steps) + 99))

        def fill(_: str, state: str = state, number: int = number, seen: Iterator[int] = seen) -> None:
            if next(seen) == number:
                with open(os.path.join(state, "filler"), "wb") as file:
                    room = os.statvfs(state)
                    os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_bsize)

        with world.actor(fill) as actor:
            try:
                _run(actor, operation, *begun)
            except StateError:
                assert operation != "apply" or world.look() == before, "names come back at once"
        there = {read(path) for path in (*files_in(world.root), *world.leftovers()) if not os.path.islink(path)}
        assert before[GONE].content in there
        os.unlink(os.path.join(state, "filler"))
        with world.actor() as actor:
            actor.repair()
            actor.undo([each.id for each in reversed(world.history()) if each.state not in OVER])
        assert world.look() == before, step
        assert not world.leftovers(), step


# Rights


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


def _owned(folder: str) -> World:
    world = make_world(folder)
    for base, _, names in os.walk(folder.encode()):
        for path in (base, *(os.path.join(base, name) for name in names)):
            os.chown(path, 1234, 2345)
    return world


@needs_root
@pytest.mark.parametrize("action", HIDING)
def test_the_owner_needs_no_other_right(open_folder: str, action: str) -> None:
    """DedupeHandlers, freeing and undoing work as the owner of the files, without any capability."""
    world = _owned(open_folder)
    before = world.look()
    with _as_user(1234, 2345):
        world.undo(world.apply(action).id)
        number = world.apply(action).id
        assert world.free(number).state in ("freed", "linked")
        world.undo(number)
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
    with _as_user(4321, 4321), pytest.raises(Refused, match="belongs to another user"):
        world.apply("delete")
    assert world.look() == before


@needs_root
def test_a_group_that_could_not_be_given_back_is_not_freed(open_folder: str) -> None:
    """It stays hidden with the reason, since it could not be made anew as it was."""
    world = _owned(open_folder)
    before = world.look()
    with _as_user(1234, 1234):
        number = world.apply("delete").id
        result = world.free(number)
        assert result.state == "waiting"
        assert "not permitted" in result.text
        world.undo(number)
    assert world.look() == before
    assert not world.leftovers()


@pytest.mark.parametrize(
    ("action", "which", "said"),
    [
        ("delete", "gone", r"cannot put it aside \(rename\): .*chattr -i"),
        ("quarantine", "gone", r"cannot move it into quarantine \(rename\): .*chattr -i"),
        ("symlink", "gone", r"cannot put the link in its place \(rename\): .*chattr -i"),
        ("hardlink", "kept", r"the kept file or its folder is immutable .*chattr -i"),
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
        _refused(world, world.order(action), said)
    finally:
        subprocess.run(["chattr", "-i", path], check=True)


@pytest.mark.parametrize("action", HIDING)
def test_a_read_only_disk_is_named(disk: Callable[[str], str], tmp_path: Path, action: str) -> None:
    """Nothing is changed, nor is it told to make room."""
    world = make_world(disk("ext4"), state=str(tmp_path / "state"))
    order = world.order(action)
    mount = os.path.dirname(os.path.dirname(world.root))
    subprocess.run(["mount", "-o", "remount,ro", mount], check=True)
    try:
        _refused(world, order, "read-only file system; mount it for writing")
    finally:
        subprocess.run(["mount", "-o", "remount,rw", mount], check=True)


@pytest.mark.parametrize("action", HIDING)
def test_hostile_names(tmp_path: Path, action: str) -> None:
    """Not UTF-8, line breaks, as long as can be, like a pattern or a link: all are acted on and come back."""
    for number, name in enumerate(HOSTILE):
        world = make_world(str(tmp_path / str(number)), sidecars=False)
        path = os.path.join(os.path.dirname(world.gone), name)
        os.rename(world.gone, path)
        before = world.look()
        for freed in (False, True):
            order = Order(action, "file", side(world.kept, world.root), side(path, world.root))
            with world.actor() as actor:
                result = act(actor, order)
                assert result.state in ("hidden", "quarantined")
                if freed:
                    (result,) = actor.free([FreeOrder(result.id, (order.kept,))])
                    assert result.state in ("freed", "linked"), result.text
                actor.undo([result.id])
            assert world.look() == before
        assert not world.leftovers()
