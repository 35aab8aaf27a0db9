"""The process that hashes one file after the other, by the code of the job `hashes`. It is expendable."""

from __future__ import annotations

import os
import time

import msgspec

from loracore.errors import StateError
from loracore.jobs import job
from loracore.jobs.hashes import HashesParameters, HashesResult
from lorad.pipeline.protocol import Identity
from lorad.workers.job import JobProcess
from lorad.workers.worker import Failed, Order, Progress, Result

_JOB = "hashes"
#: Bytes that it may write to; headers are bounded, and all else is blocks.
_MEMORY = 1 << 30
#: Seconds that it has to end by itself.
_GRACE = 1.0
_RESULT = msgspec.msgpack.Decoder(HashesResult)


class HashingProcess:
    """`hash` and `end` are for one thread, the others for any. The process starts with the first file."""

    def __init__(self, state_dir: str) -> None:
        self._state_dir = state_dir
        self._place: job.Place | None = None
        self._process: JobProcess | None = None
        #: In memory: a state folder without room must not look like a fault of the file.
        self._result_fd: int | None = None
        self._paused = False
        self._heard: float | None = None
        #: For how long it had been starved by then.
        self._starved = 0.0

    def hash(self, path: bytes, identity: Identity) -> HashesResult | Failed:
        """The hashes of the file with this identity.

        Raises MissingPackage without the toolkit, and StateError where no process can be had.
        """
        if self._place is None:
            self._place = job.find(_JOB)
        if self._process is None or self._result_fd is None:
            self._result_fd = _memory_file()
            self._process = JobProcess(_GRACE, os.path.join(self._state_dir, "cache"))
        wanted = HashesParameters(path, identity)
        order = Order(
            self._place,
            msgspec.msgpack.encode(wanted),
            self._result_fd,
            threads=1,
            memory=_MEMORY,
            background=True,
        )
        self._hear()
        last = self._process.do(order, self._hear)
        self._heard = None
        if isinstance(last, Result):
            return _RESULT.decode(os.pread(self._result_fd, last.size, 0))
        if last.code == "crashed" and not self._process.started:
            raise StateError(last.text)
        return last

    @property
    def died(self) -> bool:
        """Whether it is gone, with the file that it had."""
        return self._process is not None and self._process.died

    @property
    def silent_seconds(self) -> float:
        """For how long nothing was heard from it while it had a file, could work and had a processor."""
        heard, process = self._heard, self._process
        if heard is None or process is None or self._paused:
            return 0.0
        return time.monotonic() - heard - max(0.0, process.starved - self._starved)

    def pause(self, paused: bool) -> None:
        """Have it stand still, or go on."""
        if paused != self._paused:
            if self._heard is not None:
                self._heard_now()
            self._paused = paused
            self._obey()

    def kill(self) -> None:
        process = self._process
        if process is not None:
            process.kill()

    def end(self) -> None:
        """There is no more to do; the next file starts another process."""
        process, self._process = self._process, None
        if process is not None:
            process.end()
        if self._result_fd is not None:
            os.close(self._result_fd)
            self._result_fd = None

    def _hear(self, _: Progress | None = None) -> None:
        self._heard_now()
        if self._paused:
            # It was started since.
            self._obey()

    def _heard_now(self) -> None:
        process = self._process
        self._starved = process.starved if process is not None else 0.0
        self._heard = time.monotonic()

    def _obey(self) -> None:
        process = self._process
        if process is not None:
            (process.pause if self._paused else process.go_on)()


def _memory_file() -> int:
    """Raises StateError."""
    try:
        return os.memfd_create("lorad-hashes")
    except OSError as error:
        raise StateError(f"there is no memory for hashes: {error.strerror}") from error
