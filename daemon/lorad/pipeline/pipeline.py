"""The running pipeline: arena, child processes, their health and the books in one, as the engine uses it."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator

from loracore.paths import shown
from lorad.pipeline.children import Children
from lorad.pipeline.dispatch import Dispatcher, Finished, Job, Lost
from lorad.pipeline.health import AWAY, INTERVAL, Distrust, Fault, Health, Restarts, Verdict, Vital
from lorad.pipeline.launch import Crew
from lorad.pipeline.protocol import (
    Digested,
    Done,
    Filled,
    Forget,
    Publish,
    Published,
    Ready,
    Stop,
    ToCore,
    Using,
)
from lorad.watch import calls

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
        #: What digests, and why that.
        self.using = Using("cpu")
        self._distrust = Distrust(asked=crew.hasher)
        #: Whether the hasher is about to be replaced by one without a GPU.
        self._retiring = False
        self._told = told
        self._uses = uses
        self._arena = crew.arena
        self._children = Children(crew)
        self._dispatcher = Dispatcher(
            lambda index, message: self._children.send(f"loader-{index}", message),
            lambda message: self._children.send("hasher", message),
            crew.slabs,
            crew.loaders,
        )
        self._health = Health(memory_limit)
        self._restarts = Restarts()
        self._next_look = time.monotonic() + INTERVAL
        self._verdicts: dict[str, Verdict] = {}
        #: When children that ended are started again.
        self._due: dict[str, float] = {}
        self._ready: set[str] = set()
        self._deaths = Counter[str]()
        #: Children that had work when they were last looked at.
        self._worked: frozenset[str] = frozenset()
        self._publishing = False
        self._publish_waits: Publish | None = None

    @property
    def idle(self) -> bool:
        return self._dispatcher.idle

    def works(self, lanes: int) -> bool:
        """Whether something in the first lanes is being read."""
        return self._dispatcher.works(lanes)

    def pids(self) -> dict[str, int]:
        return self._children.pids()

    def states(self) -> dict[str, tuple[str, int, float]]:
        """For each child its state (see `loracore.control.ChildState`), restarts, and seconds of silence."""
        now = time.monotonic()
        states = {}
        for name in self._children.names:
            if name in self._due:
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
        return self._dispatcher.reading(*self._arena.marked(_index(name)))

    def forget_layouts(self) -> None:
        """Have every loader send the layouts it meets anew."""
        for index in range(self.loaders):
            self._children.send(f"loader-{index}", Forget())

    def set_memory_limit(self, limit: int) -> None:
        """What one child may hold for itself from now on, in bytes; 0 for no limit."""
        self._health.limit = limit

    def room(self, lane: int = 0) -> int | None:
        return self._dispatcher.room(lane, without=self._health.paused)

    def start(self, loader: int, job: Job) -> None:
        self._dispatcher.start(loader, job)

    def cancel(self, file: int | None = None) -> None:
        """Nothing more is wanted of a file, or of any."""
        self._dispatcher.cancel(file)

    def publish(self, message: Publish) -> None:
        """Have the newest committed generation rendered; `Published` says when it is."""
        if "publisher" in self._ready:
            self._publishing = True
            self._children.send("publisher", message)
        else:
            self._publish_waits = message

    def wake(self) -> None:
        """End a `poll`, from any thread."""
        self._children.wake()

    def poll(self, timeout: float) -> Iterator[Event]:
        """What has happened, waiting up to `timeout` seconds for something to happen.

        Raises PipelineBrokenError when a child cannot be kept alive.
        """
        now = time.monotonic()
        death = self._children.wait(min(timeout, min(self._due.values(), default=self._next_look) - now))
        for name, message in self._children.received():
            event = self._hear(name, message)
            if event is not None:
                yield event
        for name, status in self._children.dead() if death else ():
            yield from self._bury(name, status)
        now = time.monotonic()
        if now >= self._next_look:
            self._look_after(now)
        for name in [name for name, due in self._due.items() if due <= now]:
            del self._due[name]
            try:
                self._children.restart(name)
            except OSError as error:
                # No memory, process or descriptor is to be had now.
                self._told(name, f"not started: {(error.strerror or str(error)).lower()}")
                self._due[name] = now + _RETRY

    def stop(self) -> None:
        self._children.stop()

    def _hear(self, name: str, message: ToCore) -> Event | None:
        match message:
            case Ready():
                self._is_ready(name)
            case Using():
                self._distrust.known = message.backend
                # One that has nothing to add does what it was told to, and why that was stays worth telling.
                if message.note:
                    self._use(message)
                if message.spent:
                    self._retire_hasher()
            case Filled():
                self._dispatcher.filled(message)
            case Done():
                return self._dispatcher.done(message)
            case Digested():
                event = self._dispatcher.digested(message)
                self._let_go()
                return event
            case Published():
                self._publishing = False
                return message
        return None

    def _is_ready(self, name: str) -> None:
        self._ready.add(name)
        if name == "hasher":
            if not self._retiring:
                self._dispatcher.hasher_ready()
        elif name == "publisher":
            waiting, self._publish_waits = self._publish_waits, None
            if waiting is not None:
                self.publish(waiting)
        else:
            self._dispatcher.loader_ready(_index(name))

    def _look_after(self, now: float) -> None:
        """End the children that are not well."""
        vitals = []
        for name, pid, pulse in self._children.alive():
            busy = self._busy(name)
            # Who has nothing to do takes no more memory than when it had; who has too much is looked at on.
            weigh = self._health.limit and (busy or name in self._worked)
            self._worked = self._worked | {name} if busy or name in self._health.paused else self._worked - {name}
            away = self._health.stalled_seconds(name, now) > AWAY - INTERVAL and calls.hangs(self.reading(name))
            memory = _private_memory(pid) if weigh else 0
            vitals.append(Vital(name, pulse, name in self._ready, busy, memory, away))
        for verdict in self._health.look(now, vitals):
            self._verdicts[verdict.name] = verdict
            self._children.kill(verdict.name)
        self._next_look = now + INTERVAL

    def _busy(self, name: str) -> bool:
        if name == "hasher":
            return self._dispatcher.digesting or self._retiring
        return self._publishing if name == "publisher" else self._dispatcher.busy(_index(name))

    def _bury(self, name: str, status: int) -> Iterator[Event]:
        """A child ended: have it started again, and tell what was lost with it."""
        verdict = self._verdicts.pop(name, None)
        retired = name == "hasher" and self._retiring and status == 0
        if not retired:
            killed = f"killed by signal {-status}" if status < 0 else f"ended with status {status}"
            at = self.reading(name)
            self._told(name, (verdict.why if verdict else killed) + (f", while it read {shown(at)}" if at else ""))
            self._deaths[name] += 1
        self._ready.discard(name)
        self._health.gone(name)
        lost: list[Lost] = []
        if name == "hasher":
            lost = self._dispatcher.hasher_died()
            self._retiring = False
            self._doubt_gpu(verdict.fault if verdict else None)
        elif name != "publisher":
            lost = self._dispatcher.loader_died(_index(name), self._arena.marked(_index(name)))
            self._arena.mark(_index(name), 0, 0)
        away = verdict is not None and verdict.fault is Fault.AWAY
        if away:
            # That is nobody's fault here.
            lost = [job._replace(culprit=None) for job in lost]
        by_itself = not (retired or away) and not any(job.culprit is not None for job in lost)
        self._due[name] = self._restarts.died(name, time.monotonic(), by_itself=by_itself)
        yield from lost
        if name == "publisher":
            # What it knew is lost, and perhaps what it was asked for.
            self._publishing, self._publish_waits = False, None
            yield Published(-1, 0.0)

    def _doubt_gpu(self, fault: Fault | None) -> None:
        """The hasher ended: have its successor do without the GPU, if that seems to be why."""
        if self.using.backend != "cpu":
            self.using = Using("cpu")
        if why := self._distrust.died(time.monotonic(), fault):
            self._children.instruct("hasher", ("cpu", 0))
            self._use(Using("cpu", why, worse=True))

    def _retire_hasher(self) -> None:
        """Have the hasher replaced by one without a GPU, when it has digested what it has.

        Tasks that it had begun are done again: it may hold the beginning of a piece.
        """
        self._children.instruct("hasher", ("cpu", 0))
        self._distrust.asked = "cpu"
        self._retiring = True
        self._dispatcher.hasher_leaves()
        self._let_go()

    def _let_go(self) -> None:
        if self._retiring and not self._dispatcher.digesting:
            self._children.send("hasher", Stop())

    def _use(self, using: Using) -> None:
        self.using = using
        self._uses(using)


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
