"""The core process: events in, instructions out, until everything that is there is told apart.

It joins the parts that know nothing of each other: the walk (`watch`), the records (`files`), the state
machine (`library`), what is to be read (`reading`), who reads it (`pipeline`) and the catalogue.
"""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import lru_cache

from blake3 import blake3

from loracore.messages import Progress
from lorad.catalog import Answer, Catalog
from lorad.files import File, Files, is_under
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
from lorad.pipeline.dispatch import Finished, Job, Lost, PiecesJob
from lorad.pipeline.machinery import Machinery
from lorad.pipeline.protocol import Header, Identity, Outcome, Published, Trouble
from lorad.reading import Reading, layer_digests, weight_signature
from lorad.recorder import Recorder
from lorad.statistics import Statistics
from lorad.watch.scanner import Seen, look, walk

#: Names looked at between two looks at the children's messages.
_STEP = 256
#: A file that changes this often while it is read is left alone.
_ATTEMPTS = 5
#: Weight signatures kept at hand.
_SIGNATURES = 4096
#: A file that kills this many loaders is failed.
_DEATHS = 3


class Engine:
    """One pass over `roots`, or as many as are asked for. `failed(path, reason)` is told of each failure."""

    def __init__(
        self,
        catalog: Catalog,
        machinery: Machinery,
        roots: Sequence[bytes],
        *,
        follow: bool,
        state_dir: bytes,
        failed: Callable[[bytes, str], None],
    ) -> None:
        self._catalog = catalog
        self._machinery = machinery
        self._failed = failed
        self.files = Files(catalog)
        self._library = Library()
        self._reading = Reading(catalog, self.files, follow=follow, loaders=machinery.loaders)
        self._follow = follow
        self._signature_of_layout = lru_cache(4096)(catalog.layout_signature)
        self._weight_signatures: dict[tuple[int, bytes], bytes] = {}
        self._walk = walk(roots, follow=follow, without=[state_dir])
        self._walked = False
        self._unseen: set[bytes] = set()
        self._attempts: Counter[bytes] = Counter()
        self._statistics = Statistics()
        self._load(is_under(roots))
        self._recorder = Recorder(catalog, self.files, machinery, self._statistics, os.fsdecode(state_dir))

    def _load(self, under: Callable[[bytes], bool]) -> None:
        """Take up what an earlier run learnt, as if nothing had happened since; the walk finds what has.

        So the JSON files go on from where they were, and a loader checks a file before it believes in it.
        """
        for layout, sequence, exhausted in self._catalog.sequences():
            self._library.planned(layout, sequence, exhausted)
        self.files.load(under)
        self._unseen = set(self.files.by_path)
        answered = self._catalog.answer_keys()
        twins: dict[tuple[int | None, bytes | None], int] = {}
        for file in self.files:
            twin = (
                twins.setdefault((file.layout, file.signature), file.id)
                if file.status is Status.DUPLICATE
                else None
            )
            self._restore(file, answered.pop(file.id, {}), None if twin == file.id else twin)

    @property
    def finished(self) -> bool:
        """Whether all that was found is told apart, saved and published."""
        return self._settled and self._recorder.up_to_date

    @property
    def trouble(self) -> str:
        """Why the JSON files cannot be written, if so."""
        return self._recorder.trouble

    @property
    def _settled(self) -> bool:
        return self._walked and self._reading.empty and self._machinery.idle

    def progress(self) -> Progress:
        counts = self.files.counts
        return Progress(
            files_total=counts.total(),
            files_processed=counts.total() - counts[Status.PENDING] - counts[Status.GROUPED],
            failed=counts[Status.FAILED],
            duplicates=counts[Status.DUPLICATE],
            bytes_total=self.files.bytes_total,
            bytes_read=self._statistics.bytes_read,
            walking=not self._walked,
        )

    @property
    def groups(self) -> int:
        """How many layouts the files have."""
        told = (Status.GROUPED, Status.UNIQUE, Status.DUPLICATE)
        return len({file.layout for file in self.files if file.status in told})

    def step(self, timeout: float) -> None:
        """Do what can be done now; wait up to `timeout` seconds for news when there is nothing else."""
        busy = not self._walked
        for event in self._machinery.poll(0 if busy else timeout):
            match event:
                case Finished():
                    self._finished(event)
                case Lost():
                    self._lost(event)
                case Published():
                    self._recorder.was_published(event)
        if busy:
            self._walk_on()
        self._feed()
        self._recorder.record(settled=self._settled)

    def _feed(self) -> None:
        while (loader := self._machinery.room()) is not None:
            job = self._reading.next_job()
            if job is None:
                return
            self._machinery.start(loader, job)

    # What there is

    def _walk_on(self) -> None:
        started = time.perf_counter()
        for _ in range(_STEP):
            seen = next(self._walk, None)
            if seen is None:
                for path in self._unseen:
                    self._vanished(path)
                self._unseen.clear()
                self._walked = True
                break
            self._see(seen)
            self._statistics.add("walk", files=1)
        self._statistics.add("walk", seconds=time.perf_counter() - started)

    def _see(self, seen: Seen) -> None:
        """A name is there. Known and unchanged, it keeps what is known of it."""
        path, identity = seen.path, Identity.of(seen.status) if seen.status else Identity(0, 0, 0, 0, 0)
        known = self.files.by_path.get(path)
        fresh = path in self._unseen
        self._unseen.discard(path)
        if known is not None and known.identity == identity and self._stays(known, seen, fresh):
            if fresh and known.status is Status.FAILED and path == known.names[0]:
                self._failed(path, known.error or "")
            return
        names = [path]
        if known is not None and known.identity == identity and not seen.passed_over and not known.passed_over:
            # To be read again, under all its names.
            names += [name for name in known.names if name != path]
            self._forget(known)
        elif known is not None:
            self._vanished(path)
        if seen.passed_over:
            status = Status.FAILED if seen.failed else Status.IGNORED
            self.files.name(self.files.pass_over(identity, status, seen.passed_over), path)
            if seen.failed:
                self._failed(path, seen.passed_over)
            return
        self._arrive(names, identity)

    def _stays(self, known: File, seen: Seen, fresh: bool) -> bool:
        """Whether what is known of an unchanged inode still holds."""
        if known.passed_over or seen.passed_over:
            return known.passed_over and known.error == seen.passed_over
        unreadable = known.status is Status.FAILED and not known.read_ns and known.deaths < _DEATHS
        return not fresh or not (known.too_young or unreadable)

    def _arrive(self, names: list[bytes], identity: Identity) -> None:
        """Names lead to an inode that is to be read: new, changed, or known under another name."""
        there = self.files.at_inode(identity)
        if there is not None and there.identity == identity:
            for name in names:
                self.files.name(there, name)
            self.files.changed(there)
            return
        if there is not None:
            names += [name for name in there.names if name not in names]
            self._forget(there)
        file = self.files.add(identity)
        for name in names:
            self.files.name(file, name)
        self._do(self._library.found(file.id))

    def _restore(self, file: File, answers: dict[int, bytes], twin: int | None) -> None:
        """A file of an earlier run takes its place again."""
        if file.layout is not None and file.status not in (Status.FAILED, Status.IGNORED):
            self._do(self._library.restore(file.id, file.layout, answers, twin))
        elif file.status is Status.PENDING:
            self._do(self._library.found(file.id))

    def _vanished(self, path: bytes) -> None:
        """A name is gone; with its last name goes the file."""
        file = self.files.unname(path)
        if not file.names:
            self._forget(file)

    def _forget(self, file: File) -> None:
        self._do(self._library.forget(file.id))
        self.files.forget(file)

    # What was learnt

    def _do(self, instructions: list[Instruction]) -> None:
        """Carry out what the state machine wants, and what follows from that, in the order it was said."""
        waiting = deque(instructions)
        while waiting:
            match waiting.popleft():
                case ReadHeader(file):
                    self._reading.headers.append(file)
                case Describe(layout, file):
                    shape = self._reading.shape(layout, self.files.by_id[file].arrangement or 0)
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
                    self._change(self.files.by_id[number], status, key)

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
        if (file.status, file.signature) != (status, signature):
            file.signature = signature
            self.files.set_status(file, status)

    def _weight_signature(self, layout: int, key: bytes, file: int) -> bytes:
        """That of a file every layer of which is digested; equal for all that answered alike."""
        signature = self._weight_signatures.get((layout, key))
        if signature is None:
            if len(self._weight_signatures) >= _SIGNATURES:
                self._weight_signatures.clear()
            digests = layer_digests(self._library.sequence(layout), self._catalog.answers(file))
            signature = self._weight_signatures[layout, key] = weight_signature(digests)
        return signature

    def _finished(self, finished: Finished) -> None:
        job, position = finished.job, 0
        for index, (number, outcome) in enumerate(zip(job.files, finished.outcomes, strict=True)):
            self._statistics.job(job, outcome)
            if outcome.header is not None:
                # A loader sends a body once, so it is kept whatever became of the file that brought it.
                self._catalog.layout_id(outcome.header.layout_signature, outcome.header.layout)
                self._catalog.arrangement_id(outcome.header.arrangement_signature, outcome.header.arrangement)
            wanted, digests = None, b""
            if isinstance(job, PiecesJob):
                end = position + 32 * job.plans[index].pieces
                wanted, digests = self._reading.take(job, index, finished.digests[position:end])
                position = end
            file = self.files.by_id.get(number)
            if file is None:
                continue
            file.seconds += outcome.seconds
            file.read_ns = file.read_ns or outcome.read_ns
            self.files.changed(file)
            if outcome.trouble is not None:
                self._troubled(file, outcome.trouble)
                if outcome.trouble.kind == "changed" and self._still_wanted(file):
                    self._reading.repeat(job, number, wanted)
            elif wanted is not None:
                self._do(self._answer(number, wanted.question.number, digests))
            else:
                self._learn(file, outcome)

    def _still_wanted(self, file: File) -> bool:
        """Whether a file that could not be read under one name is there, the same, under another."""
        return file.id in self.files.by_id and file.status not in (Status.FAILED, Status.IGNORED)

    def _learn(self, file: File, outcome: Outcome) -> None:
        """A header or a residue was read."""
        if outcome.header is None:
            file.residue = outcome.residue
            return
        header: Header = outcome.header
        file.layout = self._catalog.layout_id(header.layout_signature)
        file.arrangement = self._catalog.arrangement_id(header.arrangement_signature)
        assert file.layout is not None
        assert file.arrangement is not None
        file.base, file.format, file.residue = header.base, header.format, header.residue
        self._do(self._library.header(file.id, file.layout))

    def _troubled(self, file: File, trouble: Trouble) -> None:
        path = file.names[0]
        if trouble.kind == "changed":
            self._attempts[path] += 1
            if self._attempts[path] <= _ATTEMPTS:
                self._look_again(file)
                return
        if trouble.kind == "ignored":
            file.error = trouble.reason
            self._do(self._library.ignored(file.id))
            return
        if trouble.kind != "failed":
            # The next run tries again: the file itself need not change for that to succeed.
            file.read_ns = 0
        self._fail(file, trouble.reason)

    def _look_again(self, file: File) -> None:
        """A file is not what it was: see what its names lead to now."""
        for path in list(file.names):
            seen = look(path, follow=self._follow)
            if seen is not None:
                self._see(seen)
            elif self.files.by_path.get(path) is file:
                self._vanished(path)

    def _fail(self, file: File, reason: str) -> None:
        file.error = reason
        self._do(self._library.failed(file.id))
        self._failed(file.names[0], reason)

    def _lost(self, lost: Lost) -> None:
        """A process died with this job. What was not the cause is read again."""
        job: Job = lost.job
        wanted = self._reading.again(job, lost.culprit)
        file = self.files.by_id.get(lost.culprit) if lost.culprit is not None else None
        if file is None:
            return
        file.deaths += 1
        self.files.changed(file)
        if file.deaths >= _DEATHS:
            self._fail(file, f"reading it killed {file.deaths} loader processes; check the file")
        else:
            self._reading.repeat(job, file.id, wanted)
