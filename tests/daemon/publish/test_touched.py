"""The core tells the publisher of every name that changed, whatever happens between the two."""

from __future__ import annotations

import tempfile
from pathlib import Path
from unittest.mock import patch

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from msgspec.structs import replace

import lorad.index.commits
from lorad.catalog import Catalog
from lorad.index.commits import Commits, PresentTerms
from lorad.index.known_files import Files
from lorad.index.records import File, is_under
from lorad.index.statistics import Statistics
from lorad.library import Status
from lorad.pipeline.protocol import Identity, Publish, Published
from lorad.publish.publisher import Publisher
from tests.daemon.publish.plain import rendered_anew, written

PATHS = tuple(
    root + name for root in (b"/a/", b"/b/") for name in (b"1", b"2", b"3", b"4", b"\xff", b"6", b"7", b"8")
)


class Line:
    """Takes what the recorder asks the publisher; it is answered when the test wants."""

    def __init__(self) -> None:
        self.asked: Publish | None = None

    def publish(self, message: Publish) -> None:
        assert self.asked is None, "one request at a time"
        self.asked = message


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class Core(RuleBasedStateMachine):
    """Real files, catalogue, recorder and publisher; changes, commits, answers, failures, runs at random."""

    @initialize(burst=st.sampled_from([0.25, 1.0]))
    def start(self, burst: float) -> None:
        self.place = tempfile.TemporaryDirectory()
        self.state = self.place.name
        self.clock = Clock()
        self.patches = [
            patch.object(lorad.index.commits, "time", self.clock),
            patch.object(lorad.index.commits, "_BURST", burst),
        ]
        for each in self.patches:
            each.start()
        self.inode = 0
        self.publisher = Publisher(self.state)
        self.run([b"/a", b"/b"])
        for path in PATHS[:6]:
            self.appear(path)

    def run(self, roots: list[bytes]) -> None:
        self.roots = roots
        self.catalog = Catalog(self.state)
        for number in range(3):
            self.catalog.layouts.number(bytes([number]) * 32, b"")
        self.files = Files(self.catalog)
        self.files.load(is_under(roots))
        self.line = Line()
        terms = PresentTerms(self.files, roots, follow=False)
        self.commits = Commits(self.catalog, self.files, self.line, Statistics(), self.state, terms=terms)

    def teardown(self) -> None:
        if not hasattr(self, "line"):
            return
        self.settle()
        self.catalog.close()
        for each in self.patches:
            each.stop()
        self.place.cleanup()

    def paths(self, number: int) -> bytes:
        known = sorted(self.files.by_path)
        return known[number % len(known)]

    def any_names(self) -> bool:
        return bool(self.files.by_path)

    @rule(path=st.sampled_from(PATHS))
    def appear(self, path: bytes) -> None:
        """A new file, in place of what had the name."""
        if not is_under(self.roots)(path):
            return
        if path in self.files.by_path:
            self.vanish_path(path)
        self.inode += 1
        self.files.name(self.files.add(Identity(1, self.inode, 10 * self.inode, self.inode % 3, 0)), path)

    @precondition(any_names)
    @rule(number=st.integers(0, 99), path=st.sampled_from(PATHS))
    def link(self, number: int, path: bytes) -> None:
        """Another name of a file, in place of what had the name."""
        if not is_under(self.roots)(path):
            return
        file = self.files.by_path[self.paths(number)]
        if file.passed_over or path in file.names:
            return
        if path in self.files.by_path:
            self.vanish_path(path)
        self.files.name(file, path)

    @rule(path=st.sampled_from(PATHS))
    def pass_over(self, path: bytes) -> None:
        if is_under(self.roots)(path) and path not in self.files.by_path:
            file = self.files.pass_over(Identity(0, 0, 0, 0, 0), Status.IGNORED, "a symbolic link")
            self.files.name(file, path)

    @precondition(any_names)
    @rule(number=st.integers(0, 99))
    def vanish(self, number: int) -> None:
        self.vanish_path(self.paths(number))

    def vanish_path(self, path: bytes) -> None:
        file = self.files.unname(path)
        if not file.names:
            self.files.forget(file)

    @precondition(any_names)
    @rule(number=st.integers(0, 99))
    def forget(self, number: int) -> None:
        self.files.forget(self.files.by_path[self.paths(number)])

    @precondition(any_names)
    @rule(number=st.integers(0, 99))
    def renumber(self, number: int) -> None:
        file = self.files.by_path[self.paths(number)]
        if not file.passed_over:
            self.files.restamp(file, replace(file.identity, dev=file.identity.dev + 1))

    @precondition(any_names)
    @rule(
        number=st.integers(0, 99),
        status=st.sampled_from(list(Status)),
        layout=st.integers(1, 3),
        weights=st.integers(0, 1),
        residue=st.booleans(),
    )  # fmt: skip
    def learn(self, number: int, status: Status, layout: int, weights: int, residue: bool) -> None:
        file: File = self.files.by_path[self.paths(number)]
        file.layout, file.signature = layout, bytes([weights]) * 32
        file.residue = b"r" * 32 if residue else None
        self.files.set_status(file, status)

    @rule(settled=st.booleans(), wait=st.sampled_from([0.0, 0.3, 60.0]))
    def record(self, settled: bool, wait: float) -> None:
        self.clock.now += wait
        self.commits.record(settled=settled)

    @rule()
    def save(self) -> None:
        self.commits.save()

    @precondition(lambda self: self.line.asked is not None)
    @rule()
    def answer(self) -> None:
        """The publisher does what it was asked for, perhaps when the catalogue has gone on."""
        asked, self.line.asked = self.line.asked, None
        generation = self.publisher.publish(asked)
        self.commits.was_published(Published(generation, 0.0))
        if generation == self.catalog.generation:
            assert written(Path(self.state)) == rendered_anew(Path(self.state))
        else:
            assert generation < asked.generation

    @precondition(lambda self: self.line.asked is not None)
    @rule()
    def fail(self) -> None:
        """The disk is full."""
        asked, self.line.asked = self.line.asked, None
        with patch("lorad.publish.publisher.replace_together", side_effect=OSError(28, "full")):
            try:
                generation, error = self.publisher.publish(asked), ""
            except OSError as trouble:
                generation, error = -1, str(trouble)
        self.commits.was_published(Published(generation, 0.0, error))

    @rule()
    def die(self) -> None:
        """The publisher is killed, with or without a request."""
        self.line.asked = None
        self.publisher = Publisher(self.state)
        self.commits.was_published(Published(-1, 0.0))

    @rule(roots=st.sampled_from([[b"/a"], [b"/a", b"/b"]]))
    def run_again(self, roots: list[bytes]) -> None:
        """A new run, perhaps of other folders, after what was saved of this one."""
        self.catalog.close()
        self.publisher = Publisher(self.state)
        self.run(roots)

    @precondition(any_names)
    @rule(first=st.integers(0, 99), second=st.integers(0, 99), status=st.sampled_from(list(Status)))
    def outrun(self, first: int, second: int, status: Status) -> None:
        """The catalogue goes on between request and answer, as it may when the machine is busy."""
        self.settle()
        self.learn(first, status, 1, 0, True)
        self.commits.record(settled=True)
        self.learn(second, Status.FAILED, 2, 1, False)
        self.commits.save()
        if self.line.asked is not None:
            self.answer()

    @rule()
    def settle(self) -> None:
        """In the end the files say what is known."""
        for _ in range(6):
            self.clock.now += 60
            self.commits.record(settled=True)
            if self.line.asked is not None:
                self.answer()
        assert self.commits.up_to_date
        assert written(Path(self.state)) == rendered_anew(Path(self.state))


