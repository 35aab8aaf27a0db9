"""What has to be read, as jobs for the loaders: headers, pieces that answer questions, residues.

What is asked of files that have just come is read before what is asked of those that were found by looking through
a folder, and what takes long is in a lane of its own (`pipeline.protocol.LANES`).
"""

from __future__ import annotations

from collections import deque
from functools import partial

from lorad.catalog import Catalog
from lorad.index.known_files import Files
from lorad.index.lanes import Lanes
from lorad.index.plans import Plans
from lorad.index.questions import Questions, Wanted
from lorad.index.records import File
from lorad.pipeline.dispatch import HeaderJob, Job, PiecesJob, ResidueJob
from lorad.pipeline.protocol import LANES, LENGTHS

#: Bytes of a file whose header is read before those of others.
_SMALL = 1 << 20


class Reading:
    """The queues of what is to be read."""

    def __init__(self, catalog: Catalog, files: Files, *, follow: bool, loaders: int) -> None:
        self._files = files
        self.lanes = Lanes(files, follow=follow, loaders=loaders)
        self.plans = Plans(catalog)
        self.questions = Questions(files, self.plans, self.lanes)
        #: By lane.
        self._headers: list[deque[int]] = [deque() for _ in range(LANES)]
        self._residues: list[deque[int]] = [deque() for _ in range(LANES)]
        self._residues_wanted: set[int] = set()
        self._headers_turn = True

    def waits(self, lanes: int) -> bool:
        """Whether something in the first lanes waits."""
        return any(any(queues[:lanes]) for queues in (self._headers, self._residues, self.questions.waiting))

    @property
    def queues(self) -> dict[str, int]:
        """How much waits, by what it waits for."""
        return {
            "headers": sum(map(len, self._headers)),
            "digests": sum(map(len, self.questions.waiting)),
            "residues": sum(map(len, self._residues)),
        }

    def want_header(self, file: int) -> None:
        """Queue a file's header."""
        # That of a small file cannot be long: it does not wait for those that may be.
        long = self._files.by_id[file].identity.size > _SMALL
        self._headers[self.lanes.of(file, LENGTHS[0] + 1 if long else 0)].append(file)

    def want_residue(self, file: int) -> None:
        """Queue what lies between a file's layers, once."""
        if file not in self._residues_wanted:
            self._residues_wanted.add(file)
            # How much it is, only reading tells.
            self._residues[self.lanes.of(file, self._files.by_id[file].identity.size)].append(file)

    def repeat(self, job: Job, file: int, wanted: Wanted | None) -> None:
        """Queue one file of a job anew. `wanted` is what it was asked, if the job was of pieces."""
        if wanted is not None:
            self.questions.waiting[job.lane].append(wanted)
        else:
            self._queue_of(job).append(file)

    def again(self, job: Job, without: int | None) -> Wanted | None:
        """Queue a job's files anew, first in line, all but one; what that one was asked, for `repeat`."""
        if isinstance(job, PiecesJob):
            return self.questions.again(job, without)
        self._queue_of(job).extendleft(file for file in job.files if file != without)
        return None

    def _queue_of(self, job: Job) -> deque[int]:
        return (self._headers if isinstance(job, HeaderJob) else self._residues)[job.lane]

    def next_job(self, lane: int) -> Job | None:
        """What to read next. Headers and pieces take turns, so that answers come while headers are read."""
        self._headers_turn = not self._headers_turn
        makers = [self._header_job, self.questions.next_job, self._residue_job]
        for maker in makers if self._headers_turn else reversed(makers):
            job = maker(lane)
            if job is not None:
                return job
        return None

    def _header_job(self, lane: int) -> HeaderJob | None:
        waiting = self._headers[lane]
        count = self.lanes.batch(len(waiting))
        files: list[File] = []
        while waiting and len(files) < count:
            file = self._files.by_id.get(waiting.popleft())
            if file is not None and not self.lanes.hold(file, partial(waiting.append, file.id)):
                files.append(file)
        targets = list(map(self.lanes.target, files))
        return HeaderJob([file.id for file in files], targets, lane) if files else None

    def _residue_job(self, lane: int) -> ResidueJob | None:
        while self._residues[lane]:
            number = self._residues[lane].popleft()
            self._residues_wanted.discard(number)
            file = self._files.by_id.get(number)
            if file is not None and not self.lanes.hold(file, partial(self.want_residue, number)):
                return ResidueJob([file.id], [self.lanes.target(file)], lane)
        return None
