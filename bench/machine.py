"""The machine that a result was measured on, in a few lines that are published with it."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator


def describe(folder: str) -> dict[str, str]:
    """Processor, cores, memory, kernel, and the filesystem that `folder` lies on."""
    return {
        "cpu": _field("/proc/cpuinfo", "model name") or platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "kernel": platform.release(),
        "filesystem": filesystem(folder),
        "python": platform.python_version(),
    }


def filesystem(folder: str) -> str:
    """Type of the filesystem of `folder`, by the longest mount point above it; see proc_pid_mounts(5)."""
    path = os.path.realpath(folder)
    mounts = {point: kind for point, kind in _mounts() if _contains(point, path)}
    return mounts[max(mounts, key=len)] if mounts else "unknown"


def _contains(point: str, path: str) -> bool:
    return point in ("/", path) or path.startswith(f"{point}/")


def _mounts() -> Iterator[tuple[str, str]]:
    with open("/proc/self/mounts", encoding="utf-8", errors="replace") as file:
        for line in file:
            _, point, kind, _ = line.split(" ", 3)
            yield point.encode().decode("unicode_escape"), kind


def _field(path: str, name: str) -> str | None:
    with open(path, encoding="utf-8") as file:
        for line in file:
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    return None
