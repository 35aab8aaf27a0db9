"""A worker process from the outside: one for each job, started with it and gone with it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

from loracore.jobs.finding import use_one_thread_each
from lorad.jobs.worker import LONGEST_WORD, WORDS, Came, Failed, Far, Order, Stop
from lorad.pipes import end_of, read, write

#: Not for the worker: it would speak to systemd in the daemon's name.
_NOT_HANDED_ON = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")


class JobProcess:
    """`run` is for one thread, the others for any. `grace`: seconds that a cancelled job has to end.

    `cache_dir` is where libraries keep what they would put into a home folder, where there is none.
    """

    def __init__(self, order: Order, grace: float, cache_dir: str) -> None:
        self._order = order
        self._cache_dir = cache_dir
        self._grace = grace
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = threading.Event()
        self._cancelled = self._over = False

    def run(self, progress: Callable[[Far], None]) -> Came | Failed:
        """Start it and wait for its end, however that comes. `progress` hears how far it is."""
        try:
            process = self._start()
        except OSError as error:
            return Failed("crashed", f"a process for {self._order.place.name} cannot be started: {error.strerror}")
        last: Came | Failed | None = None
        if process is not None:
            for word in read(end_of(process.stdout), WORDS, LONGEST_WORD):
                if isinstance(word, Far):
                    progress(word)
                else:
                    last = word
                    break
            self._wait(process)
        if self._cancelled and not isinstance(last, Came):
            return Failed("cancelled", "")
        return last or Failed("crashed", self._death(process.returncode if process else 0))

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
            if self._process is not None and not self._over:
                self._kill_group(self._process)

    def _start(self) -> subprocess.Popen[bytes] | None:
        """The process, unless the job was cancelled before."""
        environment = {key: value for key, value in os.environ.items() if key not in _NOT_HANDED_ON}
        use_one_thread_each(environment)
        # Figures are written to files; there is no display.
        environment["MPLBACKEND"] = "Agg"
        if not os.access(os.path.expanduser("~"), os.W_OK):
            # Else its fonts are listed anew for each figure.
            environment.setdefault("MPLCONFIGDIR", os.path.join(self._cache_dir, "matplotlib"))
        with self._lock:
            if self._cancelled:
                return None
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "lorad.jobs.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=(self._order.result_fd,),
                env=environment,
                process_group=0,
            )
            with contextlib.suppress(BrokenPipeError):
                write(end_of(self._process.stdin), self._order)
            return self._process

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        """It has said all: what it started goes with it."""
        descriptor = os.pidfd_open(process.pid)
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            poll.poll(1000 * self._grace)
        finally:
            os.close(descriptor)
        with self._lock:
            self._kill_group(process)
            self._over = True
            with contextlib.suppress(BrokenPipeError):
                end_of(process.stdin).close()
        process.wait()
        end_of(process.stdout).close()
        self._ended.set()

    def _kill_group(self, process: subprocess.Popen[bytes]) -> None:
        """Its number is nobody else's as long as it is not waited for."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    def _insist(self) -> None:
        if not self._ended.wait(self._grace):
            self.kill()

    def _death(self, status: int) -> str:
        """Why it may have died without a word."""
        name = self._order.place.name
        if status == -signal.SIGKILL:
            text = "was killed; the system does that when memory runs out"
        elif status < 0:
            text = f"died of {signal.Signals(-status).name}"
        else:
            text = f"ended with status {status}"
        return f"the process of {name} {text}; the daemon's log may say more"
