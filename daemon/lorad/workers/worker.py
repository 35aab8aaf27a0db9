"""The process that runs jobs: `python -m lorad.workers.worker`, with an `Order` for each on its standard input.

It writes to its standard output how far a job is and how it ended; the result itself is written to a file whose
descriptor it inherits. `Stop` on its input asks the job to end, at its next word of progress. The end of its input
says that there is no more to do, or that the daemon is gone: then it has some seconds to end, and is ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import resource
import signal
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO

import msgspec

from loracore.causes import explained
from loracore.control import MAX_REQUEST
from loracore.errors import LoraError, MissingPackage, causes
from loracore.framing import read, write
from loracore.identity import Edited
from loracore.jobs import job
from loracore.jobs.job import Cancelled
from loracore.paths import shown
from lorad.workers.process import take_pipes

#: Bytes of a result. Larger ones are for files, which a job writes by itself.
MAX_RESULT = 256 << 20
#: Seconds between two words about how far it is.
_INTERVAL = 0.1
#: Seconds that a job has to end when the daemon has.
_GRACE = 3.0
#: Its `nice` value: the daemon itself and the models that are served come first. Those in the background come
#: after other jobs, too.
_NICENESS, _BACKGROUND = 10, 19
#: `prctl(2)`
_PR_SET_PDEATHSIG = 1
#: Characters of what a job is at, and of why it failed.
_WHAT, _WHY = 200, 4000


class Order(msgspec.Struct, frozen=True, tag="order"):
    """What to run, and within which bounds, which are the same for all of a process.

    `memory` is in bytes, 0 for no limit. `background`: no client waits for it.
    """

    place: job.Place
    parameters: bytes
    result_fd: int
    threads: int
    memory: int
    background: bool = False


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """The job is cancelled."""


Wish = Order | Stop


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """How far the job is, in units of its choice."""

    done: float
    total: float
    what: str


class Edits(msgspec.Struct, frozen=True, tag="edits"):
    """The job has edited these files; see `Context.edited`."""

    files: Sequence[Edited]


class Result(msgspec.Struct, frozen=True, tag="result"):
    """The last word: the result is written, and has so many bytes."""

    size: int


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The last word: there is no result. `code` is one of `loracore.control.JobState`, or `cancelled`."""

    code: str
    text: str


Word = Progress | Edits | Result | Failed
WORDS: msgspec.msgpack.Decoder[Word] = msgspec.msgpack.Decoder(Word)
_WISHES: msgspec.msgpack.Decoder[Wish] = msgspec.msgpack.Decoder(Wish)
#: A word is short; an order holds parameters.
LONGEST_WORD, _LONGEST_WISH = 64 << 10, 2 * MAX_REQUEST


class _Working:
    """The context of all its jobs. `progress` is for any of its threads, and leaves writing to another one."""

    def __init__(self, threads: int, say: Callable[[Word], None]) -> None:
        self.threads = threads
        self._say = say
        self._cancelled = False
        self._newest: tuple[float, float, str] = (0, 0, "")
        self._news = threading.Event()
        threading.Thread(target=self._report, name="progress", daemon=True).start()

    def progress(self, done: float, total: float, what: str = "") -> None:
        if self._cancelled:
            raise Cancelled("the job was cancelled")
        self._newest = done, total, what
        self._news.set()

    def edited(self, files: Sequence[Edited]) -> None:
        self._say(Edits(files))

    def cancel(self) -> None:
        self._cancelled = True

    def _report(self) -> None:
        rest = threading.Event()
        while self._news.wait():
            self._news.clear()
            done, total, what = self._newest
            self._say(Progress(float(done), float(total), _sendable(what, _WHAT)))
            rest.wait(_INTERVAL)


def main() -> None:
    wanted, pipe = take_pipes()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Results are looked through for overflows; numpy need not warn of them.
    warnings.filterwarnings("ignore", category=RuntimeWarning)
    wishes = read(wanted, _WISHES, _LONGEST_WISH)
    order = next(wishes, None)
    if not isinstance(order, Order):
        return
    say = _sayer(pipe)
    context = _Working(order.threads, say)
    signal.signal(signal.SIGTERM, lambda *_: context.cancel())
    orders: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(wishes, context, orders), name="wishes", daemon=True).start()
    while order is not None:
        say(_done(order, context))
        order = orders.get()
    # Threads that a library or the job left behind are not waited for.
    os._exit(0)


