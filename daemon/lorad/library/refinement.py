"""One group of files of one layout, split by the answers to the group's questions.

The files form a tree: a node holds those that answered all questions above it alike. A file that is alone
in its node is asked nothing more; when another arrives, both are asked the node's question and descend by
their answers. Where no question is left, files are equal on every layer and become one member, asked as one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import blake2b

from lorad.library.questions import (
    SAMPLES,
    LayoutShape,
    Piece,
    Question,
    can_be_sampled,
    next_pieces,
    spread_samples,
)

#: Questions a group may learn from differences it met late.
LESSONS = 4


class Member:
    """A file, or several that agree on every layer. `answers` maps a question's number to its key."""

    __slots__ = ("answers", "asked", "files", "fingerprint", "node")

    def __init__(self, file: int) -> None:
        self.files = [file]
        self.answers: dict[int, bytes] = {}
        self.asked: set[int] = set()
        self.node: Node | None = None
        #: One byte of each digest of the last answer, to see which layers differ.
        self.fingerprint: tuple[int, bytes] | None = None


class Node:
    """Members that answered the first `depth` questions alike."""

    __slots__ = ("answer", "children", "depth", "exemplar", "key", "members", "parent")

    def __init__(self, parent: Node | None, answer: bytes) -> None:
        self.parent = parent
        self.answer = answer
        self.depth: int = parent.depth + 1 if parent else 0
        self.key: bytes = blake2b(parent.key + answer, digest_size=32).digest() if parent else b""
        self.children: dict[bytes, Node] = {}
        self.members: dict[Member, None] = {}
        self.exemplar: bytes | None = None

    @property
    def crowded(self) -> bool:
        """Whether a member here has company that it must be told from."""
        return bool(self.children) or len(self.members) > 1

    @property
    def awaited(self) -> bool:
        """Whether somebody above has still to answer, and may come down here."""
        above = self.parent
        while above is not None:
            if above.members:
                return True
            above = above.parent
        return False


