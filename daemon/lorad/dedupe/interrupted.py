"""When what was interrupted is brought to an end: at the start, and again where it has to wait."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from loracore.control import ActionRefused, ActionUndone, Event, FileFreed, FileGivenBack
from loracore.errors import StateError
from lorad.dedupe.action.entry import UNFINISHED
from lorad.dedupe.action.order import HELD, Result
from lorad.dedupe.history import ActionHistory
from lorad.dedupe.process import ActionProcess

#: Seconds until it is tried again; the last one ever after.
AGAIN = (60.0, 600.0, 3600.0)


class Interrupted:
    """For the service's thread. A process that acts repairs when it starts, which is all that this has done.

    `submit` has something done in that thread, `tell` is called with what happened.
    """

    def __init__(
        self,
        process: ActionProcess,
        history: ActionHistory,
        submit: Callable[[Callable[[], object]], bool],
        tell: Callable[[Event], None],
        again: Sequence[float],
    ) -> None:
        self._process = process
        self._history = history
        self._submit = submit
        self._tell = tell
        self._again = again
        self._timer: threading.Timer | None = None
        self._vain = 0
        #: What was last said of each action that waits, and of repair itself (0).
        self._said: dict[int, str] = {}
        #: Whether it was tried to its end since lorad started.
        self.is_done = False

    def begin(self) -> None:
        """Have what was interrupted brought to an end, where there is anything that needs it."""
        if not self._history.is_unfinished() and not self._has_held():
            self.is_done = True
            return
        try:
            self._process.dismiss()
            self._process.start()
            self.is_done = True
        except StateError as error:
            self.later()
            if self._said.get(0) != str(error):
                self._said[0] = str(error)
                self._tell(ActionRefused("repair", b"", b"", str(error)))

    def _has_held(self) -> bool:
        try:
            return bool(self._history.in_state(*HELD))
        except StateError:
            return True

    def later(self, *, first: bool = False) -> None:
        """Try again in a while; `first`: something was interrupted just now."""
        if first:
            self._vain = 0
        seconds = self._again[min(self._vain, len(self._again) - 1)]
        self._vain += 1
        self.stop()
        self._timer = threading.Timer(seconds, lambda: self._submit(self.begin))
        self._timer.daemon = True
        self._timer.start()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def settled(self, results: Sequence[Result]) -> None:
        """What became of actions that were interrupted: it is told once."""
        waiting = {result.id: result.text for result in results if result.state in UNFINISHED}
        if waiting:
            self.later()
        else:
            self._vain = 0
        for result in results:
            if waiting.get(result.id) != self._said.get(result.id, ""):
                self._tell(_event(result))
        self._said = waiting


def _event(result: Result) -> Event:
    match result.state:
        case "undone":
            return ActionUndone(result.id, result.path)
        case "given_back":
            return FileGivenBack(result.id, result.path, result.shown)
        case "freed" | "linked":
            return FileFreed(result.id, result.path, result.bytes)
    return ActionRefused(result.action, result.kept, result.path, result.text)
