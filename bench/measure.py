"""Runs a command and tells its wall time, its peak memory and the bytes that it really read.

The command runs under a small process of ours (this module as a program). When a process is reaped, Linux
adds its input and output to its parent's, so that process's own `/proc/self/io` ends with the sum over the
whole tree: `rchar` is what read calls returned, `read_bytes` what came from the disk. Reads through mmap are
in `read_bytes` alone. See proc_pid_io(5).
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.memory import MemorySampler

_READ = re.compile(r"\w+\(\d+<(?P<path>.*?)>, .* = (?P<count>\d+)$")
_DROP_CACHES = "/proc/sys/vm/drop_caches"
_PR_SET_CHILD_SUBREAPER = 36
#: Seconds that descendants have to end after the command itself has.
_LINGER = 10.0


@dataclass(frozen=True)
class Measurement:
    """One run. `peak_bytes` and `resident` (by command line) are filled where memory was sampled."""

    seconds: float
    bytes_read: int
    disk_bytes: int
    status: int
    stdout: bytes
    stderr: bytes
    peak_bytes: int = 0
    resident: dict[str, int] = field(default_factory=dict)


def run(command: Sequence[str], *, cwd: str | None = None, memory: bool = False) -> Measurement:
    """Run `command` to its end. Sampling memory costs time, so the seconds of such a run are not for show."""
    with tempfile.TemporaryDirectory(prefix="measure-") as scratch:
        names = [os.path.join(scratch, name) for name in ("report", "stdout", "stderr")]
        wrapper = subprocess.Popen(
            [sys.executable, "-m", "bench.measure", *names, cwd or os.getcwd(), *command], cwd=_repository()
        )
        if memory:
            with MemorySampler(wrapper.pid) as sampler:
                wrapper.wait()
        else:
            wrapper.wait()
        if wrapper.returncode:
            raise RuntimeError(f"measuring failed: {' '.join(command)}")
        report, stdout, stderr = map(_content, names)
    seconds, bytes_read, disk_bytes, status = json.loads(report)
    if not memory:
        return Measurement(seconds, bytes_read, disk_bytes, status, stdout, stderr)
    return Measurement(
        seconds, bytes_read, disk_bytes, status, stdout, stderr, sampler.peak_bytes, sampler.resident
    )


def bytes_read_under(folder: str, command: Sequence[str], *, cwd: str | None = None) -> int | None:
    """What the command's system calls read of the files in `folder`, by strace; None where that is missing.

    Unlike `run`, this leaves out programs, libraries and databases; and what is read through mmap.
    """
    if shutil.which("strace") is None:
        return None
    with tempfile.TemporaryDirectory(prefix="measure-") as scratch:
        log = os.path.join(scratch, "calls")
        calls = "trace=read,readv,pread64,preadv,preadv2"
        tracer = ["strace", "-ff", "-y", "-s", "0", "-o", log, "-e", calls, *command]
        subprocess.run(tracer, cwd=cwd, capture_output=True, check=False)
        total = 0
        for name in os.listdir(scratch):
            with open(os.path.join(scratch, name), encoding="utf-8", errors="replace") as file:
                found = (_READ.match(line) for line in file)
                total += sum(int(match["count"]) for match in found if match and match["path"].startswith(folder))
    return total


def can_drop_caches() -> bool:
    return os.access(_DROP_CACHES, os.W_OK)


def drop_caches() -> None:
    """Make the kernel forget every clean page, entry and inode. Needs root; see proc_sys_vm(5)."""
    os.sync()
    with open(_DROP_CACHES, "w", encoding="ascii") as file:
        file.write("3")


def _repository() -> str:
    return os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _wrapper(report: str, stdout: str, stderr: str, cwd: str, *command: str) -> None:
    # Grandchildren that outlive the command become ours, so that their reads are counted as well.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    before = _io()
    with open(stdout, "wb") as out, open(stderr, "wb") as errors:
        start = time.perf_counter()
        child = subprocess.Popen(command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=errors)
        child.wait()
        seconds = time.perf_counter() - start
    _reap_rest()
    after = _io()
    read = [after[name] - before[name] for name in ("rchar", "read_bytes")]
    with open(report, "w", encoding="ascii") as file:
        json.dump([seconds, *read, child.returncode], file)


def _reap_rest() -> None:
    deadline = time.monotonic() + _LINGER
    while time.monotonic() < deadline:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            time.sleep(0.005)
    raise TimeoutError("the command left processes behind that do not end")


def _io() -> dict[str, int]:
    with open("/proc/self/io", encoding="ascii") as file:
        return {name: int(value) for name, value in (line.split(": ") for line in file)}


if __name__ == "__main__":
    _wrapper(*sys.argv[1:])
