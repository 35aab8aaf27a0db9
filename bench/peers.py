"""The tools on the bench: how each is called to find and never to change, and how its answer is read.

A `mapped` tool reads through mmap as well, which no read call shows: what it says of that is added.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

Sets = list[list[str]]

_HERE = os.path.dirname(os.path.abspath(__file__))


@dataclass(frozen=True)
class Answer:
    """What a tool found, and the bytes it says it read or mapped (0 where it does not say)."""

    sets: Sets
    bytes_read: int = 0


@dataclass(frozen=True)
class Tool:
    """A tool. `command` takes the folder to search and a scratch folder, `parse` stdout and the latter."""

    name: str
    program: str
    command: Callable[[str, str], list[str]]
    parse: Callable[[bytes, str], Answer]
    version: tuple[str, ...]
    mapped: bool = False

    @property
    def installed(self) -> bool:
        return shutil.which(self.program) is not None

    def version_line(self) -> str:
        result = subprocess.run(self.version, capture_output=True, text=True, check=False)
        lines = [line.strip() for line in (result.stdout + result.stderr).splitlines() if line.strip()]
        return lines[0] if lines else "unknown"


def loractl(*, again: bool = False) -> Tool:
    """`loractl scan`; with `again` in a state folder that a scan before has filled."""
    # Beside the interpreter, so that the bench runs the code of this checkout whatever PATH says.
    program = os.path.join(os.path.dirname(sys.executable), "loractl")

    def command(folder: str, scratch: str) -> list[str]:
        return [program, "scan", "--json", "--state-dir", os.path.join(scratch, "state"), folder]

    name = "loractl scan, again" if again else "loractl scan"
    return Tool(name, program, command, _parse_loractl, (program, "--version"))


def load_everything() -> Tool:
    script = os.path.join(_HERE, "load_everything.py")
    return Tool(
        name="load + SHA-256",
        program=sys.executable,
        command=lambda folder, _: [sys.executable, script, folder],
        parse=_parse_load_everything,
        version=(sys.executable, "-c", "import torch; print(f'torch {torch.__version__}')"),
        mapped=True,
    )


def jdupes() -> Tool:
    return Tool(
        name="jdupes",
        program="jdupes",
        command=lambda folder, _: ["jdupes", "-r", "-q", "-j", folder],
        parse=_parse_jdupes,
        version=("jdupes", "-v"),
    )


def rdfind() -> Tool:
    def command(folder: str, scratch: str) -> list[str]:
        results = os.path.join(scratch, "rdfind.txt")
        return ["rdfind", "-dryrun", "true", "-makeresultsfile", "true", "-outputname", results, folder]

    return Tool("rdfind", "rdfind", command, _parse_rdfind, ("rdfind", "-v"))


def rmlint() -> Tool:
    def command(folder: str, scratch: str) -> list[str]:
        # `-o` replaces the default outputs, among them a script that removes files.
        return ["rmlint", "-T", "df", "-o", f"json:{os.path.join(scratch, 'rmlint.json')}", folder]

    return Tool("rmlint", "rmlint", command, _parse_rmlint, ("rmlint", "--version"))


def peers() -> list[Tool]:
    return [load_everything(), jdupes(), rdfind(), rmlint()]


def _parse_loractl(stdout: bytes, _: str) -> Answer:
    answer = json.loads(stdout)
    sets = [[kept, *paths] for kept, paths in answer["duplicates"].items()]
    return Answer(sets, answer["bytes_read"])


def _parse_load_everything(stdout: bytes, _: str) -> Answer:
    answer = json.loads(stdout)
    if answer["failed"]:
        raise RuntimeError(f"load_everything could not load {answer['failed']}")
    return Answer(answer["duplicates"], answer["mapped_bytes"])


def _parse_jdupes(stdout: bytes, _: str) -> Answer:
    # jdupes prints nothing at all where no file is found.
    matches = json.loads(stdout)["matchSets"] if stdout.strip() else []
    return Answer([[file["filePath"] for file in match["fileList"]] for match in matches])


def _parse_rdfind(_: bytes, scratch: str) -> Answer:
    """Lines of `duptype id depth size device inode priority name`; a copy has its original's id, negative."""
    sets: dict[int, list[str]] = defaultdict(list)
    for line in _read(scratch, "rdfind.txt").splitlines():
        if not line.startswith("#"):
            fields = line.split(" ", 7)
            sets[abs(int(fields[1]))].append(fields[7])
    return Answer(list(sets.values()))


def _parse_rmlint(_: bytes, scratch: str) -> Answer:
    sets: dict[str, list[str]] = defaultdict(list)
    for entry in json.loads(_read(scratch, "rmlint.json")):
        if entry.get("type") == "duplicate_file":
            sets[entry["checksum"]].append(entry["path"])
    return Answer(list(sets.values()))


def _read(scratch: str, name: str) -> str:
    with open(os.path.join(scratch, name), encoding="utf-8", errors="surrogateescape") as file:
        return file.read()
