"""The daemon: one loop that feeds the engine with news of the folders and keeps everything around it going.

The loop waits at one place, for whatever comes first: a message of a child, its death, news of the watch, a
client's request, a signal, or the next thing that is due.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

import msgspec

from loracore.config import Config, describe_changes, reloaded
from loracore.control import (
    Answer,
    ChildRestarted,
    DuplicateFound,
    Event,
    FileFailedEvent,
    FileGone,
    FileHashed,
    FileSeen,
    HasherChanged,
    PublishedEvent,
    Reply,
    Root,
    Status,
    Waited,
    WatchChanged,
)
from loracore.errors import LoraError, StateError
from lorad.control.handlers import Command
from lorad.control.server import ControlServer
from lorad.dedupe.decisions import Decisions
from lorad.dedupe.planner import policy_of
from lorad.hashes.service import HashingService
from lorad.index.arrivals import settled
from lorad.index.engine import Engine
from lorad.index.records import File
from lorad.jobs.service import JobService
from lorad.pipeline.health import PipelineBrokenError
from lorad.pipeline.launch import Crew
from lorad.pipeline.pipeline import Pipeline
from lorad.pipeline.protocol import Identity, Using
from lorad.supervisor.logs import get_logger
from lorad.supervisor.session import Session, roots_of
from lorad.supervisor.status import Reporter
from lorad.supervisor.systemd import Notifier, Signals
from lorad.supervisor.waits import Waits
from lorad.watch import calls
from lorad.watch.news import Dirty, HealthChanged, Led, Rescan, Synced
from lorad.watch.place import resolved
from lorad.watch.settle import SettleQueue
from lorad.watch.watcher import Watcher

#: Seconds between two looks at what is due, and between two reports while there is work.
_TICK, _BUSY_TICK = 5.0, 0.25
#: Names that may still settle when those are looked for that could not be taken in.
_FEW = 1000
#: Seconds without a hasher after which systemd is no longer told that all is well; more than a start may take.
_WITHOUT_HASHER = 60.0
#: The same without a sign of life of the watch.
_SILENT_WATCH = 60.0


class Loader(Protocol):
    """Reads the configuration again. Raises ConfigError."""

    def __call__(self) -> Config: ...


class Daemon:
    """All parts of a running lorad. `run` ends when a signal says so."""

    def __init__(self, config: Config, crew: Crew, notifier: Notifier, reload: Loader | None) -> None:
        """Without `reload`, SIGHUP ends it."""
        self._config = config
        #: Where each root leads to, and the configuration with that for all that looks at files.
        self._leads = resolved(config.watch.roots, {})
        self._here = located(config, self._leads)
        self._state_dir = config.state_dir
        self._notifier = notifier
        self._load_config = reload
        self._log = get_logger()
        self._commands: deque[Command] = deque()
        #: Names whose files are not what was read, which no watch told of.
        self._changed: deque[bytes] = deque()
        self._stop = threading.Event()
        self._reload = threading.Event()
        self._signals = Signals(
            stop=lambda: self._signalled(self._stop),
            # Where no configuration is read again, a hang-up ends it, as it ends any program of a terminal.
            reload=lambda: self._signalled(self._reload if self._load_config else self._stop),
            late=lambda: self._log.error("ended without waiting", at=self._part, reason="a call does not return"),
        )
        #: What the loop is at, and the mistake that each part of it made last: it may come up in every turn.
        self._part = ""
        self._mistakes: dict[str, str] = {}
        self._pipeline = Pipeline(
            crew,
            told=self._child_died,
            uses=self._digested_with,
            memory_limit=config.pipeline.memory_limit_mb << 20,
        )
        self._reporter = Reporter(self._pipeline, self._state_dir)
        listen = config.metrics.listen
        self._metrics = None
        if listen:
            from lorad.supervisor.metrics import MetricsServer  # noqa: PLC0415 - brings prometheus-client

            self._metrics = MetricsServer(listen, lambda: self._status)
        self._decisions = Decisions(
            self._state_dir, self._here, self._tell_clients, self._complain, self._pipeline.wake
        )
        self._hashing = HashingService(self._state_dir, self._not_hashed, self._pipeline.wake)
        self._jobs = JobService(self._state_dir, config.jobs, self._tell_clients, running=self._hashing.give_way)
        self._control = ControlServer(
            config.runtime_dir,
            self._state_dir,
            config.control,
            self._post,
            answered=self._metrics.observe if self._metrics else None,
            deduper=self._decisions.service.requests,
            jobs=self._jobs,
        )
        self._control.use(self._here)
        self._watcher = self._make_watcher()
        self._settling = SettleQueue(config.watch, look=self._identity)
        #: Names were not taken in: all folders have to be looked through.
        self._overfull = False
        self._waits = Waits(self._watcher.sync)
        self._session = Session(
            self._state_dir,
            self._pipeline,
            tell=self._tell,
            duplicate=self._duplicate,
            defer=self._defer,
            complain=self._complain,
            opened=self._decisions.go_on,
            mistake=self._mistaken,
        )
        self._next_tick = 0.0
        self._next_ping = 0.0
        self._hasher_seen = time.monotonic()
        self._status: Status | None = None
        self._published = -1

    def run(self) -> int:
        """Work until a signal asks to stop; the exit status."""
        self._signals.start()
        try:
            self._control.start()
            self._decisions.start(self._control.plan_for, self._control.lock_by)
            self._jobs.start()
            self._hashing.use(self._config.hashes.on_arrival)
            self._hashing.start()
            self._watcher.start()
            if self._metrics:
                self._metrics.start()
            self._tick(time.monotonic())
            # Requests are answered and nothing that happens is missed from here on; loading may take a while.
            self._notifier.ready()
            self._log.info("ready", roots=list(self._config.watch.roots), state_dir=self._state_dir)
            while not self._stop.is_set():
                self._turn()
            self._log.info("stopping")
        finally:
            self._shut_down()
        return 0

    # One turn of the loop

    def _turn(self) -> None:
        """Do what there is to do. A mistake in one part is logged, and neither ends nor delays the others."""
        self._guarded(self._work)
        for part in (self._reconfigure, self._tick_in_time, self._answer_waits, self._act, self._jobs.tidy):
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
                self._reporter.trouble(f"a mistake in lorad ({type(error).__name__}); its log says more")
            self._stop.wait(_BUSY_TICK)

    def _work(self) -> None:
        self._session.step(self._here, self._pause())
        self._session.use(acts=self._acts)
        self._published_news()
        self._take_news()
        self._take_hashes()

    def _act(self) -> None:
        engine = self._session.engine
        quiet = engine is not None and not (engine.sweeps.active or engine.hurries or len(self._settling))
        self._decisions.step(engine, self._session.generation, quiet=quiet, trouble=bool(self._session.trouble))

    @property
    def _acts(self) -> bool:
        """Whether newcomers are acted on."""
        return self._config.dedupe.action != "report"

    def _pause(self) -> float:
        """Seconds that nothing is due."""
        now = time.monotonic()
        # Without an engine nothing that has settled can be taken in.
        due = self._settling.next_due if self._session.engine else None
        return max(0.0, min(self._next_tick if due is None else min(due, self._next_tick), now + _TICK) - now)

    def _published_news(self) -> None:
        """Tell of JSON files of a new generation."""
        engine = self._session.engine
        if engine is None or engine.commits.published in {self._published, -1}:
            return
        self._published = engine.commits.published
        # Who waits for this generation is to find it in the status as well.
        self._next_tick = 0.0
        self._tell(PublishedEvent(self._published))
        if engine.finished:
            self._session.tidy()
            progress = engine.progress()
            self._log.info("all told apart", files=progress.files_total, duplicates=progress.duplicates)

    def _take_news(self) -> None:
        """What the watch saw, what settled, what clients want."""
        engine = self._session.engine
        for item in self._watcher.take():
            match item:
                case Dirty(path, closed):
                    self._dirty(path, closed)
                case Rescan(folder, reason, view):
                    self._log.info("rescan", folder=folder, reason=reason)
                    if engine:
                        engine.sweeps.add(folder, view=view)
                    self._decisions.looks_through()
                case Led(link, leads):
                    self._follow_root(link, leads)
                    engine = self._session.engine
                case Synced(token):
                    self._waits.synced(token, self._settling.names())
                case HealthChanged(root, health, reason):
                    log = self._log.info if health == "watching" else self._log.warning
                    log("watch", root=root, health=health, reason=reason)
                    # Who hears of it is to find it in the status.
                    self._tick(time.monotonic())
                    self._tell(WatchChanged(root, health, reason))
        if engine:
            self._take_settled(engine)
        while self._changed:
            path = self._changed.popleft()
            if engine:
                engine.looks.touched(path)
        while self._commands:
            command = self._commands.popleft()
            self._waits.ask(command.reply if command.kind == "wait" else partial(self._audit, command.reply))

    def _dirty(self, path: bytes, closed: bool) -> None:
        """Something happened to a name: it is looked at when it has settled."""
        if not self._settling.add(path, closed):
            self._overfull = True
        elif self._session.engine:
            self._session.engine.arrivals.noticed(path)

    def _take_settled(self, engine: Engine) -> None:
        for path in self._settling.due(time.monotonic()):
            engine.looks.touched(path)
        if self._overfull and len(self._settling) < _FEW:
            self._overfull = False
            for root in roots_of(self._here):
                engine.sweeps.add(root)

    def _take_hashes(self) -> None:
        """Keep what was hashed meanwhile, and let files be hashed when there is nothing else to do."""
        engine = self._session.engine
        busy = engine is None or engine.hurries or bool(self._decisions.service.dispatch.left)
        hashed = self._hashing.look(self._session.generation, busy=busy)
        if engine is not None and (present := self._hashing.present) is not None and not engine.has(*present):
            self._hashing.let_go()
        file = engine.identified(*hashed) if hashed is not None and engine is not None else None
        if hashed is not None:
            self._hashing.taken()
        if self._status is not None and self._status.hashing != self._hashing.state:
            self._next_tick = min(self._next_tick, time.monotonic() + _BUSY_TICK)
        if hashed is not None and file is not None and file.names and hashed.found.sha256 is not None:
            self._tell(FileHashed(file.names[0], hashed.found.sha256.hex()))

    def _answer_waits(self) -> None:
        if not len(self._waits):
            return
        self._waits.check(
            self._settling,
            finished=self._session.finished,
            generation=self._session.published,
            trouble=self._session.trouble,
        )

    def _tick_in_time(self) -> None:
        if (now := time.monotonic()) >= self._next_tick:
            self._tick(now)

    def _tick(self, now: float) -> None:
        """Report, to clients and to systemd."""
        health = self._watcher.health()
        self._status = self._reporter.status(
            self._session.engine,
            roots=[Root(root.path, root.health, root.reason, root.folders) for root in health],
            settling=len(self._settling),
            acting=self._decisions.service.dispatch.left,
            hidden=self._decisions.hidden(),
            generation=self._session.generation,
            hashing=self._hashing.state,
        )
        self._control.set_status(self._status)
        busy = self._status.state != "idle"
        rest = min(_TICK, self._notifier.watchdog_interval or _TICK)
        self._next_tick = now + (_BUSY_TICK if busy else rest)
        if now >= self._next_ping:
            self._next_ping = now + min(rest, 1.0)
            self._notifier.status(_sentence(self._status))
            if any(
                child.name == "hasher" and child.state in {"ready", "paused"} for child in self._status.children
            ):
                self._hasher_seen = now
            if now - self._hasher_seen < _WITHOUT_HASHER and self._watcher.silent_seconds() < _SILENT_WATCH:
                self._notifier.watchdog()

    def _reconfigure(self) -> None:
        """After a SIGHUP, take over a new configuration, if it is sound."""
        if not self._reload.is_set() or self._load_config is None:
            return
        self._reload.clear()
        self._notifier.reloading()
        try:
            config = self._load_config()
        except LoraError as error:
            self._complain(f"the configuration stays as it was: {error}")
        else:
            before, self._config = self._config, reloaded(self._config, config)
            for change in describe_changes(before, config):
                self._log.info("setting changed", setting=str(change))
            self._leads = resolved(self._config.watch.roots, self._leads)
            self._go_by(self._config)
            self._control.reload()
            self._log.info("configuration read again")
        self._notifier.ready()

    def _follow_root(self, link: bytes, leads: bytes) -> None:
        """A root's path leads to another folder than it did."""
        if link in self._leads:
            self._log.info("a root leads elsewhere", root=link, leads=leads)
            self._leads[link] = leads
            self._go_by(self._config)

    def _go_by(self, config: Config) -> None:
        """Have all parts go by a configuration and by where its roots lead to, one as the other."""
        before, self._here = self._here.watch, located(config, self._leads)
        watch = self._here.watch
        if len(watch.roots) < len(set(self._leads.values())):
            self._complain(f"{self._state_dir}: the state folder cannot be watched; let no root lead there")
        if any(getattr(before, name) != getattr(watch, name) for name in ("roots", "follow_symlinks", "exclude")):
            self._session.close()
        self._pipeline.set_memory_limit(config.pipeline.memory_limit_mb << 20)
        self._watcher.set_settings(watch)
        self._watcher.set_roots(roots_of(self._here), self._leads)
        self._settling.settings = watch
        self._control.use(self._here)
        if self._session.engine:
            self._session.engine.commits.keep_by(policy_of(self._here).rules)
        self._decisions.use(self._here)
        self._jobs.use(config.jobs)
        self._hashing.use(config.hashes.on_arrival)

    def _shut_down(self) -> None:
        self._notifier.stopping()
        self._watcher.stop()
        if self._metrics:
            self._metrics.stop()
        self._session.close()
        self._decisions.stop()
        self._hashing.stop()
        self._jobs.stop()
        self._control.stop()
        self._pipeline.stop()

    # What others call

    def _signalled(self, what: threading.Event) -> None:
        what.set()
        self._pipeline.wake()

    def _post(self, command: Command) -> None:
        """A client wants something of the core. Called by the control thread."""
        self._commands.append(command)
        self._pipeline.wake()

    def _audit(self, reply: Reply, answer: Answer) -> None:
        """Compare, once all that was on disk before is known."""
        if isinstance(answer, Waited):
            self._control.audit(self._here.watch, self._look_again, reply)
        else:
            reply(answer)

    def _look_again(self, path: bytes) -> None:
        """A file is not what was read of it. Called by the thread that audits."""
        self._changed.append(path)
        self._pipeline.wake()

    def _defer(self, path: bytes, status: os.stat_result) -> bool:
        """Whether a file that a sweep met has to settle first."""
        if settled(status, self._config.watch.settle_seconds):
            return False
        if path not in self._settling:
            # Who started us just after a copy does not wait for long; in later sweeps the file is probably new.
            self._overfull |= not self._settling.add(path, closed=self._published < 0)
        self._waits.deferred(path)
        return True

    def _identity(self, path: bytes) -> Identity | None:
        """What a name leads to now."""
        try:
            return Identity.of(calls.stat(path, follow_symlinks=self._config.watch.follow_symlinks))
        except OSError:
            return None

    def _child_died(self, name: str, reason: str) -> None:
        self._log.warning("child ended", child=name, reason=reason)
        self._reporter.trouble(f"the {name} process was {reason}")
        self._tell(ChildRestarted(name, reason))

    def _digested_with(self, using: Using) -> None:
        if using.worse:
            self._log.warning("hasher", backend=using.backend, reason=using.note)
            self._reporter.trouble(using.note)
        else:
            self._log.info("hasher", backend=using.backend, note=using.note)
        # Who hears of it is to find it in the status.
        self._tick(time.monotonic())
        self._tell(HasherChanged(using.backend, using.note))

    def _tell(self, event: Event) -> None:
        if isinstance(event, FileFailedEvent):
            self._log.warning("file failed", path=event.path, reason=event.reason)
            self._reporter.trouble(event.reason, event.path)
        elif isinstance(event, DuplicateFound):
            self._log.info("duplicate", path=event.path, like=event.others[0] if event.others else b"")
        elif isinstance(event, FileGone | FileSeen):
            self._decisions.gone(event.path)
        self._tell_clients(event)

    def _duplicate(self, file: File, others: Sequence[bytes]) -> None:
        """A file has become a duplicate of these."""
        engine = self._session.engine
        if engine is not None and engine.holders.is_newcomer(file.names[0]):
            self._decisions.duplicate(file.names[0], self._session.generation)

    def _mistaken(self, path: bytes, traceback: str) -> None:
        """A file at which lorad failed by a mistake of its own, which sets it aside."""
        self._log.error("a mistake in lorad", path=path, traceback=traceback)

    def _tell_clients(self, event: Event) -> None:
        self._control.tell(event)

    def _not_hashed(self, reason: str, path: bytes) -> None:
        """Called by the thread that has files hashed."""
        self._log.warning("not hashed", path=path, reason=reason)
        self._reporter.trouble(reason, path)
        self._pipeline.wake()

    def _complain(self, text: str) -> None:
        self._log.error(text)
        self._reporter.trouble(text)
        self._next_tick = 0.0

    def _make_watcher(self) -> Watcher:
        return Watcher(
            roots_of(self._here),
            links=self._leads,
            state_dir=os.fsencode(self._state_dir),
            settings=self._here.watch,
            wake=self._pipeline.wake,
        )


def located(config: Config, leads: Mapping[bytes, bytes]) -> Config:
    """A configuration with its roots where they lead to, each once, without one that leads to the state folder."""
    paths = dict.fromkeys(os.fsdecode(leads[os.fsencode(root)]) for root in config.watch.roots)
    roots = tuple(path for path in paths if path != os.path.realpath(config.state_dir))
    return msgspec.structs.replace(config, watch=msgspec.structs.replace(config.watch, roots=roots))


def _sentence(status: Status) -> str:
    """One line for `systemctl status`."""
    text = f"{status.state}: {status.files_processed:,} of {status.files_total:,} files"
    if status.duplicate_files:
        text += f", {status.duplicate_files:,} of them duplicates"
    return text if status.watch == "watching" else f"{text}; watch {status.watch}"