def test_what_was_not_rendered_is_told_again() -> None:
    """Changes that a request told in vain, because the catalogue had gone on, are part of the next one."""
    core = Core()
    core.start(burst=1.0)
    core.settle()
    core.outrun(first=0, second=1, status=Status.UNIQUE)
    core.commits.record(settled=True)
    assert core.line.asked is not None
    assert core.line.asked.touched is not None
    assert {core.paths(0), core.paths(1)} <= set(core.line.asked.touched)
    core.teardown()


def test_few_changes_are_told_by_name() -> None:
    """All is read again only by a publisher that is new, that failed, or that has most of it to read anyway."""
    core = Core()
    core.start(burst=0.25)
    core.commits.record(settled=True)
    assert core.line.asked is not None
    assert core.line.asked.touched is None, "the first time"
    core.answer()
    core.learn(0, Status.UNIQUE, 1, 0, False)
    core.commits.record(settled=True)
    assert core.line.asked.touched == [core.paths(0)]
    core.die()
    core.commits.record(settled=True)
    assert core.line.asked.touched is None, "another process"
    core.answer()
    for number in range(3):
        core.learn(number, Status.FAILED, 1, 0, False)
    core.commits.record(settled=True)
    assert core.line.asked.touched is None, "half of all"
    core.teardown()


Core.TestCase.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestCore = Core.TestCase
