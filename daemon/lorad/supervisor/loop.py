"""The daemon: one loop that feeds the engine with news of the folders and keeps everything around it going.

The loop waits at one place, for whatever comes first: a message of a child, its death, news of the watch, a
client's request, a signal, or the next thing that is due.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from functools import partial

from loracore.config import Config
from loracore.control import (
    Answer,
    Audit,
    FileHashed,
    Noted,
    NoteEdits,
    PublishedEvent,
    Refusal,
    Reply,
    TagRequest,
    Wait,
    Waited,
)
from loracore.errors import StateError
from lorad.index import tagging
from lorad.pipeline.launch import Crew
from lorad.pipeline.restarts import PipelineBrokenError
from lorad.supervisor.announcer import Announcer
from lorad.supervisor.configuration import Configuration, Loader
from lorad.supervisor.logs import get_logger
from lorad.supervisor.parts import Parts
from lorad.supervisor.session import roots_of
from lorad.supervisor.status import BUSY_TICK, TICK, Reporter
from lorad.supervisor.systemd import Notifier, Signals
from lorad.watch.news import Dirty, HealthChanged, Led, Rescan, Synced


class Daemon:
    """All parts of a running lorad. `run` ends when a signal says so."""

    _reporter: Reporter

    def __init__(self, config: Config, crew: Crew, notifier: Notifier, reload: Loader | None) -> None:
        """Without `reload`, SIGHUP ends it."""
        self._notifier = notifier
        self._log = get_logger()
        self._stop = threading.Event()
        #: What the loop is at, and the mistake that each part of it made last: it may come up in every turn.
        self._part = ""
        self._mistakes: dict[str, str] = {}
        self._announcer = announcer = Announcer()
        self._configuration = Configuration(config, reload, notifier, announcer)
        self._parts = parts = Parts(self._configuration, crew, announcer, status=lambda: self._reporter.status)
        self._session, self._intake = parts.session, parts.intake
        self._reporter = Reporter(config.state_dir, parts, notifier, announcer.errors)
        announcer.connect(parts.control.tell, refresh=self._reporter.tick, hurry=self._reporter.hurry)
        self._signals = Signals(
            stop=lambda: self._signalled(self._stop),
            # Where no configuration is read again, a hang-up ends it, as it ends any program of a terminal.
            reload=lambda: self._signalled(self._configuration.asked if reload else self._stop),
            late=lambda: self._log.error("ended without waiting", at=self._part, reason="a call does not return"),
        )
        #: The generation of the JSON files that clients were told of last.
        self._published = -1

    def run(self) -> int:
        """Work until a signal asks to stop; the exit status."""
        self._signals.start()
        try:
            self._parts.start()
            self._reporter.tick()
            # Requests are answered and nothing that happens is missed from here on; loading may take a while.
            self._notifier.ready()
            config = self._configuration.config
            self._log.info("ready", roots=list(config.watch.roots), state_dir=config.state_dir)
            while not self._stop.is_set():
                self._turn()
            self._log.info("stopping")
        finally:
            self._notifier.stopping()
            self._parts.stop()
        return 0

    def _turn(self) -> None:
        """Do what there is to do. A mistake in one part is logged, and neither ends nor delays the others."""
        self._guarded(self._work)
        for part in (
            self._reconfigure,
            self._reporter.tick_in_time,
            self._answer_waits,
            self._act,
            self._parts.jobs.tidy,
        ):
            self._guarded(part)

    def _guarded(self, part: Callable[[], None]) -> None:
        self._part = part.__name__.strip("_")
        try:
            part()
        except (PipelineBrokenError, StateError):
            # What another start may mend.
            raise
        except sqlite3.Error as error:
            self._session.fail(error)
        except Exception as error:
            # The other parts go on.
            if self._mistakes.get(self._part) != repr(error):
                self._mistakes[self._part] = repr(error)
                self._log.error("a mistake in lorad", part=self._part, exc_info=error)
            if part == self._work:
                # What the engine holds may be half of something.
                self._session.fail(error)
            else:
                self._announcer.trouble(f"a mistake in lorad ({type(error).__name__}); its log says more")
            self._stop.wait(BUSY_TICK)

    def _work(self) -> None:
        self._session.step(self._configuration.here, self._pause())
        # Whether newcomers are acted on.
        self._session.use(acts=self._configuration.config.dedupe.action != "report")
        self._published_news()
        self._take_news()
        self._take_intake()
        self._take_hashes()

    def _act(self) -> None:
        engine = self._session.engine
        quiet = engine is not None and not (engine.sweeps.active or engine.hurries or len(self._intake.settling))
        session = self._session
        self._parts.decisions.step(engine, session.generation, quiet=quiet, trouble=bool(session.trouble))

    def _pause(self) -> float:
        """Seconds that nothing is due."""
        now = time.monotonic()
        # Without an engine nothing that has settled can be taken in.
        due = self._intake.settling.next_due if self._session.engine else None
        tick = self._reporter.due
        return max(0.0, min(tick if due is None else min(due, tick), now + TICK) - now)

    def _published_news(self) -> None:
        """Tell of JSON files of a new generation."""
        engine = self._session.engine
        if engine is None or engine.commits.published in {self._published, -1}:
            return
        self._published = engine.commits.published
        self._intake.starting = False
        # Who waits for this generation is to find it in the status as well.
        self._reporter.hurry()
        self._announcer.tell(PublishedEvent(self._published))
        if engine.finished:
            self._session.tidy()
            progress = engine.progress()
            self._log.info("all told apart", files=progress.files_total, duplicates=progress.duplicates)

    def _take_news(self) -> None:
        """What the watch saw."""
        for item in self._parts.watcher.take():
            engine = self._session.engine
            match item:
                case Dirty(path, closed):
                    if self._intake.add(path, closed) and engine:
                        engine.arrivals.noticed(path)
                case Rescan(folder, reason, view):
                    self._log.info("rescan", folder=folder, reason=reason)
                    if engine:
                        engine.sweeps.add(folder, view=view)
                    self._parts.decisions.looks_through()
                case Led(link, leads):
                    self._configuration.follow_root(link, leads, self._parts.use)
                case Synced(token):
                    self._intake.waits.synced(token, self._intake.settling.names())
                case HealthChanged():
                    self._announcer.watch_changed(item)

    def _take_intake(self) -> None:
        """Names that have settled, files that audits found to be others, and what clients want."""
        if engine := self._session.engine:
            for path in self._intake.due():
                engine.looks.touched(path)
            if self._intake.missed():
                for root in roots_of(self._configuration.here):
                    engine.sweeps.add(root)
        for path in self._intake.changed():
            if engine:
                engine.looks.touched(path)
        while self._intake.commands:
            request, reply = self._intake.commands.popleft()
            match request:
                case Wait():
                    self._intake.waits.ask(reply)
                case Audit():
                    self._intake.waits.ask(partial(self._audit, reply))
                case NoteEdits(files):
                    if engine:
                        engine.edited(files)
                    reply(Noted())
                case _:
                    self._tag(request, reply)

    def _tag(self, request: TagRequest, reply: Reply) -> None:
        """Keep what users say of their files."""
        engine = self._session.engine
        if engine is None:
            reply(
                Refusal("loading", self._session.trouble or "the catalogue is being read; ask again in a moment")
            )
            return
        answer = tagging.answer(request, engine.tags, engine.files)
        try:
            # Where this fails, all is begun again from what is written down, tags included.
            engine.commits.save()
        finally:
            reply(answer)

    def _audit(self, reply: Reply, answer: Answer) -> None:
        """Compare, once all that was on disk before is known."""
        if isinstance(answer, Waited):
            self._parts.control.handlers.audit(self._configuration.here.watch, self._intake.look_again, reply)
        else:
            reply(answer)

    def _take_hashes(self) -> None:
        """Keep what was hashed meanwhile, and let files be hashed when there is nothing else to do."""
        engine, hashing = self._session.engine, self._parts.hashing
        busy = engine is None or engine.hurries or bool(self._parts.decisions.service.dispatch.left)
        tagged = engine.tags.asked if engine else 0
        hashed = hashing.look(self._session.generation, busy=busy, tagged=tagged)
        if engine is not None:
            hashing.let_go_unless(engine.has)
        file = engine.identified(*hashed) if hashed is not None and engine is not None else None
        if hashed is not None:
            hashing.taken()
        status = self._reporter.status
        if status is not None and status.hashing != hashing.state:
            self._reporter.hurry(BUSY_TICK)
        if hashed is not None and file is not None and file.names and hashed.found.sha256 is not None:
            self._announcer.tell(FileHashed(file.names[0], hashed.found.sha256.hex()))

    def _reconfigure(self) -> None:
        self._configuration.reconfigure(self._parts.use)

    def _answer_waits(self) -> None:
        if not len(self._intake.waits):
            return
        self._intake.waits.check(
            self._intake.settling,
            finished=self._session.finished,
            generation=self._session.published,
            trouble=self._session.trouble,
        )

    def _signalled(self, what: threading.Event) -> None:
        """Called by the thread that takes signals."""
        what.set()
        self._parts.pipeline.wake()
