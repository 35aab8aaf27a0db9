"""Events on their way from the core to those who listen.

The core only ever puts one into a bounded queue. What nobody listens to is counted and not kept; what comes
faster than it is sent pushes the oldest out, and the numbers tell readers that they missed some.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from loracore.control import Event, Told

#: Events that wait to be sent.
_WAITING = 10_000
#: Events sent in one go, before requests are looked at again.
_AT_ONCE = 500
#: Whoever subscribes to a topic that begins so gets one message on it: what was asked for before is in force.
READY = b"!"


class Events:
    """The queue. `wake` has the sending thread call `due`."""

    def __init__(self, wake: Callable[[], None], *, waiting: int = _WAITING) -> None:
        self._wake = wake
        self._queue: deque[tuple[int, float, Event]] = deque(maxlen=waiting)
        self._lock = threading.Lock()
        self._number = 0
        #: Whether anybody listens.
        self.heard = False
        #: Events that were pushed out unsent.
        self.dropped = 0

    def tell(self, event: Event) -> None:
        """From any thread; never blocks."""
        with self._lock:
            self._number += 1
            if not self.heard:
                return
            self.dropped += len(self._queue) == self._queue.maxlen
            first = not self._queue
            self._queue.append((self._number, time.time(), event))
        if first:
            self._wake()

    def due(self) -> list[list[bytes]]:
        """Messages to be sent now. Calls `wake` again for what is left."""
        with self._lock:
            events = [self._queue.popleft() for _ in range(min(_AT_ONCE, len(self._queue)))]
            more = bool(self._queue)
        if more:
            self._wake()
        return [
            [
                str(event.__struct_config__.tag).encode(),
                msgspec.msgpack.encode(Told(number, _rfc3339(seconds), event)),
            ]
            for number, seconds, event in events
        ]


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
