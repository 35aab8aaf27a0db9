"""What is known of files: the state machine and what follows from its instructions.

It feeds `library` with what was read, has what it asks for read, keeps in the catalogue what is to outlive this
process, and tells of duplicates.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import lru_cache

from blake3 import blake3

from loracore.control import DuplicateFound, Event
from lorad.blocks.backlog import Backlog
from lorad.catalog import Answer, Catalog
from lorad.files import File, Files
from lorad.library import (
    Ask,
    Changed,
    Describe,
    Instruction,
    Library,
    Planned,
    Question,
    ReadHeader,
    Share,
    Status,
)
from lorad.library.library import answer_key
from lorad.reading import Reading, layer_digests, weight_signature

#: Hears of a file that has become a duplicate, and names of some of its twins.
Duplicate = Callable[[File, Sequence[bytes]], None]
#: Twins named in the event of a duplicate.
_TOLD = 16
#: Weight signatures, and signatures of layouts, kept at hand.
_SIGNATURES = 4096


class Knowledge:
    """`blocks` gets the duplicates whose blocks are to be looked at; for `tell` and `duplicate` see `Engine`."""

    def __init__(
        self,
        catalog: Catalog,
        files: Files,
        library: Library,
        reading: Reading,
        blocks: Backlog,
        *,
        tell: Callable[[Event], None],
        duplicate: Duplicate | None,
    ) -> None:
        self._catalog = catalog
        self._files = files
        self._library = library
        self._reading = reading
        self._blocks = blocks
        self._tell = tell
        self._duplicate = duplicate
        self._loading = False
        self._signature_of_layout: Callable[[int], bytes] = lru_cache(_SIGNATURES)(catalog.layout_signature)
        self._weight_signatures: dict[tuple[int, bytes], bytes] = {}

    def load(self, under: Callable[[bytes], bool]) -> None:
        """Take up what an earlier run learnt, as if nothing had happened since; the walk finds what has.

        So the JSON files go on from where they were, and a loader checks a file before it believes in it.
        """
        self._loading = True
        for layout, sequence, exhausted in self._catalog.sequences():
            self._library.planned(layout, sequence, exhausted)
        self._files.load(under)
        self._signature_of_layout = self._catalog.layout_signatures().__getitem__
        answered = self._catalog.answer_keys()
        twins: dict[tuple[int | None, bytes | None], int] = {}
        for file in self._files:
            twin = (
                twins.setdefault((file.layout, file.signature), file.id)
                if file.status is Status.DUPLICATE
                else None
            )
            self._restore(file, answered.pop(file.id, {}), None if twin == file.id else twin)
        self._loading = False
        # Where all were at hand while they were all asked for, from now on it is some.
        self.forget_layouts()

    def forget_layouts(self) -> None:
        """Numbers of layouts may have got another meaning."""
        self._weight_signatures.clear()
        self._signature_of_layout = lru_cache(_SIGNATURES)(self._catalog.layout_signature)

    def do(self, instructions: Sequence[Instruction]) -> None:
        """Carry out what the state machine wants, and what follows from that, in the order it was said."""
        waiting = deque(instructions)
        while waiting:
            match waiting.popleft():
                case ReadHeader(file):
                    self._reading.headers.append(file)
                case Describe(layout, file):
                    shape = self._reading.shape(layout, self._files.by_id[file].arrangement or 0)
                    waiting += self._library.described(layout, shape)
                case Ask(file, layout, question):
                    digests = self._reading.want(file, layout, question, self._recall(file, layout, question))
                    if digests is not None:
                        waiting += self._answer(file, question.number, digests)
                case Share(source, file, _, number):
                    self._catalog.share_answer(source, file, number)
                case Planned(layout, sequence, exhausted):
                    self._catalog.save_sequence(layout, sequence, exhausted)
                case Changed(number, status, key):
                    self._change(self._files.by_id[number], status, key)

    def answer(self, file: int, question: Question, digests: bytes) -> None:
        """A file has answered a question."""
        self.do(self._answer(file, question.number, digests))

    def _restore(self, file: File, answers: dict[int, bytes], twin: int | None) -> None:
        """A file of an earlier run takes its place again."""
        if file.layout is not None and file.status not in (Status.FAILED, Status.IGNORED):
            self.do(self._library.restore(file.id, file.layout, answers, twin))
            if file.function == b"":
                self._reading.headers.append(file.id)
        elif file.status is Status.PENDING:
            self.do(self._library.found(file.id))

    def _recall(self, file: int, layout: int, question: Question) -> dict[int, bytes]:
        """Digests of whole layers that the file gave before, by layer, where it could have."""
        if not self._library.asks_again(layout, question.number):
            return {}
        return layer_digests(self._library.sequence(layout), self._catalog.answers(file))

    def _answer(self, file: int, number: int, digests: bytes) -> list[Instruction]:
        self._catalog.save_answers([Answer(file, number, answer_key(digests), digests)])
        return self._library.answered(file, number, digests)

    def _change(self, file: File, status: Status, key: bytes) -> None:
        signature = None
        if status is Status.DUPLICATE:
            assert file.layout is not None
            kept = file.status is status and file.signature
            signature = kept or self._weight_signature(file.layout, key, file.id)
            if file.residue is None:
                self._reading.want_residue(file.id)
        elif file.layout is not None and status in (Status.GROUPED, Status.UNIQUE):
            signature = blake3(self._signature_of_layout(file.layout) + key).digest()
        if (file.status, file.signature) == (status, signature):
            return
        news = status is Status.DUPLICATE is not file.status and not self._loading
        self._files.set_status(file, status)
        file.signature = signature
        if news and file.names:
            self._found(file)
        if status in (Status.UNIQUE, Status.DUPLICATE):
            file.before = ()
        if status is Status.DUPLICATE:
            self._blocks.add(file)

    def _found(self, file: File) -> None:
        """A file has become a duplicate."""
        twins = self._library.twins(file.id)
        others = (self._files.by_id.get(twin) for twin in twins[:_TOLD] if twin != file.id)
        named = [other.names[0] for other in others if other is not None and other.names]
        # The first of a set is what the others are duplicates of.
        if twins[0] != file.id:
            self._tell(DuplicateFound(file.names[0], named))
        if self._duplicate is not None:
            self._duplicate(file, named)

    def _weight_signature(self, layout: int, key: bytes, file: int) -> bytes:
        """That of a file every layer of which is digested; equal for all that answered alike."""
        signature = self._weight_signatures.get((layout, key))
        if signature is None:
            if len(self._weight_signatures) >= _SIGNATURES:
                self._weight_signatures.clear()
            digests = layer_digests(self._library.sequence(layout), self._catalog.answers(file))
            signature = self._weight_signatures[layout, key] = weight_signature(digests)
        return signature