class Group:
    """The files of one layout, once there are two."""

    __slots__ = (
        "describing", "dull", "exhausted", "hint", "layout", "lessons", "repeated", "root", "sequence", "shape",
        "size", "untold",
    )  # fmt: skip

    def __init__(self, layout: int, sequence: Sequence[Question] = (), exhausted: bool = False) -> None:
        self.layout = layout
        self.shape: LayoutShape | None = None
        self.sequence = list(sequence)
        #: The questions that share layers with others, after a lesson.
        self.repeated = _repeated(self.sequence)
        #: Whether the sequence asks for every layer: then who agrees on all of it is a duplicate.
        self.exhausted = exhausted
        self.root = Node(None, b"")
        self.size = 0
        self.dull: set[int] = set()
        self.describing = False
        #: Members that are alone, but may still get company from above.
        self.untold: dict[Member, None] = {}
        #: Layers that told files apart late, to be asked early when the next file comes.
        self.hint: list[int] = []
        self.lessons = 0

    def question(self, number: int) -> Question | None:
        return next((question for question in self.sequence if question.number == number), None)

    def question_at(self, depth: int) -> Question | None:
        """The question of the nodes at `depth`, chosen now if it is a new one.

        None when all was asked (`exhausted`), or while the layout's shape is unknown.
        """
        if depth == len(self.sequence) and not self.exhausted and self.shape is not None:
            chosen = next_pieces(self.shape, self.sequence, self.dull)
            if chosen is None:
                self.exhausted = True
            else:
                confirms, pieces = chosen
                self.sequence.append(Question(self._next_number(), confirms, tuple(pieces)))
        return self.sequence[depth] if depth < len(self.sequence) else None

    def add(self, member: Member) -> None:
        """Put a member at the root. `settle` finds its place."""
        self._enter(self.root, member)
        self.size += len(member.files)

    def remove(self, member: Member, file: int) -> Node | None:
        """Take a file away; the node it left, if that still matters."""
        self.size -= 1
        if member.files[0] == file:
            # It was the one that was asked; what it did not answer will be asked of the next.
            member.asked.clear()
        member.files.remove(file)
        node = member.node
        if node is None or member.files:
            return node
        del node.members[member]
        member.node = None
        self.untold.pop(member, None)
        return self._prune(node)

    def descend(self, member: Member, question: Question) -> tuple[Node, Node]:
        """Move a member below its node by its answer; (the node it left, the node it entered)."""
        node = member.node
        assert node is not None
        answer = member.answers[question.number]
        child = node.children.get(answer)
        if child is None:
            child = node.children[answer] = Node(node, answer)
            self._notice_split(node, member, question)
        del node.members[member]
        self._enter(child, member)
        return node, child

    def whole_key(self, member: Member) -> bytes:
        """What stands for all layers of a member that has been asked for every one, wherever it is in the tree."""
        asked = (question.number for question in self.sequence if question.confirms)
        answers = (member.answers[number] for number in asked if number in member.answers)
        return blake2b(b"".join(answers), digest_size=32).digest()

    def take_hint(self) -> bool:
        """Turn a difference that was met late into an early question. True when the sequence changed.

        Samples that never told any two files apart make room for it; they can be dropped at will, since
        samples never confirm.
        """
        hint, self.hint = self.hint, []
        if not hint or self.lessons >= LESSONS or self.shape is None:
            return False
        self.lessons += 1
        position = sum(not question.confirms for question in self.sequence)
        sampled = {piece.layer for question in self.sequence[:position] for piece in question.pieces}
        fresh = can_be_sampled(self.shape, [layer for layer in hint if layer not in sampled])
        if fresh:
            lesson = Question(self._next_number(), False, tuple(spread_samples(self.shape, fresh, SAMPLES)))
        else:
            smallest = min(hint, key=self.shape.sizes.__getitem__)
            probe = (Piece(smallest, 0, self.shape.sizes[smallest]),)
            if any(question.confirms and question.pieces == probe for question in self.sequence):
                return False
            lesson = Question(self._next_number(), True, probe)
        useful = [question for depth, question in enumerate(self.sequence[:position]) if self._splits_at(depth)]
        self.sequence = [*useful, lesson, *self.sequence[position:]]
        if lesson.confirms:
            self.repeated = _repeated(self.sequence)
        return True

    def rebuild(self) -> None:
        """Put every member back at the root, to be settled anew under a changed sequence."""
        members = list(self.members())
        self.root = Node(None, b"")
        for member in members:
            self._enter(self.root, member)

    def nodes(self) -> Iterator[Node]:
        stack = [self.root]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())

    def members(self) -> Iterator[Member]:
        for node in self.nodes():
            yield from node.members

    @property
    def first_confirming_depth(self) -> int:
        return sum(not question.confirms for question in self.sequence)

    def _next_number(self) -> int:
        return max((question.number for question in self.sequence), default=-1) + 1

    def _enter(self, node: Node, member: Member) -> None:
        node.members[member] = None
        member.node = node

    def _prune(self, node: Node) -> Node | None:
        """Drop empty nodes upwards; the lowest one that stays."""
        while not node.members and not node.children and node.parent is not None:
            parent = node.parent
            del parent.children[node.answer]
            node = parent
        return node

    def _splits_at(self, depth: int) -> bool:
        return any(node.depth == depth and len(node.children) > 1 for node in self.nodes())

    def _notice_split(self, node: Node, member: Member, question: Question) -> None:
        """Remember which layers told this member from the one that was here first."""
        if not question.confirms or member.fingerprint is None or member.fingerprint[0] != question.number:
            return
        fingerprint = member.fingerprint[1]
        if node.exemplar is None:
            node.exemplar = fingerprint
        elif not self.hint:
            self.hint = [
                piece.layer
                for piece, one, other in zip(question.pieces, node.exemplar, fingerprint, strict=True)
                if one != other
            ]
            # The layers above agreed in files that differ: others tell more.
            asked = self.sequence[: node.depth]
            self.dull.update(piece.layer for earlier in asked for piece in earlier.pieces)


def _repeated(sequence: Sequence[Question]) -> set[int]:
    """The numbers of questions that share whole layers with another one."""
    asked = Counter(piece.layer for question in sequence if question.confirms for piece in question.pieces)
    return {
        question.number
        for question in sequence
        if question.confirms and any(asked[piece.layer] > 1 for piece in question.pieces)
    }
