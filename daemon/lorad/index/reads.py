"""What has to be read, as jobs for the loaders: which bytes of which file answer a question.

Digests that a file gave before are recalled from the catalogue and not read again. What is asked of files that
have just come is read before what is asked of those that were found by looking through a folder, and what takes
long is in a lane of its own (`pipeline.protocol.LANES`).
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import msgspec
from blake3 import blake3

from loracore.tensorfile import Arrangement
from lorad.catalog import Catalog
from lorad.index.known_files import Files
from lorad.index.records import File
from lorad.library import LayoutShape, Piece, Question, Status
from lorad.pipeline.dispatch import HeaderJob, Job, PiecesJob, Plan, ResidueJob
from lorad.pipeline.protocol import LANES, LENGTHS, SHORT, Run, Target, lane_of
from lorad.watch import calls

#: Files of one job: enough to make messages cheap, few enough that all loaders get some.
_FILES = 64
#: Bytes of a file whose header is read before those of others.
_SMALL = 1 << 20
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


class Reading:
    """The queues of what is to be read."""

    def __init__(self, catalog: Catalog, files: Files, *, follow: bool, loaders: int) -> None:
        self._catalog = catalog
        self._files = files
        self._follow = follow
        self._loaders = loaders
        #: By lane.
        self._headers: list[deque[int]] = [deque() for _ in range(LANES)]
        self._residues: list[deque[int]] = [deque() for _ in range(LANES)]
        self._pieces: list[deque[Wanted]] = [deque() for _ in range(LANES)]
        self._residues_wanted: set[int] = set()
        self._running: dict[tuple[int, int], Wanted] = {}
        #: What waits for mounts that do not answer, by mount point: how to queue it again.
        self._held: defaultdict[bytes, list[Callable[[], None]]] = defaultdict(list)
        #: Long questions of files that nothing else is like now.
        self._parked: defaultdict[int, list[Wanted]] = defaultdict(list)
        self._headers_turn = True
        self._arrangement = lru_cache(256)(catalog.arrangements.get)
        self._layout = lru_cache(32)(catalog.layouts.get)
        self._plan = lru_cache(512)(self._make_plan)

    @property
    def empty(self) -> bool:
        return not self.waits(LANES)

    def waits(self, lanes: int) -> bool:
        """Whether something in the first lanes waits."""
        return any(any(queues[:lanes]) for queues in (self._headers, self._residues, self._pieces))

    def forget_layouts(self) -> None:
        """Numbers of layouts and arrangements may have got another meaning."""
        for cache in (self._arrangement, self._layout, self._plan):
            cache.cache_clear()

    @property
    def queues(self) -> dict[str, int]:
        """How much waits, by what it waits for."""
        return {
            "headers": sum(map(len, self._headers)),
            "digests": sum(map(len, self._pieces)),
            "residues": sum(map(len, self._residues)),
        }

    def shape(self, layout: int, arrangement: int) -> LayoutShape:
        """A layout's sizes, and its order in files of this arrangement."""
        sizes, places = self._layout(layout).sizes, self._arrangement(arrangement)
        records = places.records or [0] * len(sizes)
        order = sorted(range(len(sizes)), key=lambda layer: (records[layer], places.offsets[layer]))
        return LayoutShape(sizes, order, frozenset(places.strided))

    def layer_names(self, layout: int) -> list[str]:
        return [layer.name for layer in self._layout(layout).layers]

    def want(self, file: int, layout: int, question: Question, known: dict[int, bytes]) -> bytes | None:
        """Queue a question. `known` are digests of whole layers; where they suffice, the answer at once."""
        places = {place: known[piece.layer] for place, piece in enumerate(question.pieces) if piece.layer in known}
        wanted = Wanted(file, layout, question, places)
        if len(places) == len(question.pieces):
            return wanted.complete((), b"")
        self._ask(wanted)
        return None

    def want_header(self, file: int) -> None:
        """Queue a file's header."""
        # That of a small file cannot be long: it does not wait for those that may be.
        long = self._files.by_id[file].identity.size > _SMALL
        self._headers[self._lane(file, LENGTHS[0] + 1 if long else 0)].append(file)

    def want_residue(self, file: int) -> None:
        """Queue what lies between a file's layers, once."""
        if file not in self._residues_wanted:
            self._residues_wanted.add(file)
            # How much it is, only reading tells.
            self._residues[self._lane(file, self._files.by_id[file].identity.size)].append(file)

    def repeat(self, job: Job, file: int, wanted: Wanted | None) -> None:
        """Queue one file of a job anew. `wanted` is what it was asked, if the job was of pieces."""
        if wanted is not None:
            self._pieces[job.lane].append(wanted)
        else:
            (self._headers if isinstance(job, HeaderJob) else self._residues)[job.lane].append(file)

    def pointless(self) -> Iterator[int]:
        """Files of which much is being read, and that nothing else is like any more."""
        for (file, _), wanted in self._running.items():
            known = self._files.by_id.get(file)
            if known is not None and known.status is Status.UNIQUE and self._lane(file, wanted.length) >= SHORT:
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

    def release(self) -> None:
        """Queue again what waited for mounts that answer by now."""
        for point in [point for point in self._held if not calls.hangs(point)]:
            for queue in self._held.pop(point):
                queue()

    def _hold(self, file: File, queue: Callable[[], None]) -> bool:
        """Whether a file cannot be read now, as its mount does not answer; then it waits for that."""
        if not calls.hangs(file.path):
            return False
        self._held[calls.mount_of(file.path) or b"/"].append(queue)
        return True

    def drop(self, file: int) -> None:
        """A file is not there any more."""
        self._parked.pop(file, None)

    def _ask(self, wanted: Wanted) -> None:
        self._pieces[self._lane(wanted.file, wanted.length)].append(wanted)

    def _lane(self, file: int, length: int) -> int:
        """The lane of a task of so many bytes of a file."""
        known = self._files.by_id.get(file)
        return lane_of(length, new=known is not None and known.news)

    def again(self, job: Job, without: int | None) -> Wanted | None:
        """Queue a job's files anew, first in line, all but one; what that one was asked, for `repeat`."""
        asked = None
        for position, file in enumerate(job.files):
            if isinstance(job, PiecesJob):
                wanted = self._running.pop((file, job.numbers[position]))
                if file == without:
                    asked = wanted
                else:
                    self._pieces[job.lane].appendleft(wanted)
            elif file != without:
                (self._headers if isinstance(job, HeaderJob) else self._residues)[job.lane].appendleft(file)
        return asked

    def take(self, job: PiecesJob, position: int, digests: bytes) -> tuple[Wanted, bytes]:
        """A finished question of a job's `position`-th file, and its complete answer."""
        wanted = self._running.pop((job.files[position], job.numbers[position]))
        return wanted, wanted.complete(job.plans[position].order, digests)

    def next_job(self, lane: int) -> Job | None:
        """What to read next. Headers and pieces take turns, so that answers come while headers are read."""
        self._headers_turn = not self._headers_turn
        makers = [self._header_job, self._pieces_job, self._residue_job]
        for maker in makers if self._headers_turn else reversed(makers):
            job = maker(lane)
            if job is not None:
                return job
        return None

    def _target(self, file: File) -> Target:
        return Target(file.path, file.identity, self._follow, file.base or 0)

    def _header_job(self, lane: int) -> HeaderJob | None:
        waiting = self._headers[lane]
        count = min(_FILES, len(waiting) // (2 * self._loaders) + 1)
        files: list[File] = []
        while waiting and len(files) < count:
            file = self._files.by_id.get(waiting.popleft())
            if file is not None and not self._hold(file, partial(waiting.append, file.id)):
                files.append(file)
        return HeaderJob([file.id for file in files], list(map(self._target, files)), lane) if files else None

    def _residue_job(self, lane: int) -> ResidueJob | None:
        while self._residues[lane]:
            number = self._residues[lane].popleft()
            self._residues_wanted.discard(number)
            file = self._files.by_id.get(number)
            if file is not None and not self._hold(file, partial(self.want_residue, number)):
                return ResidueJob([file.id], [self._target(file)], lane)
        return None

    def _pieces_job(self, lane: int) -> PiecesJob | None:
        """Questions of one kind, samples or whole layers, to as many files as make a good job."""
        waiting = self._pieces[lane]
        count = 1 if lane >= SHORT else min(_FILES, len(waiting) // (2 * self._loaders) + 1)
        budget = _BYTES
        batch: list[tuple[Wanted, Target, Plan]] = []
        while waiting and len(batch) < count and budget > 0:
            if batch and waiting[0].question.confirms != batch[0][0].question.confirms:
                break
            wanted = waiting.popleft()
            file = self._files.by_id.get(wanted.file)
            if file is None or self._hold(file, partial(waiting.append, wanted)):
                continue
            assert file.arrangement is not None
            missing = tuple(place for place in range(len(wanted.question.pieces)) if place not in wanted.known)
            plan = self._plan(wanted.layout, file.arrangement, wanted.question, missing)
            budget -= plan.length
            self._running[file.id, wanted.question.number] = wanted
            batch.append((wanted, self._target(file), plan))
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

    def _make_plan(self, layout: int, arrangement: int, question: Question, missing: Sequence[int]) -> Plan:
        """Where the missing pieces of a question lie in files of this arrangement."""
        places = self._arrangement(arrangement)
        runs = [(self._run(places, question.pieces[place], layout), place) for place in missing]
        runs.sort(key=lambda pair: (pair[0].record or 0, pair[0].offset))
        order = [place for _, place in runs]
        return Plan(
            runs=msgspec.msgpack.encode(_joined([run for run, _ in runs])),
            pieces=len(runs),
            length=sum(question.pieces[place].length for place in missing),
            order=None if order == list(range(len(question.pieces))) else order,
        )

    def _run(self, places: Arrangement, piece: Piece, layout: int) -> Run:
        offset = places.offsets[piece.layer]
        record = places.records[piece.layer] if places.records else None
        strides = places.strided.get(piece.layer)
        if strides is None:
            return Run(offset + piece.start, [piece.length], record)
        layer = self._layout(layout).layers[piece.layer]
        return Run(offset, [piece.length], record, strides, layer.shape, layer.dtype, piece.start)


def _joined(runs: list[Run]) -> list[Run]:
    """Runs that lie back to back become one, so that they are read at once."""
    joined: list[Run] = []
    lengths: list[int] = []
    end = None
    for run in runs:
        plain = run.record is None and run.strides is None
        if plain and run.offset == end:
            lengths += run.lengths
        else:
            lengths = list(run.lengths)
            joined.append(msgspec.structs.replace(run, lengths=lengths))
        end = run.offset + run.lengths[0] if plain else None
    return joined


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
