"""Questions of the state machine to files, from when they are asked until their answer is complete.

Digests that a file gave before are recalled from the catalogue and not read again.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

from blake3 import blake3

from lorad.index.known_files import Files
from lorad.index.lanes import Lanes
from lorad.index.plans import Plans
from lorad.library import Question, Status
from lorad.pipeline.dispatch import PiecesJob, Plan
from lorad.pipeline.protocol import LANES, SHORT, Target

#: Bytes of one job of pieces, if it is more than one file's.
_BYTES = 16 << 20


class Wanted(NamedTuple):
    """A question to a file. `known` are digests of some of its pieces, by their place in the question."""

    file: int
    layout: int
    question: Question
    known: dict[int, bytes]

    @property
    def length(self) -> int:
        """Bytes that have to be read."""
        return sum(piece.length for place, piece in enumerate(self.question.pieces) if place not in self.known)

    def complete(self, order: Sequence[int] | None, digests: bytes) -> bytes:
        """All digests in the question's order, out of the known ones and those read in this order."""
        if order is None and not self.known:
            return digests
        pieces = dict(self.known)
        places = order if order is not None else range(len(self.question.pieces))
        for index, place in enumerate(places):
            pieces[place] = digests[32 * index : 32 * index + 32]
        return b"".join(pieces[place] for place in range(len(self.question.pieces)))


class Questions:
    """They wait to be read, are being read, or are parked until that makes sense again."""

    def __init__(self, files: Files, plans: Plans, lanes: Lanes) -> None:
        self._files = files
        self._plans = plans
        self._lanes = lanes
        #: By lane.
        self.waiting: list[deque[Wanted]] = [deque() for _ in range(LANES)]
        self._running: dict[tuple[int, int], Wanted] = {}
        #: Long questions of files that nothing else is like now.
        self._parked: defaultdict[int, list[Wanted]] = defaultdict(list)

    def want(self, file: int, layout: int, question: Question, known: dict[int, bytes]) -> bytes | None:
        """Queue a question. `known` are digests of whole layers; where they suffice, the answer at once."""
        places = {place: known[piece.layer] for place, piece in enumerate(question.pieces) if piece.layer in known}
        wanted = Wanted(file, layout, question, places)
        if len(places) == len(question.pieces):
            return wanted.complete((), b"")
        self._ask(wanted)
        return None

    def _ask(self, wanted: Wanted) -> None:
        self.waiting[self._lanes.of(wanted.file, wanted.length)].append(wanted)

    def pointless(self) -> Iterator[int]:
        """Files of which much is being read, and that nothing else is like any more."""
        for (file, _), wanted in self._running.items():
            known = self._files.by_id.get(file)
            alone = known is not None and known.status is Status.UNIQUE
            if alone and self._lanes.of(file, wanted.length) >= SHORT:
                yield file

    def park(self, wanted: Wanted) -> None:
        """Ask it when something is like the file again."""
        if self._files.by_id[wanted.file].status is Status.UNIQUE:
            self._parked[wanted.file].append(wanted)
        else:
            self._ask(wanted)

    def unpark(self, file: int) -> None:
        """Something is like this file."""
        for wanted in self._parked.pop(file, ()):
            self._ask(wanted)

    def drop(self, file: int) -> None:
        """A file is not there any more."""
        self._parked.pop(file, None)

    def next_job(self, lane: int) -> PiecesJob | None:
        """Questions of one kind, samples or whole layers, to as many files as make a good job."""
        waiting = self.waiting[lane]
        count = 1 if lane >= SHORT else self._lanes.batch(len(waiting))
        budget = _BYTES
        batch: list[tuple[Wanted, Target, Plan]] = []
        while waiting and len(batch) < count and budget > 0:
            if batch and waiting[0].question.confirms != batch[0][0].question.confirms:
                break
            wanted = waiting.popleft()
            file = self._files.by_id.get(wanted.file)
            if file is None or self._lanes.hold(file, partial(waiting.append, wanted)):
                continue
            assert file.arrangement is not None
            missing = tuple(place for place in range(len(wanted.question.pieces)) if place not in wanted.known)
            plan = self._plans.plan(wanted.layout, file.arrangement, wanted.question, missing)
            budget -= plan.length
            self._running[file.id, wanted.question.number] = wanted
            batch.append((wanted, self._lanes.target(file), plan))
        if not batch:
            return None
        return PiecesJob(
            files=[wanted.file for wanted, _, _ in batch],
            numbers=[wanted.question.number for wanted, _, _ in batch],
            targets=[target for _, target, _ in batch],
            plans=[plan for _, _, plan in batch],
            sequential=batch[0][0].question.confirms,
            lane=lane,
        )

    def take(self, job: PiecesJob, position: int, digests: bytes) -> tuple[Wanted, bytes]:
        """A finished question of a job's `position`-th file, and its complete answer."""
        wanted = self._running.pop((job.files[position], job.numbers[position]))
        return wanted, wanted.complete(job.plans[position].order, digests)

    def again(self, job: PiecesJob, without: int | None) -> Wanted | None:
        """Queue a job's questions anew, first in line, all but that to one file, which is given back."""
        asked = None
        for file, number in zip(job.files, job.numbers, strict=True):
            wanted = self._running.pop((file, number))
            if file == without:
                asked = wanted
            else:
                self.waiting[job.lane].appendleft(wanted)
        return asked


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
