"""A small library of two files that are the same, what it looks like, and a process that dies at a step."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import struct
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from loracore.identity import Identity
from lorad.dedupe.action.actor import Actor
from lorad.dedupe.action.journal import Journal
from lorad.dedupe.action.journal_file import JOURNAL
from lorad.dedupe.action.order import FreeOrder, Order, Refused, Result, Savings, Side
from tests.builders.architectures import sd15
from tests.builders.weights import random_weights
from tests.builders.write import write_safetensors

SPECS = sd15(width=8, every=12)
KEPT, GONE = b"models/kept.safetensors", b"downloads/new/gone.safetensors"
SIDECARS = {b"downloads/new/gone.civitai.info": b"{}", b"downloads/new/gone.preview.png": b"a picture"}
#: Owner and others as usual, and one more user who may read: version, then tag, permissions and id of each.
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *each)
    for each in ((1, 6, 0xFFFFFFFF), (2, 4, 1234), (4, 4, 0xFFFFFFFF), (16, 4, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF))
)


class Look(NamedTuple):
    """All of a name that an undo must bring back; a link says where it leads."""

    kind: int
    content: bytes
    mode: int
    owner: tuple[int, int]
    times: tuple[int, int]
    xattrs: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True)
class World:
    """A root with the two files, and a state folder."""

    root: bytes
    state: str

    @property
    def kept(self) -> bytes:
        return os.path.join(self.root, KEPT)

    @property
    def gone(self) -> bytes:
        return os.path.join(self.root, GONE)

    def order(self, action: str, level: str = "file", *, sidecars: str = "keep") -> Order:
        size = os.path.getsize(self.gone)
        kept, gone = side(self.kept, self.root), side(self.gone, self.root)
        return Order(action, level, kept, gone, sidecars, bytes=size)

    def actor(self, at: Callable[[str], None] = lambda step: None) -> Actor:
        return Actor(self.state, at=at)

    def apply(self, action: str, level: str = "file", *, sidecars: str = "keep") -> Result:
        with self.actor() as actor:
            return act(actor, self.order(action, level, sidecars=sidecars))

    def free(self, *numbers: int, keepers: Sequence[bytes] | None = None) -> Result:
        """Free these for the kept file, or for others; what came of the last one."""
        sides = tuple(side(path, self.root) for path in ((self.kept,) if keepers is None else keepers))
        with self.actor() as actor:
            return actor.free([FreeOrder(number, sides) for number in numbers])[-1]

    def give_back(self, number: int) -> Result:
        with self.actor() as actor:
            (result,) = actor.give_back([number])
        return result

    def undo(self, number: int) -> Result:
        with self.actor() as actor:
            return take_back(actor, number)

    def history(self, after: int = 0, limit: int = 1000) -> list[Result]:
        if not os.path.exists(os.path.join(self.state, JOURNAL)):
            return []
        with contextlib.closing(Journal(self.state, writing=False)) as journal:
            return [entry.result() for entry in journal.history(after, limit)]

    def savings(self) -> Savings:
        with contextlib.closing(Journal(self.state, writing=False)) as journal:
            return journal.savings()

    def look(self) -> dict[bytes, Look]:
        """Every name beneath the root but folders, hidden ones too."""
        return {os.path.relpath(path, self.root): look(path) for path in files_in(self.root)}

    def leftovers(self) -> list[bytes]:
        """What only an action that is under way, or one that can be undone, may leave."""
        found = [name for name in files_in(self.root) if b"/.lorad" in name]
        found += files_in(os.fsencode(os.path.join(self.state, "recipes")))
        found += files_in(os.fsencode(os.path.join(self.state, "quarantine")))
        return found


def act(actor: Actor, order: Order) -> Result:
    """Carry out one order. Raises Refused where it was not done."""
    (result,) = actor.apply([order])
    if result.state == "refused":
        raise Refused(result.text, os.fsdecode(result.path))
    return result


def take_back(actor: Actor, number: int) -> Result:
    """Undo one action. Raises Refused where it was not."""
    (result,) = actor.undo([number])
    if result.state == "refused":
        raise Refused(result.text, os.fsdecode(result.path))
    return result


def another(world: World, name: bytes, *, of: bytes = b"", note: bytes = b"another") -> bytes:
    """One more copy of the kept file, or of another, with attributes of its own."""
    path = os.path.join(world.root, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    shutil.copyfile(of or world.kept, path)
    dress(path, note, 1_400_000_000_111_111_111)
    return path


def side(path: bytes, root: bytes) -> Side:
    return Side(path, Identity.of(os.lstat(path)), root)


def files_in(folder: bytes) -> list[bytes]:
    return [os.path.join(base, name) for base, _, names in os.walk(folder) for name in sorted(names)]


def read(path: bytes) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NOATIME)
    with open(fd, "rb") as file:
        return file.read()


def look(path: bytes) -> Look:
    status = os.lstat(path)
    owner, kind = (status.st_uid, status.st_gid), stat.S_IFMT(status.st_mode)
    if stat.S_ISLNK(status.st_mode):
        return Look(kind, os.readlink(path), 0, owner, (0, 0), ())
    names = sorted(os.listxattr(path, follow_symlinks=False))
    return Look(
        kind,
        read(path),
        stat.S_IMODE(status.st_mode),
        owner,
        (status.st_atime_ns, status.st_mtime_ns),
        tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in names),
    )


def make_world(folder: str, *, level: str = "file", state: str | None = None, sidecars: bool = True) -> World:
    """Two files that are the same at `level`, with attributes that nobody has by default, and sidecars."""
    root = os.fsencode(os.path.join(folder, "root"))
    for path in (KEPT, GONE):
        os.makedirs(os.path.join(root, os.path.dirname(path)), exist_ok=True)
    world = World(root, state or os.path.join(folder, "state"))
    layers = random_weights(SPECS, 1)
    write_safetensors(os.fsdecode(world.kept), layers, metadata={"ss_network_dim": "8"})
    if level == "file":
        write_safetensors(os.fsdecode(world.gone), layers, metadata={"ss_network_dim": "8"})
    else:
        order = sorted(layers, reverse=True)
        write_safetensors(os.fsdecode(world.gone), layers, order=order, metadata={"title": "other"}, padding=13)
    if sidecars:
        for name, content in SIDECARS.items():
            with open(os.path.join(root, name), "wb") as file:
                file.write(content)
    dress(world.kept, b"kept", 1_600_000_000_123_456_789)
    dress(world.gone, b"gone", 1_500_000_000_987_654_321)
    return world


def dress(path: bytes, note: bytes, mtime_ns: int) -> None:
    """The same access for both files, and other times and attributes for each."""
    if os.geteuid() == 0:
        os.chown(path, 1234, 2345)
    os.setxattr(path, "user.note", note)
    os.setxattr(path, "system.posix_acl_access", ACL)
    os.utime(path, ns=(mtime_ns + 5, mtime_ns))


def dies_at(
    world: World,
    where: int | str,
    act: Callable[[Actor], object],
    meanwhile: Callable[[str], object] = lambda step: None,
) -> str:
    """Let a process of its own act, and kill itself (SIGKILL) at the step of this number, or name; the step.

    `meanwhile` is called at each step, before.
    """
    reading, writing = os.pipe()
    seen = 0

    def at(step: str) -> None:
        nonlocal seen
        meanwhile(step)
        if where in (seen, step):
            os.write(writing, step.encode())
            os.kill(os.getpid(), signal.SIGKILL)
        seen += 1

    with warnings.catch_warnings():
        # It does nothing but act and die, whatever threads there are here.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        try:
            act(world.actor(at))
        finally:
            os._exit(1)
    os.close(writing)
    with open(reading, "rb") as pipe:
        step = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"it ended by itself before step {where}"
    assert os.WTERMSIG(status) == signal.SIGKILL
    return step


def steps_of(act: Callable[[Callable[[str], None]], object]) -> list[str]:
    steps: list[str] = []
    act(steps.append)
    return steps


def expected(steps: Sequence[str], after: str, name: str, count: int) -> list[str]:
    """The documented steps with those of so many sidecars."""
    at = steps.index(after) + 1
    return [*steps[:at], *[name] * count, *steps[at:]]
