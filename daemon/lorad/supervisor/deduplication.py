"""De-duplication in a running daemon: the desk where actions are taken, newcomers, and what is said of both."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from loracore.config import Config
from loracore.control import ActionRefused, ActionTaken, ActionUndone, Event
from lorad.dedupe.automatic import Automatic, PlanFor
from lorad.dedupe.day import Day
from lorad.dedupe.desk import Desk
from lorad.pipeline.protocol import Identity
from lorad.supervisor.logs import get_logger

#: Seconds that the present action has to end when the daemon does.
_PATIENCE = 1.0


class Deduplication:
    """The core calls its methods; `tell` hears of actions and `complain` of trouble, in any thread."""

    def __init__(
        self, state_dir: str, config: Config, tell: Callable[[Event], None], complain: Callable[[str], None]
    ) -> None:
        self._tell = tell
        self._complain = complain
        self._log = get_logger()
        self._lock = threading.Lock()
        self._day = Day(time.time())
        self._relinked: deque[tuple[Identity, Identity]] = deque()
        self.desk = Desk(state_dir, self._told, lambda before, now: self._relinked.append((before, now)))
        self._automatic: Automatic | None = None
        #: Duplicates that were found, and after which generation the catalogue has them.
        self._found: dict[bytes, int] = {}
        self._config = config

    def start(self, plan_for: PlanFor) -> None:
        """Begin, with what makes plans for newcomers."""
        self._automatic = Automatic(self.desk, plan_for, self._complain)
        self.use(self._config)
        self.desk.start()

    def use(self, config: Config) -> None:
        """Go by this configuration from now on."""
        self._config = config
        self.desk.use(config)
        if self._automatic:
            self._automatic.use(config.dedupe.action)

    def duplicate(self, path: bytes, generation: int, before: Sequence[bytes]) -> None:
        """A file became a duplicate while the catalogue was at this generation.

        `before`: names under which it was one already. Then it is a newcomer only if it was one and still is.
        """
        if self._config.dedupe.action == "report" or self._automatic is None:
            return
        if not before or not self._found.keys().isdisjoint(before) or self._automatic.waits_for(before):
            self._found[path] = generation

    def relinked(self) -> Iterator[tuple[Identity, Identity]]:
        """What kept files were and are, since they got another name."""
        while self._relinked:
            yield self._relinked.popleft()

    def look(self, generation: int) -> None:
        """Have those acted on that the catalogue has by now, and tell of the day when it is over."""
        assert self._automatic is not None
        for path in [path for path, found in self._found.items() if found < generation]:
            del self._found[path]
            self._automatic.newcomer(path)
        self._automatic.look()
        with self._lock:
            summary = self._day.ended(time.time())
        if summary is not None:
            self._log.info(
                "the day", done=summary.done, bytes=summary.bytes, refused=summary.refused, undone=summary.undone
            )
            self._tell(summary)

    def stop(self) -> None:
        self.desk.stop(_PATIENCE)

    def _told(self, event: Event) -> None:
        match event:
            case ActionTaken(number, action, kept, path):
                self._log.info("acted", id=number, action=action, kept=kept, path=path, bytes=event.bytes)
            case ActionRefused(action, kept, path, reason):
                self._log.warning("not acted", action=action, kept=kept, path=path, reason=reason)
            case ActionUndone(number, path):
                self._log.info("undone", id=number, path=path)
        if isinstance(event, ActionTaken | ActionRefused | ActionUndone):
            with self._lock:
                self._day.add(event)
        self._tell(event)
