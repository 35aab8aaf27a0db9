"""A process that runs jobs, as the daemon sees it: started with its first job, and ended when it is cancelled."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Sequence

from loracore.identity import Edited
from loracore.jobs.job import use_one_thread_each
from loracore.paths import home
from lorad.workers.process import HelperProcess
from lorad.workers.worker import LONGEST_WORD, WORDS, Edits, Failed, Order, Progress, Result, Stop, Word


class JobProcess:
    """`run`, `do` and `end` are for one thread, the others for any. All orders have the same result file.

    `grace`: seconds that a cancelled job has to end. `cache_dir` is where libraries keep what they would put into
    a home folder, where there is none.
    """

    def __init__(self, grace: float, cache_dir: str) -> None:
        self._cache_dir = cache_dir
        self._grace = grace
        #: Guards the start: what is cancelled before it has no process.
        self._lock = threading.Lock()
        self._helper: HelperProcess[Word] | None = None
        self._cancelled = self._failed = False

    def run(
        self,
        order: Order,
        progress: Callable[[Progress], None],
        edited: Callable[[Sequence[Edited]], None] = lambda files: None,
    ) -> Result | Failed:
        """Do one job and end. `progress` is called with how far it is, `edited` with files that it edited."""
        last = self.do(order, progress, edited)
        self.end()
        return last

    def do(
        self,
        order: Order,
        progress: Callable[[Progress], None],
        edited: Callable[[Sequence[Edited]], None] = lambda files: None,
    ) -> Result | Failed:
        """Do a job and wait for its end, however that comes. One that `died` in it does no other."""
        name = order.place.name
        try:
            helper = self._started(order.result_fd)
        except OSError as error:
            self._failed = True
            return Failed("crashed", f"a process for {name} cannot be started: {error.strerror}")
        if helper is None:
            return Failed("cancelled", "")
        helper.send(order)
        for word in helper.words():
            if isinstance(word, Progress):
                progress(word)
            elif isinstance(word, Edits):
                edited(word.files)
            elif self._cancelled and isinstance(word, Failed):
                break
            else:
                return word
        self.end()
        return Failed("cancelled", "") if self._cancelled else Failed("crashed", _death(name, helper.status or 0))

    @property
    def started(self) -> bool:
        """Whether there was a process at all."""
        return self._helper is not None

    @property
    def died(self) -> bool:
        """Whether it has ended, or could not be started."""
        return self._failed or (self._helper is not None and self._helper.status is not None)

    @property
    def starved(self) -> float:
        """Seconds that it was ready to run and others had the processors."""
        return self._helper.starved if self._helper is not None else 0.0

    def end(self) -> None:
        """There is no more to do."""
        if self._helper is not None:
            self._helper.end(self._grace)

    def pause(self) -> None:
        """Have it stand still. One in the background ends with the daemon all the same: the kernel sees to it."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def cancel(self) -> None:
        """Ask it to end, and end it when it does not."""
        with self._lock:
            asked, self._cancelled = self._cancelled, True
            helper = self._helper
        if asked or helper is None or self.died:
            return
        insist = threading.Timer(self._grace, helper.kill)
        insist.daemon = True
        insist.start()
        helper.send(Stop())

    def kill(self) -> None:
        """End it at once, with all that it has started."""
        with self._lock:
            self._cancelled = True
        self._signal(signal.SIGKILL)

    def _started(self, result_fd: int) -> HelperProcess[Word] | None:
        """The process; None where it was cancelled before. Raises OSError."""
        with self._lock:
            if self._cancelled:
                return None
            if self._helper is None:
                # Figures are written to files; there is no display.
                environment = {"MPLBACKEND": "Agg"}
                use_one_thread_each(environment)
                if "MPLCONFIGDIR" not in os.environ and not os.access(home() or "", os.W_OK):
                    # Else its fonts are listed anew for each figure.
                    environment["MPLCONFIGDIR"] = os.path.join(self._cache_dir, "matplotlib")
                self._helper = HelperProcess(
                    "lorad.workers.worker",
                    words=WORDS,
                    longest=LONGEST_WORD,
                    pass_fds=(result_fd,),
                    environment=environment,
                )
            return self._helper

    def _signal(self, number: int) -> None:
        if self._helper is not None:
            self._helper.send_signal(number)


def _death(name: str, status: int) -> str:
    """Why it may have died without a word."""
    if status == -signal.SIGKILL:
        text = "was killed; the system does that when memory runs out"
    elif status < 0:
        text = f"died of {signal.Signals(-status).name}"
    else:
        text = f"ended with status {status}"
    return f"the process of {name} {text}; the daemon's log may say more"
