"""Jobs as others would write them, and as nobody should. Workers import this: keep it light."""

from __future__ import annotations

import errno
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import msgspec

from loracore.errors import FileError
from loracore.jobs.job import Context, Job


class Task(msgspec.Struct, frozen=True):
    """`path` is a FIFO to wait at, or a file to write."""

    number: int = 0
    path: bytes = b""
    text: str = ""


class Report(msgspec.Struct, frozen=True):
    """What became of it. `share` is there because not everything is an integer."""

    number: int
    share: float = 0.0
    names: dict[str, list[int]] = {}
    payload: bytes = b""


def _count(task: Task, context: Context) -> Report:
    for number in range(task.number):
        context.progress(number + 1, task.number, f"number {number + 1}")
    names = {"odd \u2192": list(range(1, task.number, 2)), "even": list(range(0, task.number, 2))}
    return Report(sum(range(task.number)), 1 / 3, names, b"\x00\xff" * task.number)


def _hold(task: Task, context: Context) -> Report:
    """Until somebody writes into the FIFO, or it is cancelled, which leaves a word in `PATH.ended`."""
    fifo = os.open(task.path, os.O_RDONLY | os.O_NONBLOCK)
    waiting = select.poll()
    waiting.register(fifo, select.POLLIN)
    try:
        while not waiting.poll(20):
            context.progress(1, 3, "holding")
        return Report(len(os.read(fifo, 100)))
    finally:
        os.close(fifo)
        with open(task.path + b".ended", "wb") as file:
            file.write(b"ended")


def _stubborn(task: Task, context: Context) -> Report:
    """Hears nothing, until somebody writes into the FIFO. So does what it starts."""
    child = subprocess.Popen([sys.executable, "-c", "import sys; open(sys.argv[1], 'rb').read()", task.path])
    context.progress(1, 3, str(child.pid))
    with open(task.path, "rb") as fifo:
        return Report(len(fifo.read()))


def _die(task: Task, context: Context) -> Report:
    context.progress(1, 3, "dying")
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def _devour(task: Task, context: Context) -> Report:
    eaten = [bytearray(16 << 20) for _ in range(task.number)]
    return Report(len(eaten))


def _blunder(task: Task, context: Context) -> Report:
    raise ValueError("a blunder \udcff")


def _complain(task: Task, context: Context) -> Report:
    raise FileError("its header is cut off; get the file again", os.fsdecode(task.path))


def _peruse(task: Task, context: Context) -> Report:
    """A file that `text` in the environment makes readable, as its owner's rights would."""
    if task.text and task.text not in os.environ:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fsdecode(task.path))
    with open(task.path, "rb") as file:
        return Report(len(file.read()))


def _babble(task: Task, context: Context) -> Report:
    """What it prints and reads is not taken for messages."""
    print("babble " * 100, flush=True)
    os.write(1, b"\x04\x00\x00\x00more")
    return Report(len(sys.stdin.read()))


def _look(task: Task, context: Context) -> Report:
    """Around itself."""
    pools = [int(os.environ.get(name, "0")) for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")]
    return Report(context.threads, 0.0, {"pools": pools, "nice": [os.nice(0)], "pid": [os.getpid()]})


def _lean(task: Task, context: Context) -> Report:
    import package_that_nobody_has  # type: ignore[import-not-found] # noqa: F401

    return Report(0)


def _large(task: Task, context: Context) -> Report:
    return Report(0, payload=bytes(task.number))


def _job(name: str, run: Callable[[Any, Context], Report]) -> Job[Task, Report]:
    return Job(name, Task, Report, run)


COUNT = _job("count", _count)
HOLD = _job("hold", _hold)
STUBBORN = _job("stubborn", _stubborn)
DIE = _job("die", _die)
DEVOUR = _job("devour", _devour)
BLUNDER = _job("blunder", _blunder)
COMPLAIN = _job("complain", _complain)
PERUSE = _job("peruse", _peruse)
BABBLE = _job("babble", _babble)
LOOK = _job("look", _look)
LEAN = _job("lean", _lean)
LARGE = _job("large", _large)
NO_JOB = "not a job"
