"""How the daemon is: counts, queues, rates, children, recent errors; reported to clients and to systemd."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Collection

import psutil

from loracore import __version__
from loracore.control import ChildState, Error, Root, Status
from lorad.index.engine import Engine
from lorad.supervisor.parts import Parts
from lorad.supervisor.systemd import Notifier, sentence

#: Seconds between two looks at what is due, and between two reports while there is work.
TICK, BUSY_TICK = 5.0, 0.25
#: Seconds without a hasher after which systemd is no longer told that all is well; more than a start may take.
_WITHOUT_HASHER = 60.0
#: The same without a sign of life of the watch.
_SILENT_WATCH = 60.0
#: Seconds that rates are taken over.
_WINDOW = 5.0
_WORST = ("watching", "polling", "degraded", "missing")


class Reporter:
    """Reports at most a few times a second while there is work, and now and then without.

    For the loop's thread, but for `hurry` and `status`, which any thread may use.
    """

    def __init__(self, state_dir: str, parts: Parts, notifier: Notifier, errors: Collection[Error]) -> None:
        """`errors` are the newest ones, whenever that is."""
        self._state_dir = os.fsencode(state_dir)
        self._parts = parts
        self._notifier = notifier
        self._errors = errors
        self._started = time.monotonic()
        self._samples: deque[tuple[float, int, int]] = deque()
        self._processes: dict[int, psutil.Process] = {}
        self._self = self._process(os.getpid())
        #: The newest one; None before there is one.
        self.status: Status | None = None
        #: When the next report is.
        self.due = 0.0
        self._next_ping = 0.0
        self._hasher_seen = time.monotonic()

    def hurry(self, seconds: float = 0.0) -> None:
        """Have the next report within so many seconds."""
        self.due = min(self.due, time.monotonic() + seconds)

    def tick_in_time(self) -> None:
        """Report if that is due."""
        if time.monotonic() >= self.due:
            self.tick()

    def tick(self) -> None:
        """Report now."""
        now = time.monotonic()
        self.status = status = self._look()
        self._parts.control.handlers.set_status(status)
        rest = min(TICK, self._notifier.watchdog_interval or TICK)
        self.due = now + (BUSY_TICK if status.state != "idle" else rest)
        if now >= self._next_ping:
            self._next_ping = now + min(rest, 1.0)
            self._notifier.status(sentence(status))
            if any(child.name == "hasher" and child.state in {"ready", "paused"} for child in status.children):
                self._hasher_seen = now
            if now - self._hasher_seen < _WITHOUT_HASHER and self._parts.watcher.silent_seconds() < _SILENT_WATCH:
                self._notifier.watchdog()

    def _look(self) -> Status:
        parts, pipeline, session = self._parts, self._parts.pipeline, self._parts.session
        engine = session.engine
        roots = [Root(root.path, root.health, root.reason, root.folders) for root in parts.watcher.health()]
        counts = {status.value: count for status, count in engine.files.tally.counts.items()} if engine else {}
        progress = engine.progress() if engine else None
        queues = {
            "settling": len(parts.intake.settling),
            **(engine.reads.queues if engine else {}),
            "acting": parts.decisions.service.dispatch.left,
        }
        files_rate, bytes_rate = (
            self._rates(progress.files_processed, progress.bytes_read) if progress else (0.0, 0.0)
        )
        return Status(
            version=__version__,
            pid=os.getpid(),
            state=_state(engine),
            uptime_seconds=round(time.monotonic() - self._started, 3),
            state_dir=self._state_dir,
            generation=session.generation,
            published=session.published,
            files={name: count for name, count in sorted(counts.items()) if count},
            files_total=progress.files_total if progress else 0,
            files_processed=progress.files_processed if progress else 0,
            bytes_total=progress.bytes_total if progress else 0,
            bytes_read=progress.bytes_read if progress else 0,
            duplicate_files=progress.duplicates if progress else 0,
            queues=queues,
            children=self._children(),
            hasher=pipeline.hasher.using.backend,
            hasher_note=pipeline.hasher.using.note,
            watch=max((root.health for root in roots), key=_WORST.index, default="watching"),
            roots=roots,
            files_per_second=round(files_rate, 1),
            bytes_per_second=round(bytes_rate, 1),
            rss_bytes=_memory(self._self),
            cpu_percent=_cpu(self._self),
            errors=list(self._errors),
            hashing=parts.hashing.state,
            hidden=parts.decisions.hidden(),
        )

    def _rates(self, files: int, size: int) -> tuple[float, float]:
        now = time.monotonic()
        self._samples.append((now, files, size))
        while now - self._samples[0][0] > _WINDOW:
            self._samples.popleft()
        before, files_before, size_before = self._samples[0]
        elapsed = now - before
        if not elapsed:
            return 0.0, 0.0
        return max(0, files - files_before) / elapsed, max(0, size - size_before) / elapsed

    def _children(self) -> list[ChildState]:
        pids = self._parts.pipeline.children.pids()
        found = {pid: self._process(pid) for pid in pids.values()}
        self._processes = {pid: process for pid, process in found.items() if process is not None}
        states = []
        for name, (state, restarts, silent) in self._parts.pipeline.states().items():
            pid = pids.get(name, 0)
            process = self._processes.get(pid)
            states.append(
                ChildState(
                    name=name,
                    pid=pid,
                    state=state,
                    restarts=restarts,
                    cpu_percent=_cpu(process),
                    rss_bytes=_memory(process),
                    silent_seconds=round(silent, 1),
                )
            )
        return states

    def _process(self, pid: int) -> psutil.Process | None:
        known = self._processes.get(pid)
        if known is not None:
            return known
        try:
            return psutil.Process(pid)
        except psutil.Error:
            return None


def _cpu(process: psutil.Process | None) -> float:
    """Percent of one core since the last look."""
    try:
        return float(process.cpu_percent()) if process else 0.0
    except psutil.Error:
        return 0.0


def _memory(process: psutil.Process | None) -> int:
    """Resident bytes."""
    try:
        return int(process.memory_info().rss) if process else 0
    except psutil.Error:
        return 0


def _state(engine: Engine | None) -> str:
    if engine is None:
        return "loading"
    if engine.sweeps.active:
        return "scanning"
    return "idle" if engine.settled else "reading"
