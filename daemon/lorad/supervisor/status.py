"""The daemon's state as clients see it: counts, queues, rates, children, recent errors."""

from __future__ import annotations

import os
import time
from collections import deque

import psutil

from loracore import __version__
from loracore.control import ChildState, Error, Hashing, Hidden, Root, Status
from loracore.time import now_text
from lorad.index.engine import Engine
from lorad.pipeline.pipeline import Pipeline

#: Seconds that rates are taken over.
_WINDOW = 5.0
_ERRORS = 20
_WORST = ("watching", "polling", "degraded", "missing")


class Reporter:
    """Puts a `Status` together, at most a few times a second."""

    def __init__(self, pipeline: Pipeline, state_dir: str) -> None:
        self._pipeline = pipeline
        self._state_dir = os.fsencode(state_dir)
        self._started = time.monotonic()
        self._samples: deque[tuple[float, int, int]] = deque()
        self._processes: dict[int, psutil.Process] = {}
        self._self = self._process(os.getpid())
        self.errors: deque[Error] = deque(maxlen=_ERRORS)

    def trouble(self, text: str, path: bytes = b"") -> None:
        """Keep an error for `status`."""
        self.errors.append(Error(now_text(), text, path))

    def status(
        self,
        engine: Engine | None,
        *,
        roots: list[Root],
        settling: int,
        acting: int,
        hidden: Hidden,
        generation: int,
        hashing: Hashing,
    ) -> Status:
        pipeline = self._pipeline
        counts = {status.value: count for status, count in engine.files.tally.counts.items()} if engine else {}
        progress = engine.progress() if engine else None
        queues = {"settling": settling, **(engine.reads.queues if engine else {}), "acting": acting}
        files_rate, bytes_rate = (
            self._rates(progress.files_processed, progress.bytes_read) if progress else (0.0, 0.0)
        )
        return Status(
            version=__version__,
            pid=os.getpid(),
            state=_state(engine),
            uptime_seconds=round(time.monotonic() - self._started, 3),
            state_dir=self._state_dir,
            generation=generation,
            published=engine.commits.published if engine else -1,
            files={name: count for name, count in sorted(counts.items()) if count},
            files_total=progress.files_total if progress else 0,
            files_processed=progress.files_processed if progress else 0,
            bytes_total=progress.bytes_total if progress else 0,
            bytes_read=progress.bytes_read if progress else 0,
            duplicate_files=progress.duplicates if progress else 0,
            queues=queues,
            children=self._children(),
            hasher=pipeline.using.backend,
            hasher_note=pipeline.using.note,
            watch=max((root.health for root in roots), key=_WORST.index, default="watching"),
            roots=roots,
            files_per_second=round(files_rate, 1),
            bytes_per_second=round(bytes_rate, 1),
            rss_bytes=_memory(self._self),
            cpu_percent=_cpu(self._self),
            errors=list(self.errors),
            hashing=hashing,
            hidden=hidden,
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
        pids = self._pipeline.pids()
        found = {pid: self._process(pid) for pid in pids.values()}
        self._processes = {pid: process for pid, process in found.items() if process is not None}
        states = []
        for name, (state, restarts, silent) in self._pipeline.states().items():
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
