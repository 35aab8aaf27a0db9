"""The core of the core process: events in, instructions out, until everything that is there is told apart.

It joins the parts that know nothing of each other: the names (`names`), the records (`records`), the state
machine and what follows from it (`library`, `executor`), what is to be read (`reads`), who reads it
(`pipeline`), where it lies (`blocks`) and the catalogue.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator, Sequence

from loracore.control import Event, FileFailedEvent, FileGrouped
from loracore.identity import bounded
from loracore.messages import Progress
from lorad.catalog import Catalog, Identified
from lorad.index.backlog import Backlog
from lorad.index.commits import Commits, PresentTerms
from lorad.index.configs import Configs
from lorad.index.executor import Duplicate, Executor
from lorad.index.hiding import Hiding
from lorad.index.holders import Holders
from lorad.index.known_files import Files
from lorad.index.names import DEATHS, Names
from lorad.index.reads import Reading, Wanted
from lorad.index.records import File
from lorad.index.statistics import Statistics
from lorad.library import Library, Status
from lorad.library.keepers import Rules
from lorad.pipeline.dispatch import Finished, Job, Lost, PiecesJob
from lorad.pipeline.pipeline import Pipeline
from lorad.pipeline.protocol import LANES, LONG_LANE, Header, Identity, Outcome, Published, Trouble
from lorad.watch.exclude import Exclude

#: Names looked at between two looks at the children's messages.
_STEP = 256
#: Duplicates opened between the same, to see where their blocks lie.
_LOOKS = 32


class Engine:
    """Keeps the catalogue and the JSON files true to what is under `roots`.

    It looks when it is told to: `sweep` a folder, or a name was `touched`. `tell` hears of what it finds, and
    `duplicate` of each file that becomes one, the first of a set included; for `defer`, `remind` and `mistake` see
    `Names`, for `render_once` `Commits`. `exclude` is as in the configuration.
    """

    def __init__(
        self,
        catalog: Catalog,
        pipeline: Pipeline,
        roots: Sequence[bytes],
        *,
        follow: bool,
        exclude: Sequence[str] = (),
        state_dir: bytes,
        tell: Callable[[Event], None],
        duplicate: Duplicate | None = None,
        defer: Callable[[bytes, os.stat_result], bool] | None = None,
        remind: bool = False,
        render_once: bool = False,
        mistake: Callable[[bytes, str], None],
    ) -> None:
        self._catalog = catalog
        self._pipeline = pipeline
        self._tell = tell
        self._mistake = mistake
        self.files = Files(catalog)
        self._library = Library()
        self._reading = Reading(catalog, self.files, follow=follow, loaders=pipeline.loaders)
        self.statistics = Statistics()
        #: What is to be read again when an action is over.
        self._postponed: list[tuple[Job, File, Wanted | None]] = []
        #: Duplicates whose blocks are to be looked at, once all is read.
        self._blocks = Backlog(self.files)
        self._executor = Executor(
            catalog,
            self.files,
            self._library,
            self._reading,
            self._blocks,
            tell=tell,
            duplicate=duplicate,
            about=lambda path: self._names.about(path),  # noqa: PLW0108 - it is made below
        )
        self._do = self._executor.do
        self._configs = Configs(self.files, self._reading.layer_names)
        leaves_out = Exclude(exclude, roots)
        # What is loaded stays: looking for garbage in it would take longer than loading.
        gc.disable()
        try:
            self._executor.load(leaves_out.in_view())
        finally:
            gc.enable()
        gc.freeze()
        self._names = names = Names(
            self.files,
            self._configs,
            self._library,
            roots,
            follow=follow,
            exclude=leaves_out,
            without=[state_dir],
            do=self._do,
            tell=tell,
            defer=defer,
            swept=self._blocks.add_under,
            remind=remind,
            mistake=mistake,
            forgot=self._forgot,
        )
        self._terms = PresentTerms(self.files, roots, follow=follow)
        self._commits = Commits(
            catalog,
            self.files,
            pipeline,
            self.statistics,
            os.fsdecode(state_dir),
            terms=self._terms,
            render_once=render_once,
        )
        pipeline.forget_layouts()
        #: Look through a folder; look at one name that something happened to, once it has settled and before that.
        self.sweep, self.touched, self.noticed = names.sweep, names.touched, names.noticed
        #: Whether a name that is not found may be out of view; an inode that we gave a name.
        self.is_away = names.is_away
        self.relinked = names.relinked
        #: What was hidden and is shown again, see `Hiding`.
        hiding = Hiding(self.files, names, self._executor)
        self.hide, self.show, self.hidden, self.only_hidden = hiding.hide, hiding.show, hiding.hidden, hiding.only
        self.came_back = hiding.came_back
        #: Which files hold weights, and which are new, see `Holders`.
        self._holders = holders = Holders(catalog, self.files, names, self._executor.signature_of_layout)
        self.weights_hidden_at, self.is_hidden_alone = holders.weights_hidden_at, holders.is_hidden_alone
        self.is_newcomer, self.keepers = holders.is_newcomer, holders.keepers
        self.unresolved, self.dirty_weights = holders.unresolved, holders.dirty_weights
        #: By our own doing, the file of this name shares other blocks than it did.
        self.rearranged = self._blocks.add_name

    def keep_by(self, rules: Rules) -> None:
        """Go by these rules from now on, as to which file of a set is named as the kept one."""
        self._terms.rules = rules
        self._commits.look_at_terms()

    @property
    def finished(self) -> bool:
        """Whether all that was found is told apart, saved and published."""
        return self.settled and self._commits.up_to_date

    @property
    def published(self) -> int:
        """The generation of the JSON files; -1 when unknown."""
        return self._commits.published

    @property
    def queues(self) -> dict[str, int]:
        """What waits to be read."""
        return self._reading.queues

    @property
    def trouble(self) -> str:
        """Why the JSON files cannot be written, if so."""
        return self._commits.trouble

    @property
    def settled(self) -> bool:
        """Whether nothing more is to be learnt for now."""
        return not (self.sweeping or self.reading or self._blocks)

    @property
    def sweeping(self) -> bool:
        return self._names.sweeping

    def strays(self) -> set[bytes]:
        """Names that were met, which de-duplication has made, and no action known here has put aside."""
        if self._names.strays:
            known = self.hidden()
            folders = {folder for path in known for folder in _above(path)}
            self._names.strays -= {*known, *folders}
        return set(self._names.strays)

    @property
    def links(self) -> set[bytes]:
        """Names of symbolic links in view that are not followed, or lead to nothing."""
        return self._names.links

    def no_stray(self, path: bytes) -> None:
        """It was seen to."""
        self._names.strays.discard(path)

    @property
    def reading(self) -> bool:
        """Whether files are being read, or wait for it."""
        return not (self._reading.empty and self._pipeline.dispatcher.idle) or bool(self._postponed)

    def put_off(self, names: Callable[[bytes], bool]) -> None:
        """Leave names alone as long as `names` says that an action is under way on them.

        What happens to them meanwhile is not seen: `touched` is to be called for each when it is over.
        """
        self._names.put_off = names

    def act(self, acts: bool) -> None:
        """Whether files that are met from now on may be newcomers: a policy other than to report is in force.

        While none is, all are old, also those that were new before.
        """
        self._names.act(acts)

    @property
    def hurries(self) -> bool:
        """Whether files are being read, or wait for it, of which that does not take long."""
        return self._reading.waits(LONG_LANE) or self._pipeline.dispatcher.works(LONG_LANE)

    def progress(self) -> Progress:
        counts = self.files.tally.counts
        return Progress(
            files_total=counts.total(),
            files_processed=counts.total() - counts[Status.PENDING] - counts[Status.GROUPED],
            failed=counts[Status.FAILED],
            duplicates=counts[Status.DUPLICATE],
            bytes_total=bounded(self.files.tally.bytes_total),
            bytes_read=self.statistics.bytes_read,
            walking=self._names.sweeping,
        )

    @property
    def groups(self) -> int:
        """How many layouts the files have."""
        told = (Status.GROUPED, Status.UNIQUE, Status.DUPLICATE)
        return len({file.layout for file in self.files if file.status in told and file.names})

    def step(self, timeout: float) -> None:
        """Do what can be done now; wait up to `timeout` seconds for news when there is nothing else."""
        self._repeat_postponed()
        self._feed()
        self._configs.forget()
        now = time.monotonic()
        self._blocks.add_written(now)
        busy = self._names.sweeping
        at_rest = not busy and not self.reading
        for event in self._pipeline.poll(0 if busy or (at_rest and self._blocks) else timeout):
            match event:
                case Finished():
                    self._finished(event)
                case Lost():
                    self._lost(event)
                case Published():
                    self._commits.was_published(event)
        if busy:
            started = time.perf_counter()
            names = self._names.step(_STEP)
            self.statistics.add("walk", files=names, seconds=time.perf_counter() - started)
        self._feed()
        if not self.sweeping and not self.reading:
            self._blocks.look(_LOOKS, now)
        self._commits.record(settled=self.settled)

    def save(self) -> None:
        """Commit what was learnt so far."""
        self._commits.save()

    def identified(self, number: int, identity: Identity, found: Identified) -> File | None:
        """Keep a file's identity hashes, at once, if it is still the file that was hashed; the file then."""
        if not self.has(number, identity):
            return None
        self._catalog.hashes.save(number, found)
        self.save()
        return self.files.by_id[number]

    def has(self, number: int, identity: Identity) -> bool:
        """Whether this file is there, and the same."""
        file = self.files.by_id.get(number)
        return file is not None and file.identity == identity

    def tidy(self) -> None:
        """Drop what is kept of layouts that no file has any more. Only when all is `finished`."""
        self._holders.note_dirty()
        self._library.forget_unused()
        self._catalog.forget_unused()
        self._catalog.commit(new_generation=False)
        self._pipeline.forget_layouts()
        self._reading.forget_layouts()
        self._executor.forget_layouts()

    def _forgot(self, file: int) -> None:
        self._pipeline.dispatcher.cancel(file)
        self._reading.drop(file)

    def _feed(self) -> None:
        self._reading.release()
        for file in list(self._reading.pointless()):
            self._pipeline.dispatcher.cancel(file)
        for lane in range(LANES):
            while (loader := self._pipeline.room(lane)) is not None:
                job = self._reading.next_job(lane)
                if job is None:
                    break
                self._pipeline.dispatcher.start(loader, job)

    def _finished(self, finished: Finished) -> None:
        job, position = finished.job, 0
        for index, outcome in enumerate(finished.outcomes):
            wanted, digests = None, b""
            if isinstance(job, PiecesJob):
                end = position + 32 * job.plans[index].pieces
                wanted, digests = self._reading.take(job, index, finished.digests[position:end])
                position = end
            with self._names.about(job.targets[index].path):
                self._was_read(job, index, outcome, wanted, digests)

    def _was_read(self, job: Job, index: int, outcome: Outcome, wanted: Wanted | None, digests: bytes) -> None:
        """What came of a job's `index`-th file."""
        number = job.files[index]
        self.statistics.job(job, outcome)
        if outcome.header is not None:
            # A loader sends a body once, so it is kept whatever became of the file that brought it.
            self._catalog.layouts.number(outcome.header.layout_signature, outcome.header.layout)
            self._catalog.arrangements.number(outcome.header.arrangement_signature, outcome.header.arrangement)
        file = self.files.by_id.get(number)
        if file is None:
            return
        file.seconds += outcome.seconds
        file.read_ns = file.read_ns or outcome.read_ns
        self.files.store.changed(file)
        if outcome.trouble is None and wanted is not None:
            # Whatever its loaders died of before, it was not this file for sure.
            file.deaths = 0
        if outcome.trouble is not None and outcome.trouble.kind == "cancelled":
            if wanted is not None:
                self._reading.park(wanted)
            else:
                self._reading.repeat(job, number, None)
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
        if self._names.is_put_off(file):
            self._postponed.append((job, file, wanted))
        else:
            self._reading.repeat(job, file.id, wanted)

    def _repeat_postponed(self) -> None:
        postponed, self._postponed = self._postponed, []
        for job, file, wanted in postponed:
            if self._still_wanted(file):
                self._repeat(job, file, wanted)

    def _still_wanted(self, file: File) -> bool:
        """Whether a file that could not be read under one name is there, the same, under another."""
        return file.id in self.files.by_id and file.status not in (Status.FAILED, Status.IGNORED)

    def _learn(self, file: File, outcome: Outcome) -> None:
        """A header or a residue was read."""
        self._names.was_read(file)
        if outcome.header is None:
            file.residue = outcome.residue
            return
        header: Header = outcome.header
        file.function = header.function
        if file.layout is not None:
            # All else of it was learnt before functions were.
            return
        file.layout = self._catalog.layouts.number(header.layout_signature)
        file.arrangement = self._catalog.arrangements.number(header.arrangement_signature)
        if file.layout is None or file.arrangement is None:
            # It was sent once, and lost with what could not be committed.
            self._pipeline.forget_layouts()
            self._reading.want_header(file.id)
            return
        file.base, file.format, file.residue = header.base, header.format, header.residue
        file.metadata = header.metadata
        for name in file.names:
            self._configs.look(name)
        alone = not self._library.has_layout(file.layout)
        self._do(self._library.header(file.id, file.layout))
        if file.names:
            self._tell(FileGrouped(file.names[0], header.layout_signature, alone))

    def _troubled(self, file: File, trouble: Trouble) -> None:
        if trouble.kind == "changed" and self._names.is_put_off(file):
            return
        if trouble.traceback:
            self._mistake(file.path, trouble.traceback)
        if trouble.kind == "changed" and self._names.may_try_again(file):
            self._names.look_again(file)
            return
        if trouble.kind == "ignored":
            file.error = trouble.reason
            self._do(self._library.ignored(file.id))
            return
        if trouble.kind != "failed" or trouble.traceback:
            # The next run tries again: the file itself need not change for that to succeed.
            file.read_ns = 0
        self._fail(file, trouble.reason)

    def _fail(self, file: File, reason: str) -> None:
        file.error = reason
        self._do(self._library.failed(file.id))
        if file.names:
            self._tell(FileFailedEvent(file.names[0], reason))

    def _lost(self, lost: Lost) -> None:
        """A process died with this job. What was not the cause is read again."""
        job: Job = lost.job
        wanted = self._reading.again(job, lost.culprit)
        file = self.files.by_id.get(lost.culprit) if lost.culprit is not None else None
        if file is None:
            return
        file.deaths += 1
        self.files.store.changed(file)
        if file.deaths >= DEATHS:
            self._fail(file, f"reading it killed {file.deaths} loader processes; check the file")
        else:
            self._reading.repeat(job, file.id, wanted)


def _above(path: bytes) -> Iterator[bytes]:
    """The folders that a path lies in."""
    while (folder := os.path.dirname(path)) != path:
        yield folder
        path = folder
