"""The core of the core process: events in, instructions out, until everything that is there is told apart.

It joins the parts that know nothing of each other, and gives each its turn: folders that are looked through
(`sweeps`), what is to be read (`reads`), what came of that (`results`), the state machine and what follows from it
(`library`, `executor`), where files lie (`backlog`) and the catalogue (`commits`).
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Sequence

from loracore.control import Event
from loracore.identity import Edited, bounded
from loracore.messages import Progress
from lorad.catalog import Catalog, Identified
from lorad.index.arrivals import Arrivals
from lorad.index.away import Away
from lorad.index.backlog import Backlog
from lorad.index.commits import Commits, PresentTerms
from lorad.index.configs import Configs
from lorad.index.executor import Duplicate, Executor
from lorad.index.facts import FactsOfFiles
from lorad.index.failures import Failures
from lorad.index.hiding import Hiding
from lorad.index.holders import Holders
from lorad.index.inheritance import Inheritance
from lorad.index.known_files import Files
from lorad.index.looks import Looks
from lorad.index.names import Names
from lorad.index.reads import Reading
from lorad.index.records import File
from lorad.index.results import Results
from lorad.index.statistics import Statistics
from lorad.index.sweeps import Sweeps
from lorad.index.tags import TagsOfFiles
from lorad.index.view import View
from lorad.library import Library, Status
from lorad.pipeline.dispatch import Finished, Lost
from lorad.pipeline.pipeline import Pipeline
from lorad.pipeline.protocol import LANES, LONG_LANE, Identity, Published
from lorad.watch.exclude import Exclude

#: Names looked at between two looks at the children's messages.
_STEP = 256
#: Files that are read anew for something wrong, each once, as far as so many are remembered.
_READ_ANEW = 4096
#: Duplicates opened between the same, to see where their blocks lie.
_LOOKS = 32


class Engine:
    """Keeps the catalogue and the JSON files true to what is under `roots`.

    It looks when it is told to, by a folder for `sweeps` or a name that `looks` hears of. `tell` hears of what it
    finds, and `duplicate` of each file that becomes one, the first of a set included; for `defer` and `remind` see
    `Looks`, for `mistake` `Failures`, for `render_once` `Commits`. `exclude` is as in the configuration.
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
        self._catalog, self._pipeline = catalog, pipeline
        self.files = files = Files(catalog)
        self.statistics = Statistics()
        self._library = library = Library()
        self._duplicate = duplicate
        self.reads = reads = Reading(catalog, files, follow=follow, loaders=pipeline.loaders)
        #: Duplicates whose blocks are to be looked at, once all is read.
        self.blocks = blocks = Backlog(files)
        self._executor = executor = Executor(
            catalog, files, library, reads, blocks, tell=tell, duplicate=self._met_twins,
            about=lambda path: self.failures.about(path),  # noqa: PLW0108 - it is made below
        )  # fmt: skip
        do = executor.do
        leaves_out = Exclude(exclude, roots)
        _load(executor, leaves_out)
        self._facts = facts = FactsOfFiles(catalog, files, reads.want_header)
        self.tags = tags = TagsOfFiles(
            catalog, files, executor.signature_of_layout, os.fsdecode(state_dir) if catalog.facts.lists else None
        )
        self._configs = configs = Configs(files, reads.plans.layer_names, facts.configured)
        view = View(files, roots, exclude=leaves_out, follow=follow)
        away = Away(files, view)
        self.arrivals = arrivals = Arrivals(files, view)
        self.names = names = Names(files, configs, library, follow=follow, do=do, tell=tell, forgot=self._forgot)
        self.failures = failures = Failures(files, library, names, do=do, tell=tell, mistake=mistake)
        self.inheritance = inheritance = Inheritance(catalog, files, view, tags)
        self.looks = looks = Looks(
            files, view, away=away, configs=configs, names=names, arrivals=arrivals, failures=failures,
            do=do, tell=tell, defer=defer, remind=remind, replaced=inheritance.replaced,
        )  # fmt: skip
        self.hiding = Hiding(files, view, names, looks, executor)
        self.sweeps = Sweeps(
            files, view, looks, failures, without=[state_dir], swept=blocks.add_under, hidden=self.hiding.met.add
        )
        self.holders = Holders(catalog, files, away, self.sweeps, executor.signature_of_layout)
        self._results = Results(
            catalog, pipeline, files, library, reads, executor=executor, configs=configs, facts=facts, names=names,
            failures=failures, looks=looks, tags=tags, inheritance=inheritance, tell=tell,
        )  # fmt: skip
        self.commits = Commits(
            catalog, files, pipeline, self.statistics, os.fsdecode(state_dir),
            terms=PresentTerms(files, roots, follow=follow), render_once=render_once,
        )  # fmt: skip
        #: Files of which something else was found than was known, as they were then.
        self._read_anew: set[Identity] = set()
        pipeline.forget_layouts()
        facts.want_missing()

    @property
    def finished(self) -> bool:
        """Whether all that was found is told apart, saved and published."""
        return self.settled and self.commits.up_to_date

    @property
    def settled(self) -> bool:
        """Whether nothing more is to be learnt for now."""
        return not (self.sweeps.active or self.reading or self.blocks)

    @property
    def reading(self) -> bool:
        """Whether files are being read, or wait for it."""
        return self.reads.waits(LANES) or not self._pipeline.dispatcher.idle or bool(self._results.postponed)

    @property
    def hurries(self) -> bool:
        """Whether files are being read, or wait for it, of which that does not take long."""
        return self.reads.waits(LONG_LANE) or self._pipeline.dispatcher.works(LONG_LANE)

    def progress(self) -> Progress:
        counts = self.files.tally.counts
        return Progress(
            files_total=counts.total(),
            files_processed=counts.total() - counts[Status.PENDING] - counts[Status.GROUPED],
            failed=counts[Status.FAILED],
            duplicates=counts[Status.DUPLICATE],
            bytes_total=bounded(self.files.tally.bytes_total),
            bytes_read=self.statistics.bytes_read,
            walking=self.sweeps.active,
        )

    @property
    def groups(self) -> int:
        """How many layouts the files have."""
        told = (Status.GROUPED, Status.UNIQUE, Status.DUPLICATE)
        return len({file.layout for file in self.files if file.status in told and file.names})

    def step(self, timeout: float) -> None:
        """Do what can be done now; wait up to `timeout` seconds for news when there is nothing else."""
        self._results.repeat_postponed()
        self._feed()
        self._configs.forget()
        self.inheritance.forget_old()
        now = time.monotonic()
        self.blocks.add_written(now)
        busy = self.sweeps.active
        at_rest = not busy and not self.reading
        for event in self._pipeline.poll(0 if busy or (at_rest and self.blocks) else timeout):
            match event:
                case Finished():
                    self.statistics.finished(event)
                    self._results.finished(event)
                case Lost():
                    self._results.lost(event)
                case Published():
                    self.commits.was_published(event)
        if busy:
            started = time.perf_counter()
            names = self.sweeps.step(_STEP)
            self.statistics.add("walk", files=names, seconds=time.perf_counter() - started)
        self._feed()
        if not self.sweeps.active and not self.reading:
            self.blocks.look(_LOOKS, now)
        self.tags.models.save()
        self.commits.record(settled=self.settled)

    def edited(self, files: Sequence[Edited]) -> None:
        """A client says that it replaced these files by others of the same layers."""
        for each in files:
            known = self.inheritance.note(each)
            if known is not None and not self.looks.is_put_off(known):
                # It was read as a new file: its header alone is read again.
                with self.failures.about(each.path):
                    self.names.read_again(known)

    def read_anew(self, path: bytes) -> None:
        """What is known of this file has proved wrong: it is read, once, and nothing of that is taken over."""
        file = self.files.by_path.get(path)
        if file is None or file.layout is None or file.identity in self._read_anew or self.looks.is_put_off(file):
            return
        if len(self._read_anew) >= _READ_ANEW:
            self._read_anew.clear()
        self._read_anew.add(file.identity)
        with self.failures.about(path):
            self.names.read_again(file)

    def identified(self, number: int, identity: Identity, found: Identified) -> File | None:
        """Keep a file's identity hashes, at once, if it is still the file that was hashed; the file then."""
        if not self.has(number, identity):
            return None
        self._catalog.hashes.save(number, found)
        self.tags.identified(self.files.by_id[number], found)
        self.commits.save()
        return self.files.by_id[number]

    def has(self, number: int, identity: Identity) -> bool:
        """Whether this file is there, and the same."""
        file = self.files.by_id.get(number)
        return file is not None and file.identity == identity

    def tidy(self) -> None:
        """Drop what is kept of layouts that no file has any more. Only when all is `finished`."""
        self.holders.note_dirty()
        # What it holds goes by the numbers of layouts and questions.
        self.inheritance.forget_all()
        self._library.forget_unused()
        self._catalog.forget_unused()
        self._catalog.commit(new_generation=False)
        self._pipeline.forget_layouts()
        self.reads.plans.forget()
        self._executor.forget_layouts()

    def _met_twins(self, file: File, twins: Sequence[bytes]) -> None:
        """A file has become a duplicate of others, of which these are some names."""
        self.tags.met_twins(file)
        if self._duplicate is not None:
            self._duplicate(file, twins)

    def _forgot(self, file: int) -> None:
        self._facts.forget(file)
        self.tags.forget(file)
        self._pipeline.dispatcher.cancel(file)
        self.reads.questions.drop(file)

    def _feed(self) -> None:
        self.reads.lanes.release()
        for file in list(self.reads.questions.pointless()):
            self._pipeline.dispatcher.cancel(file)
        for lane in range(LANES):
            while (loader := self._pipeline.room(lane)) is not None:
                job = self.reads.next_job(lane)
                if job is None:
                    break
                self._pipeline.dispatcher.start(loader, job)


def _load(executor: Executor, leaves_out: Exclude) -> None:
    """What is loaded stays: looking for garbage in it would take longer than loading."""
    gc.disable()
    try:
        executor.load(leaves_out.in_view())
    finally:
        gc.enable()
    gc.freeze()
