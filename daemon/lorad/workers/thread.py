"""A thread that does one job at a time, with a short queue before it."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

_LOG = logging.getLogger(__name__)

Job = Callable[[], object]


class Worker:
    """Runs jobs in turn. `idle` runs in the same thread after `idle_seconds` without a job, `last` at its end."""

    def __init__(
        self,
        name: str,
        waiting: int,
        *,
        idle: Job | None = None,
        last: Job | None = None,
        idle_seconds: float = 10.0,
    ) -> None:
        self._jobs: queue.Queue[Job | None] = queue.Queue(waiting)
        self._idle = idle or _nothing
        self._last = last or _nothing
        self._idle_seconds = idle_seconds
        # A daemon thread: a job that hangs on a dead network disk must not keep the process alive.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, job: Job) -> bool:
        """Queue a job; False when too many wait already. Never blocks."""
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            return False
        return True

    def stop(self, patience: float) -> None:
        """Drop what waits, and give the job that runs so many seconds to end."""
        while True:
            try:
                self._jobs.put_nowait(None)
                break
            except queue.Full:
                try:
                    self._jobs.get_nowait()
                except queue.Empty:
                    continue
        if self._thread.is_alive():
            self._thread.join(patience)

    def _run(self) -> None:
        rested = True
        while True:
            try:
                job = self._jobs.get(timeout=None if rested else self._idle_seconds)
            except queue.Empty:
                job, rested = self._idle, True
            else:
                rested = False
            try:
                (job or self._last)()
            except Exception:
                # One job is not to end the thread of all.
                _LOG.exception("a job of %s failed", self._thread.name)
            if job is None:
                return


def _nothing() -> None:
    pass
