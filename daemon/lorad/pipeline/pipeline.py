"""The running pipeline: arena, child processes, their health and the books in one, as the engine uses it."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator

from loracore.paths import shown
from lorad.pipeline.backend import HasherBackend
from lorad.pipeline.children import Children
from lorad.pipeline.dispatch import Dispatcher, Finished, Lost
from lorad.pipeline.launch import Crew
from lorad.pipeline.protocol import (
    Digested,
    Done,
    Filled,
    Forget,
    Publish,
    Published,
    Ready,
    ToCore,
    Using,
)
from lorad.pipeline.restarts import AWAY, INTERVAL, Fault, Health, Restarts, Verdict, Vital
from lorad.watch import timed_calls

#: Seconds until a process that could not be started is tried again.
_RETRY = 5.0
_LOADER = "loader-"
_PAGE = os.sysconf("SC_PAGE_SIZE")

Event = Finished | Lost | Published


class Pipeline:
    """Loaders, hasher and publisher, kept alive.

    `told(name, reason)` hears of every death, `uses` of what the hasher digests with. `memory_limit` is what one
    child may hold for itself, in bytes; 0 for no limit.
    """

    def __init__(
        self,
        crew: Crew,
        *,
        told: Callable[[str, str], None],
        uses: Callable[[Using], None] = lambda using: None,
        memory_limit: int = 0,
    ) -> None:
        self.loaders = crew.loaders
        self._names = [child.name for child in crew.children]
        self._told = told
        self._arena = crew.arena
        self.children = Children(crew)
        self.dispatcher = Dispatcher(
            lambda index, message: self.children.send(f"loader-{index}", message),
            lambda message: self.children.send("hasher", message),
            crew.slabs,
            crew.loaders,
        )
        self.hasher = HasherBackend(crew.hasher, self.children, self.dispatcher, uses)
        self._health = Health(memory_limit)
        self._restarts = Restarts()
        self._next_look = time.monotonic() + INTERVAL
        self._verdicts: dict[str, Verdict] = {}
        self._ready: set[str] = set()
        self._deaths = Counter[str]()
        #: Children that had work when they were last looked at.
        self._worked: frozenset[str] = frozenset()
        self._publishing = False
        self._publish_waits: Publish | None = None

    def states(self) -> dict[str, tuple[str, int, float]]:
        """For each child its state (see `loracore.control.ChildState`), restarts, and seconds of silence."""
        now = time.monotonic()
        states = {}
        for name in self._names:
            if name in self._restarts.due:
                state = "waiting"
            elif name in self._health.paused:
                state = "paused"
            else:
                state = "ready" if name in self._ready else "starting"
            states[name] = (state, self._deaths[name], self._health.silent_seconds(name, now))
        return states

    def reading(self, name: str) -> bytes:
        """The file that a loader is at; empty for none, and for other children."""
        if not name.startswith(_LOADER):
            return b""
        return self.dispatcher.reading(*self._arena.marked(_index(name)))

    def forget_layouts(self) -> None:
        """Have every loader send the layouts it meets anew."""
        for index in range(self.loaders):
            self.children.send(f"loader-{index}", Forget())

    def set_memory_limit(self, limit: int) -> None:
        """What one child may hold for itself from now on, in bytes; 0 for no limit."""
        self._health.limit = limit

    def room(self, lane: int = 0) -> int | None:
        return self.dispatcher.room(lane, without=self._health.paused)

    def publish(self, message: Publish) -> None:
        """Have the newest committed generation rendered; `Published` says when it is."""
        if "publisher" in self._ready:
            self._publishing = True
            self.children.send("publisher", message)
        else:
            self._publish_waits = message

    def wake(self) -> None:
        """End a `poll`, from any thread."""
        self.children.wake()

    def poll(self, timeout: float) -> Iterator[Event]:
        """What has happened, waiting up to `timeout` seconds for something to happen.

        Raises PipelineBrokenError when a child cannot be kept alive.
        """
        now = time.monotonic()
        death = self.children.wait(min(timeout, min(self._restarts.due.values(), default=self._next_look) - now))
        for name, message in self.children.received():
            event = self._hear(name, message)
            if event is not None:
                yield event
        for name, status in self.children.dead() if death else ():
            yield from self._bury(name, status)
        now = time.monotonic()
        if now >= self._next_look:
            self._look_after(now)
        for name in [name for name, due in self._restarts.due.items() if due <= now]:
            del self._restarts.due[name]
            try:
                self.children.restart(name)
            except OSError as error:
                # No memory, process or descriptor is to be had now.
                self._told(name, f"not started: {(error.strerror or str(error)).lower()}")
                self._restarts.due[name] = now + _RETRY

    def stop(self) -> None:
        self.children.stop()

    def _hear(self, name: str, message: ToCore) -> Event | None:
        match message:
            case Ready():
                self._is_ready(name)
            case Using():
                self.hasher.says(message)
            case Filled():
                self.dispatcher.filled(message)
            case Done():
                return self.dispatcher.done(message)
            case Digested():
                event = self.dispatcher.digested(message)
                self.hasher.let_go()
                return event
            case Published():
                self._publishing = False
                return message
        return None

    def _is_ready(self, name: str) -> None:
        self._ready.add(name)
        if name == "hasher":
            if not self.hasher.retiring:
                self.dispatcher.hasher_ready()
        elif name == "publisher":
            waiting, self._publish_waits = self._publish_waits, None
            if waiting is not None:
                self.publish(waiting)
        else:
            self.dispatcher.loader_ready(_index(name))

    def _look_after(self, now: float) -> None:
        """End the children that are not well."""
        vitals = []
        for name, pid, pulse in self.children.alive():
            busy = self._busy(name)
            # Who has nothing to do takes no more memory than when it had; who has too much is looked at on.
            weigh = self._health.limit and (busy or name in self._worked)
            self._worked = self._worked | {name} if busy or name in self._health.paused else self._worked - {name}
            away = self._health.stalled_seconds(name, now) > AWAY - INTERVAL and timed_calls.hangs(
                self.reading(name)
            )
            memory = _private_memory(pid) if weigh else 0
            vitals.append(Vital(name, pulse, name in self._ready, busy, memory, away))
        for verdict in self._health.look(now, vitals):
            self._verdicts[verdict.name] = verdict
            self.children.kill(verdict.name)
        self._next_look = now + INTERVAL

    def _busy(self, name: str) -> bool:
        if name == "hasher":
            return self.dispatcher.digesting or self.hasher.retiring
        return self._publishing if name == "publisher" else self.dispatcher.busy(_index(name))

    def _bury(self, name: str, status: int) -> Iterator[Event]:
        """A child ended: have it started again, and tell what was lost with it."""
        verdict = self._verdicts.pop(name, None)
        retired = name == "hasher" and self.hasher.retiring and status == 0
        if not retired:
            killed = f"killed by signal {-status}" if status < 0 else f"ended with status {status}"
            at = self.reading(name)
            self._told(name, (verdict.why if verdict else killed) + (f", while it read {shown(at)}" if at else ""))
            self._deaths[name] += 1
        self._ready.discard(name)
        self._health.gone(name)
        lost: list[Lost] = []
        if name == "hasher":
            lost = self.dispatcher.hasher_died()
            self.hasher.died(verdict.fault if verdict else None)
        elif name != "publisher":
            lost = self.dispatcher.loader_died(_index(name), self._arena.marked(_index(name)))
            self._arena.mark(_index(name), 0, 0)
        away = verdict is not None and verdict.fault is Fault.AWAY
        if away:
            # That is nobody's fault here.
            lost = [job._replace(culprit=None) for job in lost]
        by_itself = not (retired or away) and not any(job.culprit is not None for job in lost)
        self._restarts.died(name, time.monotonic(), by_itself=by_itself)
        yield from lost
        if name == "publisher":
            # What it knew is lost, and perhaps what it was asked for.
            self._publishing, self._publish_waits = False, None
            yield Published(-1, 0.0)


def _index(name: str) -> int:
    return int(name.removeprefix(_LOADER))


def _private_memory(pid: int) -> int:
    """Resident bytes that a process shares with nobody; 0 once it is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            _, resident, shared, *_ = map(int, file.read().split())
    except (OSError, ValueError):
        return 0
    return (resident - shared) * _PAGE
