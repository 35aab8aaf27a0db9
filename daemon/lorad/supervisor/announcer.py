"""What the daemon says of what happens: to clients as events, to people in the log and as errors of the status."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from loracore.control import (
    ChildRestarted,
    DuplicateFound,
    Error,
    Event,
    FileFailedEvent,
    HasherChanged,
    WatchChanged,
)
from loracore.time import now_text
from lorad.pipeline.protocol import Using
from lorad.supervisor.logs import get_logger
from lorad.watch.news import HealthChanged

#: Errors that the status has at most.
_ERRORS = 20


class Announcer:
    """For the loop's thread, but for `tell_clients`, `trouble`, `complain` and `not_hashed`, which are for any."""

    _clients: Callable[[Event], None]
    _refresh: Callable[[], None]
    _hurry: Callable[[], None]

    def __init__(self) -> None:
        self._log = get_logger()
        #: The newest ones, for the status.
        self.errors: deque[Error] = deque(maxlen=_ERRORS)

    def connect(
        self, clients: Callable[[Event], None], *, refresh: Callable[[], None], hurry: Callable[[], None]
    ) -> None:
        """To be called before anything is said, when the parts that say it are made.

        `clients` sends an event, from any thread. `refresh` makes the status anew, `hurry` has that done soon.
        """
        self._clients, self._refresh, self._hurry = clients, refresh, hurry

    def tell(self, event: Event) -> None:
        """Something that clients hear of, and people where it concerns them."""
        if isinstance(event, FileFailedEvent):
            self._log.warning("file failed", path=event.path, reason=event.reason)
            self.trouble(event.reason, event.path)
        elif isinstance(event, DuplicateFound):
            self._log.info("duplicate", path=event.path, like=event.others[0] if event.others else b"")
        self.tell_clients(event)

    def tell_clients(self, event: Event) -> None:
        """Something that only they hear of."""
        self._clients(event)

    def trouble(self, text: str, path: bytes = b"") -> None:
        """Keep an error for the status."""
        self.errors.append(Error(now_text(), text, path))

    def complain(self, text: str) -> None:
        """Something is wrong with lorad or what it needs."""
        self._log.error(text)
        self.trouble(text)
        self._hurry()

    def child_died(self, name: str, reason: str) -> None:
        self._log.warning("child ended", child=name, reason=reason)
        self.trouble(f"the {name} process was {reason}")
        self.tell_clients(ChildRestarted(name, reason))

    def hasher_changed(self, using: Using) -> None:
        """Layers are digested with something else than before."""
        if using.worse:
            self._log.warning("hasher", backend=using.backend, reason=using.note)
            self.trouble(using.note)
        else:
            self._log.info("hasher", backend=using.backend, note=using.note)
        # Who hears of it is to find it in the status.
        self._refresh()
        self.tell_clients(HasherChanged(using.backend, using.note))

    def watch_changed(self, news: HealthChanged) -> None:
        log = self._log.info if news.health == "watching" else self._log.warning
        log("watch", root=news.root, health=news.health, reason=news.reason)
        # Who hears of it is to find it in the status.
        self._refresh()
        self.tell_clients(WatchChanged(news.root, news.health, news.reason))

    def mistake(self, path: bytes, traceback: str) -> None:
        """A file at which lorad failed by a mistake of its own, which sets it aside."""
        self._log.error("a mistake in lorad", path=path, traceback=traceback)

    def not_hashed(self, reason: str, path: bytes) -> None:
        """Identity hashes of a file, or of all (no path), were not found. Called by the thread that hashes."""
        self._log.warning("not hashed", path=path, reason=reason)
        self.trouble(reason, path)
