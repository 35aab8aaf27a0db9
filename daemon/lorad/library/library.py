"""The library's state machine: files come, are read, change and go; out come instructions.

Every method takes one event and returns the instructions that follow from it. A file is a number that the
caller gave to one inode in one state; a file that changed is forgotten and found again under a new number.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from hashlib import blake2b
from typing import NamedTuple

from blake3 import blake3

from lorad.library.questions import LayoutShape, Question
from lorad.library.refinement import Group, Member, Node


class Status(Enum):
    """Where a file stands. The values are the words of `processed.json`."""

    PENDING = "pending"
    """Found; its header was not read yet."""
    GROUPED = "grouped"
    """Its layout is known and others have it too; it is still being told from them."""
    UNIQUE = "unique"
    """No other file holds these weights."""
    DUPLICATE = "duplicate"
    """Another file agrees with it on every layer."""
    FAILED = "failed"
    """It could not be read."""
    IGNORED = "ignored"
    """Not a LoRA file, or not to be looked at."""


class ReadHeader(NamedTuple):
    """Read the file's header and report `header`, `failed` or `ignored`."""

    file: int


class Describe(NamedTuple):
    """A group needs its next question: tell its layout's sizes, and its order in `file`, with `described`."""

    layout: int
    file: int


class Ask(NamedTuple):
    """Digest these pieces of the file (or recall their digests) and report `answered`."""

    file: int
    layout: int
    question: Question


class Share(NamedTuple):
    """`file` agrees with `source` on every layer, so it gives the same answer to question `number`."""

    source: int
    file: int
    layout: int
    number: int


class Planned(NamedTuple):
    """The group's sequence of questions is now this one; `exhausted` when it asks for every layer."""

    layout: int
    sequence: tuple[Question, ...]
    exhausted: bool


class Changed(NamedTuple):
    """The file's status, or the refined group it belongs to (`key`, within its layout), is now this."""

    file: int
    status: Status
    key: bytes


Instruction = ReadHeader | Describe | Ask | Share | Planned | Changed

_ZEROS: dict[int, bytes] = {}


def _zero_digest(length: int) -> bytes:
    if length not in _ZEROS:
        _ZEROS[length] = blake3(bytes(length)).digest()
    return _ZEROS[length]


