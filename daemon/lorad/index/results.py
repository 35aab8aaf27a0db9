"""What comes of jobs: what was read is learnt, what could not be read is failed, or read again."""

from __future__ import annotations

from collections.abc import Callable

from loracore.control import Event, FileGrouped
from lorad.catalog import Catalog
from lorad.index.configs import Configs
from lorad.index.executor import Executor
from lorad.index.facts import FactsOfFiles
from lorad.index.failures import Failures
from lorad.index.inheritance import Inheritance
from lorad.index.known_files import Files
from lorad.index.looks import Looks
from lorad.index.names import Names
from lorad.index.questions import Wanted
from lorad.index.reads import Reading
from lorad.index.records import DEATHS, File
from lorad.index.tags import TagsOfFiles
from lorad.library import Library, Status
from lorad.pipeline.dispatch import Finished, Job, Lost, PiecesJob
from lorad.pipeline.pipeline import Pipeline
from lorad.pipeline.protocol import Header, Outcome, Trouble


class Results:
    """Takes what the pipeline says of the jobs that it was given."""

    def __init__(
        self,
        catalog: Catalog,
        pipeline: Pipeline,
        files: Files,
        library: Library,
        reads: Reading,
        *,
        executor: Executor,
        configs: Configs,
        facts: FactsOfFiles,
        names: Names,
        failures: Failures,
        looks: Looks,
        tags: TagsOfFiles,
        inheritance: Inheritance,
        tell: Callable[[Event], None],
    ) -> None:
        self._catalog = catalog
        self._pipeline = pipeline
        self._files = files
        self._library = library
        self._reads = reads
        self._executor = executor
        self._configs = configs
        self._facts = facts
        self._names = names
        self._failures = failures
        self._looks = looks
        self._tags = tags
        self._inheritance = inheritance
        self._tell = tell
        #: What is to be read again when an action is over.
        self.postponed: list[tuple[Job, File, Wanted | None]] = []

    def finished(self, finished: Finished) -> None:
        """A job is done, which does not mean that all of its files could be read."""
        job, position = finished.job, 0
        for index, outcome in enumerate(finished.outcomes):
            wanted, digests = None, b""
            if isinstance(job, PiecesJob):
                end = position + 32 * job.plans[index].pieces
                wanted, digests = self._reads.questions.take(job, index, finished.digests[position:end])
                position = end
            with self._failures.about(job.targets[index].path):
                self._was_read(job, index, outcome, wanted, digests)

    def lost(self, lost: Lost) -> None:
        """A process died with this job. What was not the cause is read again."""
        job: Job = lost.job
        wanted = self._reads.again(job, lost.culprit)
        file = self._files.by_id.get(lost.culprit) if lost.culprit is not None else None
        if file is None:
            return
        file.deaths += 1
        self._files.store.changed(file)
        if file.deaths >= DEATHS:
            self._failures.fail(file, f"reading it killed {file.deaths} loader processes; check the file")
        else:
            self._reads.repeat(job, file.id, wanted)

    def repeat_postponed(self) -> None:
        """Read again what waited for an action to be over, where it is."""
        postponed, self.postponed = self.postponed, []
        for job, file, wanted in postponed:
            if self._still_wanted(file):
                self._repeat(job, file, wanted)

    def _was_read(self, job: Job, index: int, outcome: Outcome, wanted: Wanted | None, digests: bytes) -> None:
        """What came of a job's `index`-th file."""
        number = job.files[index]
        if outcome.header is not None:
            # A loader sends a body once, so it is kept whatever became of the file that brought it.
            self._catalog.layouts.number(outcome.header.layout_signature, outcome.header.layout)
            self._catalog.arrangements.number(outcome.header.arrangement_signature, outcome.header.arrangement)
        file = self._files.by_id.get(number)
        if file is None:
            return
        file.seconds += outcome.seconds
        file.read_ns = file.read_ns or outcome.read_ns
        self._files.store.changed(file)
        if outcome.trouble is None and wanted is not None:
            # Whatever its loaders died of before, it was not this file for sure.
            file.deaths = 0
        if outcome.trouble is not None and outcome.trouble.kind == "cancelled":
            if wanted is not None:
                self._reads.questions.park(wanted)
            else:
                self._reads.repeat(job, number, None)
        elif outcome.trouble is not None:
            self._troubled(file, outcome.trouble)
            if outcome.trouble.kind == "changed" and self._still_wanted(file):
                self._repeat(job, file, wanted)
        elif wanted is not None:
            self._executor.answer(number, wanted.question, digests)
        else:
            self._learn(file, outcome)

    def _repeat(self, job: Job, file: File, wanted: Wanted | None) -> None:
        """Read a file again that was not there as it was, once no action is under way on it."""
        if self._looks.is_put_off(file):
            self.postponed.append((job, file, wanted))
        else:
            self._reads.repeat(job, file.id, wanted)

    def _still_wanted(self, file: File) -> bool:
        """Whether a file that could not be read under one name is there, the same, under another."""
        return file.id in self._files.by_id and file.status not in (Status.FAILED, Status.IGNORED)

    def _learn(self, file: File, outcome: Outcome) -> None:
        """A header or a residue was read."""
        self._names.was_read(file)
        if outcome.header is None:
            file.residue = outcome.residue
            return
        header: Header = outcome.header
        file.function = header.function
        if file.layout is not None:
            # All else of it was learnt before functions and facts were.
            self._facts.learnt(file, header.facts)
            return
        file.layout = self._catalog.layouts.number(header.layout_signature)
        file.arrangement = self._catalog.arrangements.number(header.arrangement_signature)
        if file.layout is None or file.arrangement is None:
            # It was sent once, and lost with what could not be committed.
            self._pipeline.forget_layouts()
            self._reads.want_header(file.id)
            return
        file.base, file.format, file.residue = header.base, header.format, header.residue
        file.metadata = header.metadata
        for name in file.names:
            self._configs.look(name)
        self._facts.learnt(file, header.facts)
        alone = not self._library.has_layout(file.layout)
        inherited = self._inheritance.of(file)
        if inherited is None:
            self._tags.learnt(file)
            self._executor.do(self._library.header(file.id, file.layout))
        else:
            self._tags.inherits(inherited.model, file)
            self._executor.inherit(file, inherited)
        if file.names:
            self._tell(FileGrouped(file.names[0], header.layout_signature, alone))

    def _troubled(self, file: File, trouble: Trouble) -> None:
        if trouble.kind == "changed" and self._looks.is_put_off(file):
            return
        if trouble.traceback:
            self._failures.mistake(file.path, trouble.traceback)
        if trouble.kind == "changed" and self._names.may_try_again(file):
            self._looks.look_again(file)
            return
        if trouble.kind == "ignored":
            file.error = trouble.reason
            self._executor.do(self._library.ignored(file.id))
            return
        if trouble.kind != "failed" or trouble.traceback:
            # The next run tries again: the file itself need not change for that to succeed.
            file.read_ns = 0
        self._failures.fail(file, trouble.reason)
