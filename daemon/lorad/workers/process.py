"""A helper process and the daemon's end of it: started, asked, heard, stopped, ended.

It reads messages from its standard input and writes messages to its standard output (`loracore.framing`). The end
of its input says that there is no more to do, or that the daemon is gone. The processes of the pipeline, which
share memory and are watched for hangs, are run by `lorad.pipeline`.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import BinaryIO, Generic, TypeVar

import msgspec

from loracore.framing import end_of, read, write

T = TypeVar("T")

#: Not for a helper: it would speak to systemd in the daemon's name.
_NOT_HANDED_ON = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")


class HelperProcess(Generic[T]):
    """`python -m MODULE ARGUMENTS…`, which leads a process group of its own and answers in messages of one type.

    `words`, `has_ended` and `end` are for one thread, the others for any.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str] = (),
        *,
        words: msgspec.msgpack.Decoder[T],
        longest: int,
        pass_fds: Sequence[int] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`longest`: bytes of a word. `environment` is added to the daemon's own. Raises OSError."""
        inherited = {key: value for key, value in os.environ.items() if key not in _NOT_HANDED_ON}
        self._decoder, self._longest = words, longest
        # Two locks: a process that reads nothing can be killed while it is written to.
        self._writing, self._reaping = threading.Lock(), threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=pass_fds,
            env={**inherited, **(environment or {})},
            process_group=0,
        )
        try:
            self._pidfd = os.pidfd_open(self._process.pid)
        except OSError:
            with self._process:
                self._process.kill()
            raise
        self._poll = select.poll()
        self._poll.register(self._pidfd, select.POLLIN)
        self._input, self._output = end_of(self._process.stdin), end_of(self._process.stdout)

    @property
    def status(self) -> int | None:
        """Its exit status, after `end`."""
        return self._process.returncode

    @property
    def starved(self) -> float:
        """Seconds that its threads were ready to run and others had the processors; 0 where that is not told."""
        if self._process.returncode is not None:
            return 0.0
        tasks, nanoseconds = f"/proc/{self._process.pid}/task", 0
        with suppress(OSError, IndexError):
            for thread in os.listdir(tasks):
                with open(f"{tasks}/{thread}/schedstat", "rb") as file:
                    nanoseconds += int(file.read().split()[1])
        return nanoseconds / 1e9

    def send(self, wish: msgspec.Struct) -> None:
        """Ask something of it; nothing happens where it has ended."""
        with self._writing, suppress(BrokenPipeError):
            if not self._input.closed:
                write(self._input, wish)

    def words(self) -> Iterator[T]:
        """What it says from now on, until it ends or says what is none of its words."""
        with suppress(msgspec.DecodeError):
            yield from read(self._output, self._decoder, self._longest)

    def has_ended(self, seconds: float | None = 0) -> bool:
        """Whether it ends within so many seconds; with None, wait until it has."""
        return bool(self._poll.poll(None if seconds is None else 1000 * seconds))

    def send_signal(self, number: int) -> None:
        """To it and all that it has started. No other process has its number before it was waited for."""
        with self._reaping, suppress(ProcessLookupError):
            if self._process.returncode is None:
                os.killpg(self._process.pid, number)

    def kill(self) -> None:
        """End it at once; a thread that reads its words sees that it died."""
        self.send_signal(signal.SIGKILL)

    def end(self, grace: float | None = None) -> None:
        """Let it end, and kill it after `grace` seconds (None: never), with all that it has started."""
        if self._process.returncode is not None:
            return
        with self._writing, suppress(BrokenPipeError):
            self._input.close()
        self._output.close()
        self.has_ended(grace)
        self.kill()
        self.has_ended(None)
        with self._reaping:
            self._process.wait()
        os.close(self._pidfd)


def take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """In a helper, at its start: what to read wishes from, and what to write words to.

    What reads standard input or prints by accident gets neither. Signals that the daemon has blocked are not here.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    wishes, words = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    return wishes, words
