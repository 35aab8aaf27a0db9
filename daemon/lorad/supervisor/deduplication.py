"""De-duplication in a running daemon: the desk where actions are taken, newcomers, and what is said of both."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from loracore.config import Config
from loracore.control import ActionRefused, ActionTaken, ActionUndone, Event
from lorad.dedupe.automatic import Automatic, Newcomer, PlanFor
from lorad.dedupe.day import Day
from lorad.dedupe.desk import Desk
from lorad.engine import Engine
from lorad.files import signed
from lorad.pipeline.protocol import Identity
from lorad.supervisor.logs import get_logger

#: Seconds that the present action has to end when the daemon does.
_PATIENCE = 1.0


class Deduplication:
    """The core calls its methods; `tell` hears of actions and `complain` of trouble, in any thread.

    `wake` has the core look again, from any thread.
    """

    def __init__(
        self,
        state_dir: str,
        config: Config,
        tell: Callable[[Event], None],
        complain: Callable[[str], None],
        wake: Callable[[], None],
    ) -> None:
        self._tell = tell
        self._complain = complain
        self._wake = wake
        self._log = get_logger()
        self._lock = threading.Lock()
        self._day = Day(time.time())
        self._relinked: deque[tuple[Identity, Identity]] = deque()
        self._rearranged: deque[bytes] = deque()
        self.desk = Desk(state_dir, self._told, lambda before, now: self._relinked.append((before, now)))
        self._automatic: Automatic | None = None
        #: Duplicates that were found, and after which generation the catalogue has them.
        self._found: dict[bytes, int] = {}
        self._engine: Engine | None = None
        #: Whether all roots were looked through since the catalogue was opened: what it says may be long past.
        self._swept = False
        self._config = config

    def start(self, plan_for: PlanFor) -> None:
        """Begin, with what makes plans for newcomers."""
        self._automatic = Automatic(self.desk, plan_for, self._complain, self._wake)
        self.use(self._config)
        self.desk.start()

    def use(self, config: Config) -> None:
        """Go by this configuration from now on."""
        self._config = config
        self.desk.use(config)
        if self._automatic:
            self._automatic.use(config.dedupe.action)
            if not self._automatic.acts:
                self._found.clear()

    def go_on(self, engine: Engine) -> None:
        """An engine begins: what the one before it found is found again."""
        self._engine, self._swept = engine, False
        self._found.clear()

    def duplicate(self, path: bytes, generation: int) -> None:
        """A new file became a duplicate while the catalogue was at this generation."""
        if self._automatic is not None and self._automatic.acts and len(self._found) < self._automatic.room:
            self._found[path] = generation

    def relinked(self) -> Iterator[tuple[Identity, Identity]]:
        """What kept files were and are, since they got another name."""
        while self._relinked:
            yield self._relinked.popleft()

    def rearranged(self) -> Iterator[bytes]:
        """Names of files whose blocks may be shared with others since, or no more."""
        while self._rearranged:
            yield self._rearranged.popleft()

    def look(self, generation: int) -> None:
        """Have those acted on that the catalogue has by now, and tell of the day when it is over."""
        assert self._automatic is not None
        if self._engine is not None and not self._engine.sweeping:
            self._swept = True
        # One that came again while its name is acted on is not settled with that.
        if self._engine is not None and self._swept and not self._automatic.busy:
            for path in [path for path, found in self._found.items() if found < generation]:
                del self._found[path]
                self._automatic.newcomer(path)
            self._automatic.look(self._newcomer)
        with self._lock:
            summary = self._day.ended(time.time())
        if summary is not None:
            self._log.info(
                "the day", done=summary.done, bytes=summary.bytes, refused=summary.refused, undone=summary.undone
            )
            self._tell(summary)

    def _newcomer(self, path: bytes) -> Newcomer | None:
        """What a name leads to, if that is a newcomer."""
        if self._engine is None or not self._engine.is_newcomer(path):
            return None
        identity = self._engine.files.by_path[path].identity
        return Newcomer(path, signed(identity.ino), identity.size, identity.mtime_ns)

    def stop(self) -> None:
        self.desk.stop(_PATIENCE)

    def _told(self, event: Event) -> None:
        match event:
            case ActionTaken(number, action, kept, path):
                self._log.info("acted", id=number, action=action, kept=kept, path=path, bytes=event.bytes)
                if action == "reflink":
                    self._rearranged += (kept, path)
            case ActionRefused(action, kept, path, reason):
                self._log.warning("not acted", action=action, kept=kept, path=path, reason=reason)
            case ActionUndone(number, path):
                self._log.info("undone", id=number, path=path)
        if isinstance(event, ActionTaken | ActionRefused | ActionUndone):
            with self._lock:
                self._day.add(event)
        self._tell(event)
        if self._rearranged:
            self._wake()
