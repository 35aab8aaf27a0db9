"""What has to be read, as jobs for the loaders: which bytes of which file answer a question.

Digests that a file gave before are recalled from the catalogue and not read again.
"""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from typing import NamedTuple

from blake3 import blake3

from loracore.tensorfile import Arrangement
from lorad.catalog import Catalog
from lorad.files import File, Files
from lorad.library import LayoutShape, Piece, Question
from lorad.pipeline.dispatch import HeaderJob, Job, PiecesJob, ResidueJob
from lorad.pipeline.protocol import Extent, Target

#: Files of one job: enough to make messages cheap, few enough that all loaders get some.
_FILES = 64
#: Bytes of one job of pieces, if it is more than one file's.
_BYTES = 2 << 20


class Wanted(NamedTuple):
    """A question to a file: the digests known already, and the places of those to be read."""

    file: int
    layout: int
    question: Question
    digests: list[bytes]
    missing: list[int]


class Reading:
    """The queues of what is to be read."""

    def __init__(self, catalog: Catalog, files: Files, *, follow: bool, loaders: int) -> None:
        self._catalog = catalog
        self._files = files
        self._follow = follow
        self._loaders = loaders
        self.headers: deque[int] = deque()
        self._residues: deque[int] = deque()
        self._residues_wanted: set[int] = set()
        self._pieces: deque[Wanted] = deque()
        self._running: dict[tuple[int, int], Wanted] = {}
        self._headers_turn = True
        self._arrangement = lru_cache(256)(catalog.arrangement)
        self._layout = lru_cache(32)(catalog.layout)

    @property
    def empty(self) -> bool:
        return not (self.headers or self._residues or self._pieces)

    def shape(self, layout: int, arrangement: int) -> LayoutShape:
        """A layout's sizes, and its order in files of this arrangement."""
        sizes, places = self._layout(layout).sizes, self._arrangement(arrangement)
        records = places.records or [0] * len(sizes)
        order = sorted(range(len(sizes)), key=lambda layer: (records[layer], places.offsets[layer]))
        return LayoutShape(sizes, order)

    def want(self, file: int, layout: int, question: Question, known: dict[int, bytes]) -> Wanted | None:
        """Queue a question. `known` are digests of whole layers; where they suffice, the answer at once."""
        digests = [known.get(piece.layer, b"") if question.confirms else b"" for piece in question.pieces]
        missing = [place for place, digest in enumerate(digests) if not digest]
        wanted = Wanted(file, layout, question, digests, missing)
        if not missing:
            return wanted
        self._pieces.append(wanted)
        return None

    def want_residue(self, file: int) -> None:
        """Queue what lies between a file's layers, once."""
        if file not in self._residues_wanted:
            self._residues_wanted.add(file)
            self._residues.append(file)

    def repeat(self, job: Job, file: int, wanted: Wanted | None) -> None:
        """Queue one file of a job anew. `wanted` is what it was asked, if the job was of pieces."""
        if wanted is not None:
            self._pieces.append(wanted)
        else:
            (self.headers if isinstance(job, HeaderJob) else self._residues).append(file)

    def again(self, job: Job, without: int | None) -> Wanted | None:
        """Queue a job's files anew, first in line, all but one; what that one was asked, for `repeat`."""
        asked = None
        for position, file in enumerate(job.files):
            if isinstance(job, PiecesJob):
                wanted = self._running.pop((file, job.numbers[position]))
                if file == without:
                    asked = wanted
                else:
                    self._pieces.appendleft(wanted)
            elif file != without:
                (self.headers if isinstance(job, HeaderJob) else self._residues).appendleft(file)
        return asked

    def take(self, job: PiecesJob, position: int, digests: bytes) -> Wanted:
        """A finished question, completed by the digests of its job's `position`-th file."""
        wanted = self._running.pop((job.files[position], job.numbers[position]))
        for place, start in zip(job.orders[position], range(0, len(digests), 32), strict=True):
            wanted.digests[place] = digests[start : start + 32]
        return wanted

    def next_job(self) -> Job | None:
        """What to read next. Headers and pieces take turns, so that answers come while headers are read."""
        self._headers_turn = not self._headers_turn
        makers = [self._header_job, self._pieces_job, self._residue_job]
        for maker in makers if self._headers_turn else reversed(makers):
            job = maker()
            if job is not None:
                return job
        return None

    def _target(self, file: File) -> Target:
        return Target(file.names[0], file.identity, self._follow)

    def _header_job(self) -> HeaderJob | None:
        count = min(_FILES, len(self.headers) // (2 * self._loaders) + 1)
        files: list[File] = []
        while self.headers and len(files) < count:
            file = self._files.by_id.get(self.headers.popleft())
            if file is not None:
                files.append(file)
        return (
            HeaderJob([file.id for file in files], [self._target(file) for file in files]) if files else None
        )

    def _residue_job(self) -> ResidueJob | None:
        while self._residues:
            file = self._files.by_id.get(self._residues.popleft())
            if file is not None:
                return ResidueJob([file.id], [self._target(file)])
        return None

    def _pieces_job(self) -> PiecesJob | None:
        """Questions of one kind, samples or whole layers, to as many files as make a good job."""
        count = min(_FILES, len(self._pieces) // (2 * self._loaders) + 1)
        budget = _BYTES
        batch: list[tuple[Wanted, Target, list[Extent], list[int]]] = []
        while self._pieces and len(batch) < count and budget > 0:
            if batch and self._pieces[0].question.confirms != batch[0][0].question.confirms:
                break
            wanted = self._pieces.popleft()
            file = self._files.by_id.get(wanted.file)
            if file is None:
                continue
            extents, order = self._extents(file, wanted)
            budget -= sum(extent.length for extent in extents)
            self._running[file.id, wanted.question.number] = wanted
            batch.append((wanted, self._target(file), extents, order))
        if not batch:
            return None
        return PiecesJob(
            files=[wanted.file for wanted, _, _, _ in batch],
            numbers=[wanted.question.number for wanted, _, _, _ in batch],
            targets=[target for _, target, _, _ in batch],
            extents=[extents for _, _, extents, _ in batch],
            orders=[order for _, _, _, order in batch],
            sequential=batch[0][0].question.confirms,
        )

    def _extents(self, file: File, wanted: Wanted) -> tuple[list[Extent], list[int]]:
        """Where the missing pieces lie, in disk order; and each one's place in the question."""
        assert file.arrangement is not None
        places = self._arrangement(file.arrangement)
        pieces = [
            (self._extent(file, places, wanted.question.pieces[place], wanted.layout), place)
            for place in wanted.missing
        ]
        pieces.sort(key=lambda pair: (pair[0].record or 0, pair[0].offset))
        return [extent for extent, _ in pieces], [place for _, place in pieces]

    def _extent(self, file: File, places: Arrangement, piece: Piece, layout: int) -> Extent:
        offset = (file.base or 0) + places.offsets[piece.layer]
        record = places.records[piece.layer] if places.records else None
        strides = places.strided.get(piece.layer)
        if strides is None:
            return Extent(offset + piece.start, piece.length, record)
        layer = self._layout(layout).layers[piece.layer]
        return Extent(offset, piece.length, record, strides, layer.shape, layer.dtype, piece.start)


def layer_digests(sequence: tuple[Question, ...], answers: dict[int, bytes]) -> dict[int, bytes]:
    """A file's digests of whole layers, by layer, out of all that it answered."""
    digests = {}
    for question in sequence:
        answer = answers.get(question.number)
        if question.confirms and answer is not None:
            for place, piece in enumerate(question.pieces):
                digests[piece.layer] = answer[32 * place : 32 * place + 32]
    return digests


def weight_signature(digests: dict[int, bytes]) -> bytes:
    """BLAKE3-256 over the layer digests, in layout order."""
    return blake3(b"".join(digests[layer] for layer in sorted(digests))).digest()
