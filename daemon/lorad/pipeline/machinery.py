"""The running pipeline: arena, child processes and books in one, as the engine uses it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lorad.pipeline.children import Children
from lorad.pipeline.dispatch import Dispatcher, Finished, Job, Lost
from lorad.pipeline.launch import Crew
from lorad.pipeline.protocol import Digested, Done, Filled, Publish, Published, Ready, ToCore

Event = Finished | Lost | Published


class Machinery:
    """Loaders, hasher and publisher, kept alive. `told(name, reason)` hears of every restart."""

    def __init__(self, crew: Crew, *, told: Callable[[str, str], None]) -> None:
        self.loaders = crew.loaders
        self._told = told
        self._arena = crew.arena
        self._children = Children(crew)
        self._dispatcher = Dispatcher(
            lambda index, message: self._children.send(f"loader-{index}", message),
            lambda message: self._children.send("hasher", message),
            crew.slabs,
            crew.loaders,
        )
        self._publisher_ready = False
        self._publish_waits = False

    @property
    def idle(self) -> bool:
        return self._dispatcher.idle

    def pids(self) -> dict[str, int]:
        return self._children.pids()

    def room(self) -> int | None:
        return self._dispatcher.room()

    def start(self, loader: int, job: Job) -> None:
        self._dispatcher.start(loader, job)

    def publish(self) -> None:
        """Have the newest committed generation rendered; `Published` says when it is."""
        self._publish_waits = not self._publisher_ready
        if self._publisher_ready:
            self._children.send("publisher", Publish())

    def poll(self, timeout: float) -> Iterator[Event]:
        """What has happened, waiting up to `timeout` seconds for something to happen."""
        death = self._children.wait(timeout)
        for name, message in self._children.received():
            event = self._hear(name, message)
            if event is not None:
                yield event
        for name, status in self._children.dead() if death else ():
            yield from self._bury(name, status)

    def stop(self) -> None:
        self._children.stop()

    def _hear(self, name: str, message: ToCore) -> Event | None:
        match message:
            case Ready():
                self._ready(name)
            case Filled():
                self._dispatcher.filled(message)
            case Done():
                return self._dispatcher.done(message)
            case Digested():
                return self._dispatcher.digested(message)
            case Published():
                return message
        return None

    def _ready(self, name: str) -> None:
        if name == "hasher":
            self._dispatcher.hasher_ready()
        elif name == "publisher":
            self._publisher_ready = True
            if self._publish_waits:
                self.publish()
        else:
            self._dispatcher.loader_ready(int(name.removeprefix("loader-")))

    def _bury(self, name: str, status: int) -> Iterator[Event]:
        """A child ended: start it again, and tell what was lost with it."""
        reason = f"killed by signal {-status}" if status < 0 else f"ended with status {status}"
        self._told(name, reason)
        lost: list[Lost] = []
        if name == "hasher":
            lost = self._dispatcher.hasher_died()
        elif name == "publisher":
            self._publisher_ready = False
        else:
            index = int(name.removeprefix("loader-"))
            lost = self._dispatcher.loader_died(index, self._arena.marked(index))
            self._arena.mark(index, 0, 0)
        by_itself = not any(job.culprit is not None for job in lost)
        self._children.restart(name, by_itself=by_itself)
        yield from lost
        if name == "publisher":
            yield Published(-1, 0.0)
