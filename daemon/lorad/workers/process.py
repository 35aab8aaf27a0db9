"""A worker process from the outside: started with its first job, and gone when it is told to end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

from loracore.framing import end_of, read, write
from loracore.jobs.job import use_one_thread_each
from loracore.paths import home
from lorad.workers.worker import LONGEST_WORD, WORDS, Came, Failed, Far, Order, Stop

#: Not for the worker: it would speak to systemd in the daemon's name.
_NOT_HANDED_ON = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")


class JobProcess:
    """`run`, `do` and `end` are for one thread, the others for any. All orders have the same result file.

    `grace`: seconds that a cancelled job has to end. `cache_dir` is where libraries keep what they would put into
    a home folder, where there is none.
    """

    def __init__(self, grace: float, cache_dir: str) -> None:
        self._cache_dir = cache_dir
        self._grace = grace
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = threading.Event()
        self._cancelled = self._over = False

    @property
    def pid(self) -> int | None:
        """Its number; None before the first job and after its end."""
        return self._process.pid if self._process is not None and not self._over else None

    def run(self, order: Order, progress: Callable[[Far], None]) -> Came | Failed:
        """Do one job and end. `progress` hears how far it is."""
        last = self.do(order, progress)
        self.end()
        return last

    def do(self, order: Order, progress: Callable[[Far], None]) -> Came | Failed:
        """Do a job and wait for its end, however that comes. One that `died` in it does no other."""
        name = order.place.name
        try:
            process = self._given(order)
        except OSError as error:
            self._over = True
            return Failed("crashed", f"a process for {name} cannot be started: {error.strerror}")
        for word in read(end_of(process.stdout), WORDS, LONGEST_WORD) if process is not None else ():
            if isinstance(word, Far):
                progress(word)
            elif self._cancelled and isinstance(word, Failed):
                break
            else:
                return word
        self.end()
        if self._cancelled or process is None:
            return Failed("cancelled", "")
        return Failed("crashed", _death(name, process.returncode))

    @property
    def started(self) -> bool:
        """Whether there was a process at all."""
        return self._process is not None

    @property
    def died(self) -> bool:
        """Whether it is there no more."""
        return self._over

    def end(self) -> None:
        """There is no more to do."""
        process = self._process
        if process is not None and not self._over:
            self._wait(process)

    def pause(self) -> None:
        """Have it stand still. One in the background ends with the daemon all the same: the kernel sees to it."""
        self._signal_group(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal_group(signal.SIGCONT)

    def cancel(self) -> None:
        """Ask it to end, and end it when it does not."""
        with self._lock:
            asked, self._cancelled = self._cancelled, True
            process = self._process
            if asked or process is None or self._over:
                return
            with contextlib.suppress(OSError, ValueError):
                write(end_of(process.stdin), Stop())
        threading.Thread(target=self._insist, name="job-grace", daemon=True).start()

    def kill(self) -> None:
        """End it at once, with all that it has started."""
        with self._lock:
            self._cancelled = True
        self._signal_group(signal.SIGKILL)

    def _given(self, order: Order) -> subprocess.Popen[bytes] | None:
        """The process, which has the order, unless it was cancelled before."""
        with self._lock:
            if self._cancelled:
                return None
            if self._process is None:
                self._process = self._start(order.result_fd)
            with contextlib.suppress(BrokenPipeError):
                write(end_of(self._process.stdin), order)
            return self._process

    def _start(self, result_fd: int) -> subprocess.Popen[bytes]:
        environment = {key: value for key, value in os.environ.items() if key not in _NOT_HANDED_ON}
        use_one_thread_each(environment)
        # Figures are written to files; there is no display.
        environment["MPLBACKEND"] = "Agg"
        if not os.access(home() or "", os.W_OK):
            # Else its fonts are listed anew for each figure.
            environment.setdefault("MPLCONFIGDIR", os.path.join(self._cache_dir, "matplotlib"))
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "lorad.workers.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(result_fd,),
            env=environment,
            process_group=0,
        )

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        """It has said all: what it started goes with it."""
        with self._lock, contextlib.suppress(BrokenPipeError):
            end_of(process.stdin).close()
        descriptor = os.pidfd_open(process.pid)
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            poll.poll(1000 * self._grace)
        finally:
            os.close(descriptor)
        self._signal_group(signal.SIGKILL)
        with self._lock:
            self._over = True
        process.wait()
        end_of(process.stdout).close()
        self._ended.set()

    def _signal_group(self, number: int) -> None:
        """Its number is nobody else's as long as it is not waited for."""
        with self._lock, contextlib.suppress(ProcessLookupError):
            if self._process is not None and not self._over:
                os.killpg(self._process.pid, number)

    def _insist(self) -> None:
        if not self._ended.wait(self._grace):
            self.kill()


def _death(name: str, status: int) -> str:
    """Why it may have died without a word."""
    if status == -signal.SIGKILL:
        text = "was killed; the system does that when memory runs out"
    elif status < 0:
        text = f"died of {signal.Signals(-status).name}"
    else:
        text = f"ended with status {status}"
    return f"the process of {name} {text}; the daemon's log may say more"
