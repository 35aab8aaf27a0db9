"""What works around the loop of a running lorad: how it is made, started, set anew and stopped."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from loracore.config import Watch
from loracore.control import Event, FileGone, FileSeen, Status
from lorad.control.server import ControlServer
from lorad.dedupe.decisions import Decisions
from lorad.dedupe.planner import policy_of
from lorad.hashes.service import HashingService
from lorad.index.records import File
from lorad.jobs.service import JobService
from lorad.pipeline.launch import Crew
from lorad.pipeline.pipeline import Pipeline
from lorad.supervisor.announcer import Announcer
from lorad.supervisor.configuration import Configuration
from lorad.supervisor.intake import Intake
from lorad.supervisor.session import Session, roots_of
from lorad.watch.watcher import Watcher


class Parts:
    """All of them, made before any works.

    `status` returns the newest status, in the thread of the metrics. For the loop's thread.
    """

    def __init__(
        self, configuration: Configuration, crew: Crew, announcer: Announcer, status: Callable[[], Status | None]
    ) -> None:
        self._configuration = configuration
        self._announcer = announcer
        config, here = configuration.config, configuration.here
        state_dir, tell_clients = config.state_dir, announcer.tell_clients
        self.pipeline = Pipeline(
            crew,
            told=announcer.child_died,
            uses=announcer.hasher_changed,
            memory_limit=config.pipeline.memory_limit_mb << 20,
        )
        wake = self.pipeline.wake
        folder = os.fsencode(state_dir)
        self.watcher = Watcher(
            roots_of(here), links=configuration.leads, state_dir=folder, settings=here.watch, wake=wake
        )
        self.intake = Intake(configuration, self.watcher.sync, wake)
        self.metrics = None
        if config.metrics.listen:
            from lorad.supervisor.metrics import MetricsServer  # noqa: PLC0415 - brings prometheus-client

            self.metrics = MetricsServer(config.metrics.listen, status)
        self.decisions = Decisions(state_dir, here, tell_clients, announcer.complain, wake)
        self.hashing = HashingService(state_dir, announcer.not_hashed, wake)
        self.jobs = JobService(
            state_dir, config.jobs, tell_clients, running=self.hashing.turns.give_way, edited=self.intake.edited
        )
        self.control = ControlServer(
            config.runtime_dir,
            state_dir,
            config.control,
            self.intake.post,
            answered=self.metrics.observe if self.metrics else None,
            deduper=self.decisions.service.requests,
            jobs=self.jobs,
        )
        self.control.handlers.use(here)
        self.session = Session(
            state_dir,
            self.pipeline,
            tell=self._tell,
            duplicate=self._duplicate,
            defer=self.intake.defer,
            complain=announcer.complain,
            opened=self.decisions.go_on,
            mistake=announcer.mistake,
        )

    def start(self) -> None:
        """Have them work: requests are answered and nothing that happens is missed from here on."""
        self.control.start()
        handlers = self.control.handlers
        self.decisions.start(handlers.plan_for, handlers.lock_by)
        self.jobs.start()
        self.hashing.use(self._configuration.config.hashes.on_arrival)
        self.hashing.start()
        self.watcher.start()
        if self.metrics:
            self.metrics.start()

    def use(self, before: Watch, *, again: bool) -> None:
        """Go by another configuration. `before` was watched; `again`: files that it names are read again."""
        config, here = self._configuration.config, self._configuration.here
        watch = here.watch
        if any(getattr(before, name) != getattr(watch, name) for name in ("roots", "follow_symlinks", "exclude")):
            self.session.close()
        self.pipeline.set_memory_limit(config.pipeline.memory_limit_mb << 20)
        self.watcher.set_settings(watch)
        self.watcher.set_roots(roots_of(here), self._configuration.leads)
        self.intake.settling.settings = watch
        self.control.handlers.use(here)
        if self.session.engine:
            self.session.engine.commits.keep_by(policy_of(here).rules)
        self.decisions.use(here)
        self.jobs.use(config.jobs)
        self.hashing.use(config.hashes.on_arrival)
        if again:
            self.control.reload()

    def stop(self) -> None:
        self.watcher.stop()
        if self.metrics:
            self.metrics.stop()
        self.session.close()
        self.decisions.stop()
        self.hashing.stop()
        self.jobs.stop()
        self.control.stop()
        self.pipeline.stop()

    def _tell(self, event: Event) -> None:
        """What the engine finds."""
        if isinstance(event, FileGone | FileSeen):
            self.decisions.gone(event.path)
        self._announcer.tell(event)

    def _duplicate(self, file: File, others: Sequence[bytes]) -> None:
        """A file has become a duplicate of these."""
        engine = self.session.engine
        if engine is not None and engine.holders.is_newcomer(file.names[0]):
            self.decisions.duplicate(file.names[0], self.session.generation)
