"""The state machine against a brute-force oracle, through adds, changes, answers, failures and removals."""

from __future__ import annotations

import random
from collections import defaultdict

from blake3 import blake3
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from lorad.library import Ask, Changed, Describe, LayoutShape, Library, Planned, ReadHeader, Share, Status
from lorad.library.library import Instruction, answer_key

#: Layouts with few and many layers, tiny ones, ones worth sampling and ones read in several runs.
LAYOUTS = {
    1: (4, 4, 100),
    2: (4, *[40_000] * 6, 4),
    3: (100_000,) * 60,
    4: (2, 9_000, 9_000, 9_000, 5_000_000),
    5: (200_000,) * 3,
    6: (70_000,),
}


class Content:
    """A file's layers as seeds: equal seeds are equal layers, seed 0 is all zeros.

    A layer differs from another in every sample, or, for seeds above 100, only in its last byte.
    """

    def __init__(self, layout: int, seeds: tuple[int, ...]) -> None:
        self.layout = layout
        self.seeds = seeds

    def __repr__(self) -> str:
        return f"Content({self.layout}, {self.seeds})"

    def digest(self, layer: int, start: int, length: int) -> bytes:
        seed = self.seeds[layer]
        whole = start + length == LAYOUTS[self.layout][layer]
        base = seed % 100
        if base == 0 and not (whole and seed):
            return blake3(bytes(length)).digest()
        return blake3(f"{base} {seed if whole else ''} {start} {length}".encode()).digest()


