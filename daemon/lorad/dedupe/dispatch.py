"""One thread in which actions are asked for, and the process that carries them out while there is something to do.

What came of them waits here until the core takes it, since only that knows what names lead to.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

from loracore import causes
from loracore.control import ActionRefused, Answer, Event, Refusal, Reply
from loracore.errors import LoraError, StateError
from lorad.dedupe.action.entry import UNFINISHED, Entry
from lorad.dedupe.action.hidden import path_of
from lorad.dedupe.action.order import Progress, Result, silent
from lorad.dedupe.history import ActionHistory
from lorad.dedupe.interrupted import Interrupted
from lorad.dedupe.process import ActionProcess, Apply, Clock, GiveBack, Retarget, Wish
from lorad.watch import timed_calls
from lorad.workers.thread import Worker

#: Requests that may wait for the thread, and seconds after which a process without work is let go.
_WAITING, _IDLE = 256, 30.0
DIED = "the process that acts on files died meanwhile; try again"


class Dispatch:
    """`tell` is called with what happened, `wake` when the core has results to take. Both from its thread."""

    def __init__(
        self,
        state_dir: str,
        tell: Callable[[Event], None],
        wake: Callable[[], None],
        *,
        acting: Callable[[str, Callable[[list[Result]], None]], ActionProcess],
        worker: Callable[..., Worker],
        again: Sequence[float],
    ) -> None:
        self.state_dir = state_dir
        self.tell = tell
        self._wake = wake
        self.history = ActionHistory(state_dir)
        self.process = acting(state_dir, self._repaired)
        dismiss = self.process.dismiss
        self._worker = worker("lorad-dedupe", _WAITING, idle=dismiss, last=dismiss, idle_seconds=_IDLE)
        self.submit = self._worker.submit
        self.interrupted = Interrupted(self.process, self.history, self.submit, tell, again)
        self._stopping = threading.Event()
        self._results: deque[Result] = deque()
        #: Names that an action is under way on, until the core has taken what came of it.
        self.under_way: set[bytes] = set()
        #: Seconds that lorad has run, as the core counts them.
        self.clock = 0.0
        #: Actions that are still to be taken, of what is under way.
        self.left = 0

    def start(self) -> None:
        """Begin; what an earlier run was interrupted in is repaired first."""
        self._worker.start()
        self.submit(self.interrupted.begin)

    def stop(self, patience: float) -> None:
        """End after the present group, or at once after so many seconds: the journal knows where it was."""
        self._stopping.set()
        self.interrupted.stop()
        self._worker.stop(patience)
        self.process.kill()

    # For the core

    def take(self) -> Iterator[Result]:
        """What came of actions since this was asked last. Call `settled` with each once its names are in place."""
        while self._results:
            yield self._results.popleft()

    def settled(self, result: Result) -> None:
        """The core knows what the names of a result lead to."""
        self.under_way.difference_update((result.path, result.aside, result.shown))

    def is_under_way(self, path: bytes) -> bool:
        """Whether a name changes by our own doing just now."""
        return path in self.under_way or os.path.dirname(path) in self.under_way

    def run(self, job: Callable[[], None], failed: Callable[[str], None]) -> bool:
        """Run a job in the thread; False where too much waits. `failed` is called with why it did not end."""

        def run() -> None:
            try:
                job()
            except (LoraError, OSError, sqlite3.Error) as error:
                self.tell(ActionRefused("", b"", b"", str(error)))
                failed(str(error))
            except Exception as error:
                failed(str(error))
                raise

        return self.submit(run)

    def answer(self, answer: Callable[[], Answer], reply: Reply) -> None:
        """Have a request answered in the thread, whatever happens."""

        def job() -> None:
            try:
                reply(answer())
            except Exception as error:
                # Each request gets an answer; a mistake goes on to the log.
                reply(Refusal("failed", str(error) or type(error).__name__))
                if not isinstance(error, LoraError):
                    raise

        if not self.submit(job):
            reply(Refusal("busy", "too much is to be done already; try again"))

    # In the thread

    def ask(self, wish: Wish, progress: Progress = silent) -> list[Result]:
        """Have the process do it, and keep what came of it for the core. Raises StateError."""
        if self._stopping.is_set() and not isinstance(wish, Clock):
            raise StateError("lorad is being stopped; ask again when it is back")
        if isinstance(wish, Apply):
            self.under_way.update(order.folder or order.gone.path for order in wish.orders)
        try:
            results = self.process.ask(wish, progress)
        except StateError:
            # What was begun is brought to an end as soon as the journal can be written.
            self.interrupted.later(first=True)
            raise
        if any(result.state in UNFINISHED for result in results):
            # Only a new process repairs.
            self.process.dismiss()
            self.interrupted.later(first=True)
        self.put(results)
        return results

    def attempt(self, wish: Wish) -> list[Result]:
        """Have a wish of the core carried out; what came of it, nothing where it could not be."""
        try:
            return self.ask(wish)
        except StateError as error:
            self.tell(ActionRefused("", b"", b"", str(error)))
            numbers = wish.numbers if isinstance(wish, GiveBack) else []
            numbers = [wish.number] if isinstance(wish, Retarget) else numbers
            self.put(Result(number, "", b"", b"", 0, "refused", str(error)) for number in numbers)
            return []

    def put(self, results: Iterable[Result]) -> None:
        """Let the core take these."""
        self._results += results
        self._wake()

    def release(self, names: Iterable[bytes]) -> None:
        """Nothing is under way any more on names, wherever their files were found: they are looked at again."""
        self.put(Result(0, "", b"", name, 0, "nothing") for name in names)

    def _repaired(self, results: Sequence[Result]) -> None:
        """What became of actions that were interrupted; called when the process starts."""
        self.interrupted.settled(results)
        self.put(results)

    def aside_of(self, entry: Entry) -> bytes:
        """Where a hidden file lies."""
        return path_of(self.state_dir, self.history.token(), entry)


def why_silent(path: bytes) -> str:
    """Why nothing can be done now about a name: a call to its file system would not return."""
    return "" if timed_calls.answers(os.path.dirname(path)) else causes.NO_ANSWER
