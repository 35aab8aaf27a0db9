"""Whether a child process is well, and when one that ended is started again. No processes, no clock of its own.

A child that is stopped, or stuck where not even its second thread runs, stops counting seconds. One that hangs
in its work counts on, but gets no step further; one that hangs in its start is never ready. One that has taken too
much memory gets no more work, and is started anew when it has done what it had.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import NamedTuple

from loracore.errors import LoraError
from lorad.pipeline.arena import Pulse
from lorad.workers.backoff import Backoff

#: Seconds between two looks.
INTERVAL = 1.0
#: Seconds without a beat, of which there is one a second.
SILENT = 3.5
#: Seconds that a whole start may take. Below those after which systemd is not told any more that all is well
#: (`supervisor.status`): a hasher that hangs while it opens a GPU is to have a successor by then.
STARTING = 45.0
#: Seconds that one step of work may take: a slab, a header, a rendering.
STALLED = 120.0
#: The same where its file lies on a file system that does not answer.
AWAY = 3.0
#: So many times its limit of memory is too much to wait for the end of its work.
FAR_TOO_MUCH = 1.5
#: If we did not look for so long, it was us who stood still.
_OURS = 2.5
#: A child that dies by itself more often than this in a minute has no future.
DEATHS_A_MINUTE = 4
_BACKOFF = Backoff.doubling(1.0, 32.0, at_once=1)


class PipelineBrokenError(LoraError):
    """A child process cannot be kept alive."""


class Fault(Enum):
    """Why a child is ended."""

    #: Its second thread gives no sign of life: the process is stopped, or starved.
    SILENT = "silent"
    #: It hangs in its work.
    STALLED = "stalled"
    #: It hangs in its start.
    STARTING = "starting"
    #: It waits for a file system that does not answer.
    AWAY = "away"
    #: It holds too much.
    MEMORY = "memory"


class Verdict(NamedTuple):
    """A child that has to be ended, and in words why."""

    name: str
    fault: Fault
    why: str


class Vital(NamedTuple):
    """How a child is now. `memory` is what it holds alone, in bytes; `busy` whether it has work.

    `away`: its file lies on a file system that does not answer.
    """

    name: str
    pulse: Pulse
    ready: bool
    busy: bool
    memory: int
    away: bool = False


class _Record:
    def __init__(self, now: float, vital: Vital) -> None:
        self.ready = vital.ready
        self.pulse = vital.pulse
        self.began = self.beat_at = self.step_at = now


class Health:
    """Judges children by what they count. `memory_limit` is in bytes, 0 for none."""

    def __init__(self, memory_limit: int = 0) -> None:
        self.limit = memory_limit
        self._records: dict[str, _Record] = {}
        self._looked: float | None = None
        #: Children that get no more work: they hold too much memory.
        self.paused: set[str] = set()

    def gone(self, name: str) -> None:
        """A child ended; its successor starts with a clean record."""
        self._records.pop(name, None)
        self.paused.discard(name)

    def look(self, now: float, vitals: list[Vital]) -> list[Verdict]:
        """Which children have to be ended."""
        if self._looked is not None and now - self._looked > _OURS * INTERVAL:
            # We were stopped or starved ourselves, and so perhaps were they: the clocks start anew.
            self._records.clear()
        self._looked = now
        judged = (self._judge(now, vital) for vital in vitals)
        return [verdict for verdict in judged if verdict is not None]

    def silent_seconds(self, name: str, now: float) -> float:
        """Seconds since a child's last sign of life."""
        record = self._records.get(name)
        return now - record.beat_at if record else 0.0

    def stalled_seconds(self, name: str, now: float) -> float:
        """Seconds since a child's work got on."""
        record = self._records.get(name)
        return now - record.step_at if record else 0.0

    def _judge(self, now: float, vital: Vital) -> Verdict | None:
        record = self._records.get(vital.name)
        if record is None or record.ready != vital.ready:
            self._records[vital.name] = _Record(now, vital)
            return None
        if vital.pulse.beats != record.pulse.beats:
            record.beat_at = now
        if vital.pulse.steps != record.pulse.steps or not vital.busy:
            record.step_at = now
        record.pulse = vital.pulse
        if not vital.ready:
            if (took := now - record.began) > STARTING:
                return Verdict(vital.name, Fault.STARTING, f"ended: it was not ready after {took:.0f} s")
            return None
        if (silent := now - record.beat_at) > SILENT:
            return Verdict(vital.name, Fault.SILENT, f"ended: it gave no sign of life for {silent:.0f} s")
        if vital.away and now - record.step_at > AWAY:
            return Verdict(vital.name, Fault.AWAY, "ended: the file system of its file does not answer")
        if (stalled := now - record.step_at) > STALLED:
            return Verdict(vital.name, Fault.STALLED, f"ended: its work did not get on for {stalled:.0f} s")
        return self._too_large(vital)

    def _too_large(self, vital: Vital) -> Verdict | None:
        if not self.limit or vital.memory <= self.limit:
            self.paused.discard(vital.name)
            return None
        self.paused.add(vital.name)
        if vital.busy and vital.memory <= FAR_TOO_MUCH * self.limit:
            return None
        held = f"{vital.memory >> 20} MiB, more than its limit of {self.limit >> 20} MiB"
        return Verdict(vital.name, Fault.MEMORY, f"ended: it held {held}")


class Restarts:
    """When a child that died is started again: at once, then after 1, 2, 4 … 32 seconds."""

    def __init__(self) -> None:
        self._deaths: dict[str, deque[float]] = {}
        #: When children that ended are started again.
        self.due: dict[str, float] = {}

    def died(self, name: str, now: float, *, by_itself: bool) -> float:
        """When to start it. Raises PipelineBrokenError when it keeps dying by itself."""
        self.due[name] = now + self._delay(name, now) if by_itself else now
        return self.due[name]

    def _delay(self, name: str, now: float) -> float:
        deaths = self._deaths.setdefault(name, deque())
        while deaths and now - deaths[0] >= 60:
            deaths.popleft()
        if len(deaths) >= DEATHS_A_MINUTE:
            raise PipelineBrokenError(f"the {name} process keeps dying; its messages above say why")
        deaths.append(now)
        return _BACKOFF.after(len(deaths))
