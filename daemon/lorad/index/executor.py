"""What is known of files: the state machine and what follows from its instructions.

It feeds `library` with what was read, has what it asks for read, keeps in the catalogue what is to outlive this
process, and tells of duplicates.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from itertools import islice

from blake3 import blake3

from loracore.control import DuplicateFound, Event
from lorad.catalog import Answer, Catalog, Identified
from lorad.index.backlog import Backlog
from lorad.index.inheritance import Inherited
from lorad.index.known_files import Files
from lorad.index.questions import layer_digests, weight_signature
from lorad.index.reads import Reading
from lorad.index.records import File
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

#: Hears of a file that has become a duplicate, and names of some of its twins.
Duplicate = Callable[[File, Sequence[bytes]], None]
#: Twins named in the event of a duplicate.
_TOLD = 16
#: Weight signatures, and signatures of layouts, kept at hand.
_SIGNATURES = 4096


class Executor:
    """`blocks` gets the duplicates whose blocks are to be looked at.

    For `tell` and `duplicate` see `Engine`, for `about` `Failures`.
    """

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
        about: Callable[[bytes], AbstractContextManager[None]],
    ) -> None:
        self._catalog = catalog
        self._files = files
        self._library = library
        self._reading = reading
        self._blocks = blocks
        self._tell = tell
        self._duplicate = duplicate
        self._about = about
        self._loading = False
        self._signature_of_layout: Callable[[int], bytes] = lru_cache(_SIGNATURES)(catalog.layouts.signature)
        self._weight_signatures: dict[tuple[int, bytes], bytes] = {}

    def load(self, under: Callable[[bytes], bool]) -> None:
        """Take up what an earlier run learnt, as if nothing had happened since; the walk finds what has.

        So the JSON files go on from where they were, and a loader checks a file before it believes in it.
        """
        self._loading = True
        for layout, sequence, exhausted in self._catalog.layouts.sequences():
            self._library.planned(layout, sequence, exhausted)
        self._files.load(under)
        self._signature_of_layout = self._catalog.layouts.signatures().__getitem__
        answered = self._catalog.answers.keys()
        twins: dict[tuple[int, bytes], int] = {}
        for file in self._files:
            twin = twins.setdefault(key, file.id) if (key := file.twin_key) is not None else None
            self._restore(file, answered.pop(file.id, {}), None if twin == file.id else twin)
        self._loading = False
        for file in self._files:
            # While others were still to be loaded, that was not certain.
            if file.status is Status.UNIQUE and (file.was is not None or file.fresh == 1):
                self._files.twins.told_apart(file)
        # Where all were at hand while they were all asked for, from now on it is some.
        self.forget_layouts()

    def forget_layouts(self) -> None:
        """Numbers of layouts may have got another meaning."""
        self._weight_signatures.clear()
        self._signature_of_layout = lru_cache(_SIGNATURES)(self._catalog.layouts.signature)

    def do(self, instructions: Sequence[Instruction]) -> None:
        """Carry out what the state machine wants, and what follows from that, in the order it was said."""
        waiting = deque(instructions)
        while waiting:
            match waiting.popleft():
                case ReadHeader(file):
                    self._reading.want_header(file)
                case Describe(layout, file):
                    shape = self._reading.plans.shape(layout, self._files.by_id[file].arrangement or 0)
                    waiting += self._library.described(layout, shape)
                case Ask(file, layout, question):
                    known = self._recall(file, layout, question)
                    digests = self._reading.questions.want(file, layout, question, known)
                    if digests is not None:
                        waiting += self._answer(file, question.number, digests)
                case Share(source, file, _, number):
                    self._catalog.answers.share(source, file, number)
                case Planned(layout, sequence, exhausted):
                    self._catalog.layouts.save_sequence(layout, sequence, exhausted)
                case Changed(number, status, key):
                    changed = self._files.by_id.get(number)
                    if changed is None:
                        # It was set aside meanwhile.
                        continue
                    with nullcontext() if self._loading else self._about(changed.path):
                        self._change(changed, status, key)
        if self._files.twins.companions:
            self.show_companions()

    def show_companions(self, *, news: bool = True) -> None:
        """Show files as duplicates or as unique, by whether another one in view has their weights.

        Without `news`, nothing is told of those that are duplicates since.
        """
        companions, self._files.twins.companions = self._files.twins.companions, []
        for file in companions:
            if file.id in self._files.by_id and file.status in (Status.UNIQUE, Status.DUPLICATE):
                self._show(file, self._shown(file), file.signature, news=news)

    def signature_of_layout(self, layout: int) -> bytes:
        return self._signature_of_layout(layout)

    def answer(self, file: int, question: Question, digests: bytes) -> None:
        """A file has answered a question."""
        self.do(self._answer(file, question.number, digests))

    def inherit(self, file: File, before: Inherited) -> None:
        """A file takes its place by what another one of these layers has answered. It is asked what is missing."""
        assert file.layout is not None
        group = self._library.groups.get(file.layout)
        asked = {question.number for question in group.sequence} if group else set()
        answers = [
            Answer(file.id, number, answer_key(digests), digests)
            for number, digests in before.answers.items()
            if number in asked
        ]
        self._catalog.answers.save(answers)
        if before.digest is not None and before.arrangement == file.arrangement:
            self._catalog.hashes.save(file.id, Identified(model=before.digest))
        keys = {answer.number: answer.key for answer in answers}
        self.do(self._library.restore(file.id, file.layout, keys, None))
        if before.weights is not None:
            self._files.twins.told_apart(file, before.weights)
            # It may be shown with others now, or alone.
            self.do([])

    def _restore(self, file: File, answers: dict[int, bytes], twin: int | None) -> None:
        """A file of an earlier run takes its place again."""
        if file.layout is not None and file.status not in (Status.FAILED, Status.IGNORED):
            self.do(self._library.restore(file.id, file.layout, answers, twin))
            if file.function == b"":
                self._reading.want_header(file.id)
        elif file.status is Status.PENDING:
            self.do(self._library.found(file.id))

    def _recall(self, file: int, layout: int, question: Question) -> dict[int, bytes]:
        """Digests of whole layers that the file gave before, by layer, where it could have."""
        if not self._library.asks_again(layout, question.number):
            return {}
        return layer_digests(self._library.sequence(layout), self._catalog.answers.of(file))

    def _answer(self, file: int, number: int, digests: bytes) -> list[Instruction]:
        self._catalog.answers.save([Answer(file, number, answer_key(digests), digests)])
        return self._library.answered(file, number, digests)

    def _change(self, file: File, status: Status, key: bytes) -> None:
        signature = None
        if status is Status.DUPLICATE:
            assert file.layout is not None
            signature = file.weights or self._weight_signature(file.layout, key, file.id)
            self._files.twins.told_apart(file, signature)
            status = self._shown(file)
            if file.residue is None:
                self._reading.want_residue(file.id)
        elif file.layout is not None and status in (Status.GROUPED, Status.UNIQUE):
            signature = blake3(self._signature_of_layout(file.layout) + key).digest()
            if status is Status.UNIQUE and not self._loading:
                self._files.twins.told_apart(file)
        elif status is Status.FAILED:
            self._files.twins.lost_hold(file)
        self._show(file, status, signature, news=True)

    def _shown(self, file: File) -> Status:
        """How a file is shown that agrees with others on every layer, which may all be hidden."""
        alone = len(self._files.twins.of(file)) <= 1
        return Status.UNIQUE if alone and file.names else Status.DUPLICATE

    def _show(self, file: File, status: Status, signature: bytes | None, *, news: bool) -> None:
        if (file.status, file.signature) == (status, signature):
            return
        if status is Status.GROUPED:
            self._reading.questions.unpark(file.id)
        news &= status is Status.DUPLICATE is not file.status and not self._loading
        self._files.set_status(file, status)
        file.signature = signature
        if news and file.names:
            self._found(file)
        if status is Status.DUPLICATE and file.names:
            self._blocks.add(file)

    def _found(self, file: File) -> None:
        """A file has become a duplicate of others in view."""
        twins = list(islice(self._files.twins.of(file).values(), _TOLD))
        named = [twin.names[0] for twin in twins if twin is not file]
        # The first of a set is what the others are duplicates of.
        if twins[0] is not file:
            self._tell(DuplicateFound(file.names[0], named))
        if self._duplicate is not None:
            self._duplicate(file, named)

    def _weight_signature(self, layout: int, key: bytes, file: int) -> bytes:
        """That of a file every layer of which is digested; equal for all that answered alike."""
        signature = self._weight_signatures.get((layout, key))
        if signature is None:
            if len(self._weight_signatures) >= _SIGNATURES:
                self._weight_signatures.clear()
            digests = layer_digests(self._library.sequence(layout), self._catalog.answers.of(file))
            signature = self._weight_signatures[layout, key] = weight_signature(digests)
        return signature
