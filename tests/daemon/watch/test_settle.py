"""A name is due when it is quiet and looks the same twice, never before, and always in the end."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from loracore.config import Watch
from lorad.watch.settle import SettleQueue

SETTINGS = Watch(settle_seconds=1.0, quiet_seconds=5.0)
NAMES = [b"a", b"b", b"c"]


class File(NamedTuple):
    content: int
    ctime_ns: int


class World:
    """Files, and a clock that only moves when it is told to. Wall time is a round number ahead of it."""

    def __init__(self, limit: int = 200_000) -> None:
        self.now = 100.0
        self.files: dict[bytes, File] = {}
        self.looks = 0
        self.queue: SettleQueue[File] = SettleQueue(
            SETTINGS, look=self.look, clock=lambda: self.now, wall=lambda: self.now + 1e6, limit=limit
        )

    def look(self, path: bytes) -> File | None:
        self.looks += 1
        return self.files.get(path)

    def write(self, path: bytes, ctime: float | None = None) -> None:
        before = self.files.get(path, File(0, 0))
        ctime = self.now + 1e6 + 1e-4 if ctime is None else ctime
        self.files[path] = File(before.content + 1, int(ctime * 1e9))

    def after(self, seconds: float) -> list[bytes]:
        self.now += seconds
        return self.queue.due(self.now)


def test_a_closed_file_is_due_after_the_short_wait_and_a_written_one_after_the_long() -> None:
    world = World()
    for path, closed in ((b"a", True), (b"b", False)):
        world.write(path)
        world.queue.add(path, closed)
    assert world.queue.next_due == 101.0
    assert world.after(0.9) == []
    assert world.after(0.2) == [b"a"]
    assert world.queue.next_due == 105.0
    assert world.after(3.8) == []
    assert world.after(0.2) == [b"b"]
    assert len(world.queue) == 0
    assert world.queue.next_due is None


def test_a_name_that_vanished_is_due_at_once() -> None:
    """Whether it was gone when the event came or goes while it waits."""
    world = World()
    world.queue.add(b"gone", False)
    assert world.after(0) == [b"gone"]
    world.write(b"a")
    world.queue.add(b"a", False)
    del world.files[b"a"]
    world.queue.add(b"a", True)
    assert world.after(0) == [b"a"]


def test_a_file_that_grows_without_end_is_never_due_and_holds_up_no_other() -> None:
    """With events that tell of it, and without."""
    world = World()
    for path in (b"told", b"silent", b"other"):
        world.write(path)
        world.queue.add(path, True)
    due = []
    for _ in range(200):
        world.write(b"told")
        world.write(b"silent")
        world.queue.add(b"told", False)
        due += world.after(0.5)
    assert due == [b"other"]
    assert {b"told", b"silent"} == world.queue.names()
    due = world.after(1.1)
    world.write(b"x")
    assert set(due + world.after(5.1)) == {b"told", b"silent"}


def test_a_file_rewritten_with_the_same_content_is_not_due_while_that_goes_on() -> None:
    """Its ctime tells, even where size and mtime are put back."""
    world = World()
    world.files[b"a"] = File(1, int((world.now + 1e6) * 1e9) + 1)
    world.queue.add(b"a", True)
    for _ in range(50):
        world.files[b"a"] = File(1, int((world.now + 1e6) * 1e9) + 1)
        assert world.after(0.9) == []


def test_a_write_within_the_same_tick_cannot_hide() -> None:
    """A file whose ctime is this moment waits for a tick more; two seconds where times are whole seconds."""
    world = World()
    world.write(b"a")
    world.queue.add(b"a", True)
    world.write(b"coarse", ctime=1_000_100.0)
    world.queue.add(b"coarse", True)
    world.now += 0.99
    world.queue.settings = Watch(settle_seconds=0.0)
    world.write(b"b")
    world.queue.add(b"b", True)
    assert world.queue.due(world.now) == []
    assert set(world.after(0.021)) == {b"a", b"b"}
    assert world.after(0.5) == []
    assert world.after(0.5) == [b"coarse"]


def test_a_clock_that_is_ahead_does_not_hold_a_file_back_for_ever() -> None:
    """Of a server's, or after this machine's was put back."""
    world = World()
    world.write(b"a", ctime=2e6 + 0.5)
    world.queue.add(b"a", True)
    assert world.after(1.01) == [b"a"]


def test_no_more_names_wait_than_there_is_room_for_and_the_core_is_told() -> None:
    world = World(limit=2)
    for path in NAMES:
        world.write(path)
    assert [world.queue.add(path, True) for path in NAMES] == [True, True, False]
    assert world.queue.add(b"a", True)
    assert set(world.after(1.1)) == {b"a", b"b"}


def test_a_million_events_of_one_file_cost_no_more_room_than_one() -> None:
    world = World()
    world.write(b"a")
    for number in range(10_000):
        world.now += 0.001
        world.queue.add(b"a", bool(number % 2))
    assert len(world.queue._heap) <= 2


def test_a_file_that_comes_and_goes_costs_no_more_room_than_one() -> None:
    """Also where the next due time is asked for in between."""
    world = World()
    for _ in range(1000):
        world.write(b"a")
        world.queue.add(b"a", False)
        assert world.queue.next_due is not None
        del world.files[b"a"]
        world.queue.add(b"a", False)
        assert world.queue.next_due == world.now
    assert len(world.queue._heap) <= 3


def test_many_due_at_once_come_in_parts_so_that_the_core_can_do_other_things() -> None:
    world = World()
    for number in range(30):
        world.write(b"%d" % number)
        world.queue.add(b"%d" % number, True)
    world.now += 2
    assert [len(world.queue.due(world.now, most=20)) for _ in range(3)] == [20, 10, 0]


class Settling(RuleBasedStateMachine):
    """Against the promise itself: the time since a name's last event and since its last change."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.told: dict[bytes, tuple[float, bool]] = {}
        self.changed: dict[bytes, float] = {}

    @rule(path=st.sampled_from(NAMES), closed=st.booleans(), silent=st.booleans())
    def write(self, path: bytes, closed: bool, silent: bool) -> None:
        self.world.write(path)
        self.changed[path] = self.world.now
        if not silent:
            self.event(path, closed)

    @rule(path=st.sampled_from(NAMES), closed=st.booleans())
    def event(self, path: bytes, closed: bool) -> None:
        self.world.queue.add(path, closed)
        self.told[path] = (self.world.now, closed)

    @rule(path=st.sampled_from(NAMES))
    def delete(self, path: bytes) -> None:
        if self.world.files.pop(path, None):
            self.event(path, True)

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.3, 1.0, 2.0, 6.0]))
    def wait(self, seconds: float) -> None:
        now = self.world.now + seconds
        for path in self.world.after(seconds):
            at, closed = self.told.pop(path)
            quiet = SETTINGS.settle_seconds if closed else SETTINGS.quiet_seconds
            if path in self.world.files:
                assert now - at >= quiet
                assert now - self.changed[path] >= 0.02

    @invariant()
    def all_that_was_told_waits(self) -> None:
        assert self.world.queue.names() == set(self.told)
        due = self.world.queue.next_due
        assert (due is None) == (not self.told)
        assert len(self.world.queue._heap) <= 3 * len(NAMES)

    def teardown(self) -> None:
        """What is left alone is due in the end."""
        for _ in range(4):
            self.world.after(6)
        assert len(self.world.queue) == 0


TestSettling = Settling.TestCase
TestSettling.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