class Driver:
    """Plays the engine: answers instructions from the contents, in any order, and keeps what it was told."""

    def __init__(self) -> None:
        self.library = Library()
        self.contents: dict[int, Content] = {}
        self.todo: list[Instruction] = []
        self.status: dict[int, Status] = {}
        self.key: dict[int, bytes] = {}
        self.answers: dict[int, dict[int, bytes]] = defaultdict(dict)
        self.plans: dict[int, Planned] = {}
        self.failed: set[int] = set()
        self.read: dict[int, list[tuple[int, int, int]]] = defaultdict(list)

    def take(self, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            match instruction:
                case Changed(file, status, key):
                    self.status[file], self.key[file] = status, key
                case Share(source, file, _, number):
                    self.answers[file][number] = self.answers[source][number]
                case Planned():
                    self.plans[instruction.layout] = instruction
                case _:
                    self.todo.append(instruction)

    def do(self, instruction: Instruction) -> None:
        match instruction:
            case ReadHeader(file) if file in self.contents and file not in self.failed:
                self.take(self.library.header(file, self.contents[file].layout))
            case Describe(layout, _):
                sizes = LAYOUTS[layout]
                self.take(self.library.described(layout, LayoutShape(sizes, range(len(sizes)))))
            case Ask(file, _, question) if file in self.contents and file not in self.failed:
                pieces = [(piece.layer, piece.start, piece.length) for piece in question.pieces]
                self.read[file].extend(pieces)
                digests = b"".join(self.contents[file].digest(*piece) for piece in pieces)
                self.answers[file][question.number] = answer_key(digests)
                self.take(self.library.answered(file, question.number, digests))

    def finish(self) -> None:
        while self.todo:
            self.do(self.todo.pop(0))

    def forget(self, file: int) -> None:
        del self.contents[file]
        for book in (self.status, self.key, self.answers):
            book.pop(file, None)
        self.failed.discard(file)
        self.take(self.library.forget(file))

    def duplicates(self) -> set[frozenset[int]]:
        sets = defaultdict(set)
        for file, status in self.status.items():
            if status is Status.DUPLICATE:
                sets[self.contents[file].layout, self.key[file]].add(file)
        return {frozenset(files) for files in sets.values()}

    def oracle(self) -> set[frozenset[int]]:
        sets = defaultdict(set)
        for file, content in self.contents.items():
            if file not in self.failed:
                sets[content.layout, content.seeds].add(file)
        return {frozenset(files) for files in sets.values() if len(files) > 1}


@st.composite
def contents(draw: st.DrawFn) -> Content:
    layout = draw(st.sampled_from(sorted(LAYOUTS)))
    size = len(LAYOUTS[layout])
    base = [draw(st.sampled_from([0, 1, 1, 2]))] * size
    for _ in range(draw(st.integers(0, 2))):
        base[draw(st.integers(0, size - 1))] = draw(st.sampled_from([0, 1, 2, 101, 201]))
    return Content(layout, tuple(base))


class Refinement(RuleBasedStateMachine):
    files = Bundle("files")

    def __init__(self) -> None:
        super().__init__()
        self.driver = Driver()
        self.next = 0

    @rule(target=files, content=contents(), copies=st.integers(1, 3))
    def add(self, content: Content, copies: int) -> int:
        for _ in range(copies):
            self.next += 1
            self.driver.contents[self.next] = content
            self.driver.take(self.driver.library.found(self.next))
        return self.next

    @rule(file=consumes(files))
    def remove(self, file: int) -> None:
        self.driver.forget(file)

    @rule(target=files, file=consumes(files), content=contents())
    def change(self, file: int, content: Content) -> int:
        self.driver.forget(file)
        return self.add(content, 1)

    @rule(file=files)
    def fail(self, file: int) -> None:
        self.driver.failed.add(file)
        self.driver.take(self.driver.library.failed(file))

    @rule(seed=st.integers(0, 1000), count=st.integers(1, 30))
    def work(self, seed: int, count: int) -> None:
        """Answers come in any order, and some only after the world has moved on."""
        shuffle = random.Random(seed)
        for _ in range(min(count, len(self.driver.todo))):
            self.driver.do(self.driver.todo.pop(shuffle.randrange(len(self.driver.todo))))

    @rule()
    def restart(self) -> None:
        """A new process knows the plans and the answers of the old one, and asks nothing that it knows."""
        old = self.driver
        old.finish()
        self.driver = new = Driver()
        new.contents, new.failed, new.answers = old.contents, old.failed, old.answers
        new.plans = old.plans
        for plan in old.plans.values():
            new.library.planned(plan.layout, plan.sequence, plan.exhausted)
        twins: dict[tuple[int, bytes], int] = {}
        for file, content in old.contents.items():
            if file in old.failed:
                new.take(new.library.failed(file))
                continue
            twin = None
            if old.status[file] is Status.DUPLICATE:
                twin = twins.setdefault((content.layout, old.key[file]), file)
            answers = dict(old.answers[file])
            new.take(new.library.restore(file, content.layout, answers, None if twin == file else twin))
        assert not [item for item in new.todo if isinstance(item, Ask)], "a restart reads nothing again"
        self.settled()

    @rule()
    def tidy(self) -> None:
        """Layouts that nobody has are forgotten, here and in the catalogue, and may come back as new ones."""
        self.driver.finish()
        self.driver.library.forget_unused()
        used = {file.layout for number, file in self.driver.contents.items() if number not in self.driver.failed}
        self.driver.plans = {layout: plan for layout, plan in self.driver.plans.items() if layout in used}

    @rule()
    def settled(self) -> None:
        self.driver.finish()
        driver = self.driver
        assert driver.duplicates() == driver.oracle()
        together = set().union(*driver.oracle())
        for file in driver.contents:
            if file in driver.failed:
                assert driver.status[file] is Status.FAILED
            elif file not in together:
                assert driver.status[file] is Status.UNIQUE

    @invariant()
    def never_wrong(self) -> None:
        """What is called a duplicate is one, at every moment, and what is called unique has no known twin."""
        for found in self.driver.duplicates():
            assert any(found <= true for true in self.driver.oracle())

    def teardown(self) -> None:
        self.settled()


Refinement.TestCase.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
TestRefinement = Refinement.TestCase


def scan(*contents: Content) -> Driver:
    driver = Driver()
    for file, content in enumerate(contents):
        driver.contents[file] = content
        driver.take(driver.library.found(file))
    driver.finish()
    return driver


def test_a_layout_seen_once_needs_no_weight_byte() -> None:
    """SPEC 2.1: files of different layouts are unique by their headers alone."""
    driver = scan(Content(2, (1,) * 8), Content(3, (1,) * 60))
    assert set(driver.status.values()) == {Status.UNIQUE}
    assert not driver.read


def test_unique_files_in_a_group_cost_sixteen_kibibytes() -> None:
    """SPEC 2.5: a unique file in a group costs four samples of 4 KiB, none in an alpha."""
    driver = scan(*[Content(2, (1, *[seed] * 6, 1)) for seed in range(1, 20)])
    for pieces in driver.read.values():
        assert sum(length for _, _, length in pieces) == 16384
        assert {0, 7}.isdisjoint(layer for layer, _, _ in pieces)


def test_duplicates_are_read_once_beside_their_samples() -> None:
    """SPEC 2.5: confirming costs every layer exactly once."""
    driver = scan(*[Content(3, (7,) * 60)] * 3)
    for pieces in driver.read.values():
        whole = [layer for layer, start, length in pieces if length == 100_000 and start == 0]
        assert sorted(whole) == list(range(60))
        assert sum(length for _, _, length in pieces) == 60 * 100_000 + 16384


def test_a_difference_met_late_is_asked_early_of_the_next_file() -> None:
    """SPEC 2.2, 2.3: a group learns which layer discriminates; the third epoch does not read up to it."""
    epochs = [Content(3, (5,) * 57 + (epoch,) + (5,) * 2) for epoch in range(1, 6)]
    driver = scan(*epochs[:2])
    for file, content in enumerate(epochs[2:], start=2):
        driver.contents[file] = content
        driver.take(driver.library.found(file))
        driver.finish()
        assert sum(length for _, _, length in driver.read[file]) <= 2 * 16384
        assert driver.status[file] is Status.UNIQUE


def test_reading_stops_soon_after_the_first_difference() -> None:
    """SPEC 2.5: files that differ late are read up to the difference and little more."""
    for where in range(25, 60):
        first, second = (Content(3, (5,) * where + (seed,) + (5,) * (59 - where)) for seed in (1, 2))
        driver = scan(first, second)
        for pieces in driver.read.values():
            assert sum(length for _, _, length in pieces) <= (where + 1) * 100_000 + 16384 + (2 << 20) + 200_000


def test_sets_stay_apart_while_a_question_is_put_in_early() -> None:
    """Two sets that differ in one layer; newcomers have the group learn, and all stand together for a moment."""
    same = (1,) * 60
    driver = scan(Content(3, same), Content(3, same), Content(3, (0, *same[1:])), Content(3, (0, *same[1:])))
    for file in (4, 5):
        driver.contents[file] = Content(3, same)
        driver.take(driver.library.found(file))
    while driver.todo:
        driver.do(driver.todo.pop())
        assert {frozenset({0, 1}), frozenset({2, 3})} <= {found - {4, 5} for found in driver.duplicates()}
    assert driver.duplicates() == driver.oracle()


def test_zero_samples_are_replaced() -> None:
    """SPEC 2.2: samples that fall into zero layers are replaced by others before whole layers are read."""
    sizes = LAYOUTS[3]
    zero = {index for index in range(len(sizes)) if index % 15 == 7}
    driver = scan(*[Content(3, tuple(0 if i in zero else seed for i in range(60))) for seed in (1, 2)])
    for pieces in driver.read.values():
        assert sum(length for _, _, length in pieces) <= 2 * 16384