def _done(order: Order, context: _Working) -> Word:
    """Do it: the last word."""
    name = order.place.name
    try:
        _bound(order)
        return _written(job.work(order.place, order.parameters, context), order)
    except Cancelled:
        return Failed("cancelled", "")
    except MissingPackage as error:
        return _failed("missing", str(error))
    except LoraError as error:
        return _failed(_code(error), str(error))
    except OSError as error:
        name = f"{shown(os.fsdecode(error.filename))}: " if isinstance(error.filename, str | bytes) else ""
        return _failed(_code(error), f"{name}{error.strerror or error}")
    except MemoryError:
        limit = (
            f"the {order.memory >> 20} MiB of [jobs] memory_limit_mb" if order.memory else "the memory there is"
        )
        return _failed("memory", f"{name} needs more than {limit}; raise it, or give --local")
    except Exception as error:
        # A job may be of any package: the daemon gets what it raised as an answer.
        traceback.print_exc()
        what = f"{type(error).__name__}: {error}"
        return _failed("crashed", f"{name} has a mistake: {what}; the daemon's log says where")


def _code(error: BaseException) -> str:
    """`unreadable` where a file is not there, or not for the daemon's user: it may be for the client's."""
    missing = any(isinstance(cause, PermissionError | FileNotFoundError) for cause in causes(error))
    return "unreadable" if missing else "input"


def _bound(order: Order) -> None:
    """Keep within the limits, whatever is loaded."""
    niceness = _BACKGROUND if order.background else _NICENESS
    with contextlib.suppress(OSError):
        # A sandbox may not allow it.
        os.setpriority(os.PRIO_PROCESS, 0, max(niceness, os.getpriority(os.PRIO_PROCESS, 0)))
    if order.background:
        import psutil  # noqa: PLC0415 - jobs that a client waits for do not need it

        _end_with_parent()
        # Of disks, too: where the scheduler knows idle reads, they come after all others.
        with contextlib.suppress(OSError, psutil.Error):
            psutil.Process().ionice(psutil.IOPRIO_CLASS_IDLE)
    if order.memory:
        # Of what the process writes to: mapped model files, and what CUDA reserves, do not count.
        resource.setrlimit(resource.RLIMIT_DATA, (order.memory, order.memory))


def _end_with_parent() -> None:
    """Have the kernel end this process when the thread that started it ends, also while it stands still.

    The kernel hangs up a stopped orphan, but not where its new parent is of the same session, as supervisord.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _written(result: bytes, order: Order) -> Word:
    if len(result) > MAX_RESULT:
        text = f"the result of {order.place.name} has {len(result) >> 20} MiB, {MAX_RESULT >> 20} are kept"
        return _failed("too-large", f"{text}; ask for less of it, or give --local")
    try:
        with open(order.result_fd, "wb", closefd=False) as file:
            file.seek(0)
            file.write(result)
    except OSError as error:
        return _failed("crashed", f"the state folder does not take the result: {explained(error)}")
    return Result(len(result))


def _listen(wishes: Iterator[Wish], context: _Working, orders: queue.SimpleQueue[Order | None]) -> None:
    """Take what is next, cancel the job when that is asked, and end when the daemon is gone."""
    with contextlib.suppress(msgspec.DecodeError):
        for wish in wishes:
            if isinstance(wish, Order):
                orders.put(wish)
            else:
                context.cancel()
    orders.put(None)
    context.cancel()
    threading.Event().wait(_GRACE)
    # With all that it has started: we lead a group of our own.
    os.killpg(0, signal.SIGKILL)


def _sayer(pipe: BinaryIO) -> Callable[[Word], None]:
    """Writes words, from any thread. Where the daemon is gone, `_listen` ends the process."""
    lock = threading.Lock()

    def say(word: Word) -> None:
        with lock, contextlib.suppress(BrokenPipeError):
            write(pipe, word)

    return say


def _failed(code: str, text: str) -> Failed:
    return Failed(code, _sendable(text, _WHY))


def _sendable(text: str, longest: int) -> str:
    """What is not UTF-8 becomes visible escapes."""
    return text[:longest].encode("utf-8", "backslashreplace").decode()


if __name__ == "__main__":
    main()
