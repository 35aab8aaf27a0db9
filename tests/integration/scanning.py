"""Running `loractl scan` and the process behind it, and reading what they wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import psutil

VIEWS = ("processed", "groups", "refined_groups", "duplicates", "statistics")


class Result(NamedTuple):
    """How `loractl scan --json` ended."""

    code: int
    report: dict[str, Any]
    stderr: str


def loractl(
    *arguments: object, timeout: float = 100, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loractl.cli", *map(os.fspath, map(str, arguments))]
    env = {**os.environ, **(environment or {})}
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, env=env)


def scan(folder: Path, state: Path, *options: str, environment: Mapping[str, str] | None = None) -> Result:
    """One scan to its end; `environment` is added to ours."""
    ended = loractl("scan", "--json", "--state-dir", state, *options, folder, environment=environment)
    return Result(ended.returncode, json.loads(ended.stdout) if ended.stdout else {}, ended.stderr)


def view(state: Path, name: str) -> dict[str, Any]:
    return json.loads((state / f"{name}.json").read_text("utf-8"))


def duplicate_sets(state: Path) -> set[frozenset[str]]:
    return {frozenset([kept, *others]) for kept, others in view(state, "duplicates")["duplicates"].items()}


def partition(state: Path, name: str) -> set[frozenset[str]]:
    """The groups of `groups.json` or `refined_groups.json`, whatever their signatures."""
    return {frozenset(paths) for paths in view(state, name)[name].values()}


class Embedded:
    """The process behind `loractl scan`, started without its client, to be killed or left to end."""

    def __init__(self, folder: Path, state: Path, *, loaders: int = 0) -> None:
        command = [sys.executable, "-m", "lorad.scan", str(state), str(loaders), "auto", "0", str(folder)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def children(self) -> list[psutil.Process]:
        """Its child processes at this moment; none once it has ended."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def finish(self) -> int:
        """Read its reports to the end; the exit status."""
        assert self.process.stdout is not None
        assert self.process.stdin is not None
        self.process.stdout.read()
        self.process.stdin.close()
        self.process.stdout.close()
        return self.process.wait(100)

    def kill(self) -> None:
        """SIGKILL it, and see that all its children follow by themselves."""
        children = self.children()
        self.process.kill()
        self.finish()
        _, alive = psutil.wait_procs(children, timeout=20)
        assert not alive, f"children outlived the daemon: {alive}"
