"""Whether a child process is well, and when one that ended is started again. No processes, no clock of its own.

A child that is stopped, or stuck where not even its second thread runs, stops counting seconds. One that hangs
in its work counts on, but gets no step further. One that has taken too much memory gets no more work, and is
started anew when it has done what it had. A GPU with which the hasher died again and again is not tried again.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from loracore.errors import LoraError
from lorad.pipeline.arena import Pulse

#: Seconds between two looks.
INTERVAL = 1.0
#: Seconds without a beat, of which there is one a second.
SILENT = 3.5
#: Seconds that a start may take.
STARTING = 60.0
#: Seconds that one step of work may take: a slab, a header, a rendering.
STALLED = 120.0
#: So many times its limit of memory is too much to wait for the end of its work.
FAR_TOO_MUCH = 1.5
#: If we did not look for so long, it was us who stood still.
_OURS = 2.5
#: A child that dies by itself more often than this in a minute has no future.
DEATHS_A_MINUTE = 4
_LONGEST_DELAY = 32.0
#: Seconds after which it does not count any more that the hasher died while it used the GPU.
_FORGIVEN = 600.0


class PipelineBrokenError(LoraError):
    """A child process cannot be kept alive."""


class Vital(NamedTuple):
    """How a child is now. `memory` is what it holds alone, in bytes; `busy` whether it has work."""

    name: str
    pulse: Pulse
    ready: bool
    busy: bool
    memory: int


class _Record:
    def __init__(self, now: float, vital: Vital) -> None:
        self.ready = vital.ready
        self.pulse = vital.pulse
        self.beat_at = self.step_at = now


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

    def look(self, now: float, vitals: list[Vital]) -> list[tuple[str, str]]:
        """(name, why) of the children that have to be ended."""
        if self._looked is not None and now - self._looked > _OURS * INTERVAL:
            # We were stopped or starved ourselves, and so perhaps were they: the clocks start anew.
            self._records.clear()
        self._looked = now
        judged = ((vital.name, self._judge(now, vital)) for vital in vitals)
        return [(name, why) for name, why in judged if why]

    def silent_seconds(self, name: str, now: float) -> float:
        """Seconds since a child's last sign of life."""
        record = self._records.get(name)
        return now - record.beat_at if record else 0.0

    def _judge(self, now: float, vital: Vital) -> str:
        record = self._records.get(vital.name)
        if record is None or record.ready != vital.ready:
            self._records[vital.name] = _Record(now, vital)
            return ""
        if vital.pulse.beats != record.pulse.beats:
            record.beat_at = now
        if vital.pulse.steps != record.pulse.steps or not vital.busy:
            record.step_at = now
        record.pulse = vital.pulse
        if now - record.beat_at > (SILENT if vital.ready else STARTING):
            return f"ended: it gave no sign of life for {now - record.beat_at:.0f} s"
        if now - record.step_at > STALLED:
            return f"ended: its work did not get on for {now - record.step_at:.0f} s"
        return self._too_large(vital)

    def _too_large(self, vital: Vital) -> str:
        if not self.limit or vital.memory <= self.limit:
            self.paused.discard(vital.name)
            return ""
        self.paused.add(vital.name)
        if vital.busy and vital.memory <= FAR_TOO_MUCH * self.limit:
            return ""
        return f"ended: it held {vital.memory >> 20} MiB, more than its limit of {self.limit >> 20} MiB"


class Backoff:
    """When a child that died is started again: at once, then after 1, 2, 4 … 32 seconds."""

    def __init__(self) -> None:
        self._deaths: dict[str, deque[float]] = {}

    def died(self, name: str, now: float, *, by_itself: bool) -> float:
        """When to start it. Raises PipelineBrokenError when it keeps dying by itself."""
        if not by_itself:
            return now
        deaths = self._deaths.setdefault(name, deque())
        while deaths and now - deaths[0] >= 60:
            deaths.popleft()
        if len(deaths) >= DEATHS_A_MINUTE:
            raise PipelineBrokenError(f"the {name} process keeps dying; its messages above say why")
        deaths.append(now)
        recent = len(deaths)
        return now if recent == 1 else now + min(_LONGEST_DELAY, 2.0 ** (recent - 2))


class Distrust:
    """Whether the hasher is to do without the GPU. `asked` is the hasher of the configuration.

    `known` is what the running one said that it uses; "" while it has said nothing, and may be about to try.
    """

    def __init__(self, asked: str) -> None:
        self._asked = asked
        self._died: float | None = None
        self.known = ""

    def died(self, now: float, *, hung: bool) -> bool:
        """The hasher ended, `hung` when it was because nothing went on; whether its successor gets no GPU."""
        used, self.known = self._asked != "cpu" and self.known != "cpu", ""
        if not used:
            return False
        before, self._died = self._died, now
        if not hung and (before is None or now - before > _FORGIVEN):
            return False
        self._asked = "cpu"
        return True