class Library:
    """All files and groups. See the module's docstring for the protocol."""

    def __init__(self) -> None:
        self.groups: dict[int, Group] = {}
        #: The one file of each layout that has no group: most layouts of a large library are seen once.
        self._alone: dict[int, int] = {}
        self._members: dict[int, Member] = {}
        self._layouts: dict[int, int] = {}
        self._told: dict[int, tuple[Status, bytes]] = {}
        self._out: list[Instruction] = []

    def found(self, file: int) -> list[Instruction]:
        """A file appeared, of which nothing is known yet."""
        self._tell(file, Status.PENDING, b"")
        self._out.append(ReadHeader(file))
        return self._drain()

    def header(self, file: int, layout: int) -> list[Instruction]:
        """A file's header was read and promises this layout."""
        self._place(file, layout)
        return self._drain()

    def restore(self, file: int, layout: int, answers: dict[int, bytes], twin: int | None) -> list[Instruction]:
        """A file is known from an earlier run, with the keys of the answers that it gave then.

        `twin` is a file that was restored before and agrees with it on every layer.
        """
        if twin in self._members:
            self._join(file, self._members[twin], self.groups[layout])
        else:
            self._place(file, layout, answers)
        return self._drain()

    def planned(self, layout: int, sequence: Sequence[Question], exhausted: bool) -> None:
        """A group's questions are known from an earlier run. Comes before its files."""
        self.groups[layout] = Group(layout, sequence, exhausted)

    def described(self, layout: int, shape: LayoutShape) -> list[Instruction]:
        """What `Describe` asked for."""
        group = self.groups[layout]
        if group.shape is None:
            group.shape = shape
            self._settle(group, list(group.nodes()))
        return self._drain()

    def answered(self, file: int, number: int, digests: bytes) -> list[Instruction]:
        """The digests of a question's pieces, 32 bytes each, in its order. Answers out of date are ignored."""
        member = self._members.get(file)
        if member is None or member.node is None:
            return []
        group = self.groups[self._layouts[file]]
        question = group.question(number)
        if question is None:
            return []
        if not question.confirms:
            for place, piece in enumerate(question.pieces):
                if digests[32 * place : 32 * place + 32] == _zero_digest(piece.length):
                    group.dull.add(piece.layer)
        member.answers[number] = answer_key(digests)
        member.fingerprint = (number, digests[::32])
        self._out.extend(Share(file, other, group.layout, number) for other in member.files if other != file)
        self._settle(group, [member.node])
        return self._drain()

    def failed(self, file: int) -> list[Instruction]:
        """The file could not be read: it leaves its group."""
        self._leave(file)
        self._tell(file, Status.FAILED, b"")
        return self._drain()

    def ignored(self, file: int) -> list[Instruction]:
        """The file is not one to compare."""
        self._leave(file)
        self._tell(file, Status.IGNORED, b"")
        return self._drain()

    def forget(self, file: int) -> list[Instruction]:
        """The file vanished, or is no longer what it was."""
        self._leave(file)
        self._told.pop(file, None)
        return self._drain()

    def forget_unused(self) -> None:
        """Drop the questions of layouts that no file has any more: their numbers may get another meaning."""
        self.groups = {layout: group for layout, group in self.groups.items() if group.size}

    def twins(self, file: int) -> Sequence[int]:
        """The files that agree with this one on every layer, itself among them."""
        member = self._members.get(file)
        return member.files if member else [file]

    def has_layout(self, layout: int) -> bool:
        """Whether some file has this layout."""
        return layout in self._alone or (layout in self.groups and self.groups[layout].size > 0)

    def sequence(self, layout: int) -> tuple[Question, ...]:
        """The questions that a group has asked so far, in their order."""
        return tuple(self.groups[layout].sequence)

    def asks_again(self, layout: int, number: int) -> bool:
        """Whether a question asks for layers that another one of the group asks for as well."""
        return number in self.groups[layout].repeated

    def _place(self, file: int, layout: int, answers: dict[int, bytes] | None = None) -> None:
        self._layouts[file] = layout
        group = self.groups.get(layout)
        if group is None:
            first = self._alone.pop(layout, None)
            if first is None and not answers:
                self._alone[layout] = file
                self._tell(file, Status.UNIQUE, b"")
                return
            group = self.groups[layout] = Group(layout)
            if first is not None:
                self._add(group, Member(first))
        member = Member(file)
        if answers:
            member.answers = answers
        self._add(group, member)
        self._settle(group, [group.root])

    def _add(self, group: Group, member: Member) -> None:
        self._members[member.files[0]] = member
        group.add(member)

    def _join(self, file: int, member: Member, group: Group) -> None:
        """A file takes its place beside its twins, without being asked anything."""
        member.files.append(file)
        group.size += 1
        self._members[file] = member
        self._layouts[file] = group.layout
        self._tell_member(group, member)

    def _leave(self, file: int) -> None:
        layout = self._layouts.pop(file, None)
        if layout is None:
            return
        if self._alone.get(layout) == file:
            del self._alone[layout]
            return
        member = self._members.pop(file)
        group = self.groups[layout]
        node = group.remove(member, file)
        if not group.size:
            # The sequence is kept: it is what answers in the catalogue were given to.
            self.groups[group.layout] = Group(group.layout, group.sequence, group.exhausted)
        elif node is not None:
            self._settle(group, [node])

    def _settle(self, group: Group, nodes: Iterable[Node]) -> None:
        """Let members descend by what they answered, ask where they did not, until nothing moves."""
        before = (group.sequence.copy(), group.exhausted)
        work = list(nodes)
        emptied = False
        while work:
            node = work.pop()
            if node.crowded and self._must_learn(group, node):
                group.rebuild()
                work = [group.root]
                continue
            if node.crowded:
                work.extend(self._question(group, node))
            for member in node.members:
                self._tell_member(group, member)
            emptied |= not node.members and not node.awaited
        if emptied:
            for member in list(group.untold):
                self._tell_member(group, member)
        if before != (group.sequence, group.exhausted):
            self._out.append(Planned(group.layout, tuple(group.sequence), group.exhausted))

    def _must_learn(self, group: Group, node: Node) -> bool:
        """A newcomer is about to be compared by whole layers, and the group knows of a better question."""
        return bool(group.hint) and node.depth == group.first_confirming_depth and group.take_hint()

    def _question(self, group: Group, node: Node) -> list[Node]:
        """Ask the node's question of its members; the nodes entered by those that had answered before."""
        question = group.question_at(node.depth)
        if question is None:
            if group.exhausted:
                self._merge(group, node)
            elif not group.describing:
                group.describing = True
                self._out.append(Describe(group.layout, next(group.members()).files[0]))
            return []
        entered: dict[Node, None] = {}
        for member in list(node.members):
            if question.number in member.answers:
                _, child = group.descend(member, question)
                entered[child] = None
            elif question.number not in member.asked:
                member.asked.add(question.number)
                self._out.append(Ask(member.files[0], group.layout, question))
        return list(entered)

    def _merge(self, group: Group, node: Node) -> None:
        """Every layer agreed: the node's members become one."""
        first, *others = node.members
        for other in others:
            source, target = first.files[0], other.files[0]
            for number in first.answers.keys() - other.answers.keys():
                self._out.extend(Share(source, file, group.layout, number) for file in other.files)
            for number in other.answers.keys() - first.answers.keys():
                self._out.extend(Share(target, file, group.layout, number) for file in first.files)
            first.answers.update(other.answers)
            first.files.extend(other.files)
            for file in other.files:
                self._members[file] = first
            del node.members[other]
            group.untold.pop(other, None)
            other.node = None

    def _tell_member(self, group: Group, member: Member) -> None:
        node = member.node
        assert node is not None
        group.untold.pop(member, None)
        key = node.key
        if len(member.files) > 1:
            # Where they stand now may say less: a question that was put in early is still to be answered.
            status, key = Status.DUPLICATE, group.whole_key(member)
        elif node.crowded:
            status = Status.GROUPED
        elif node.awaited:
            status = Status.GROUPED
            group.untold[member] = None
        else:
            status = Status.UNIQUE
        for file in member.files:
            self._tell(file, status, key)

    def _tell(self, file: int, status: Status, key: bytes) -> None:
        if self._told.get(file) != (status, key):
            self._told[file] = (status, key)
            self._out.append(Changed(file, status, key))

    def _drain(self) -> list[Instruction]:
        out, self._out = self._out, []
        return out


def answer_key(digests: bytes) -> bytes:
    """What stands for an answer in memory and in the tree: 32 bytes over its digests."""
    return blake2b(digests, digest_size=32).digest()
