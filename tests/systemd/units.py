"""Reading the files in `systemd/`, and what systemd-analyze says of them."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SYSTEMD = Path(__file__).parents[2] / "systemd"
SERVICE = SYSTEMD / "lorad.service"
DROPINS = sorted((SYSTEMD / "dropins").iterdir())
INSTALL = Path(__file__).parents[2] / "docs" / "install.md"

needs_analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed (Debian's package systemd)"
)


def settings(path: Path) -> list[tuple[str, str, str]]:
    """(section, name, value) of each line of a unit file."""
    found = []
    section = ""
    for line in path.read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.append((section, name, value))
    return found


def values(path: Path, name: str) -> list[str]:
    return [value for _, each, value in settings(path) if each == name]


def value(path: Path, name: str) -> str:
    (only,) = values(path, name)
    return only


def analyze(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *map(str, arguments)], capture_output=True, text=True, check=False
    )


def installed(folder: Path, *dropins: Path) -> Path:
    """The service in `folder` with these drop-ins, and a program that exists: systemd-analyze looks for it."""
    text = SERVICE.read_text()
    program = value(SERVICE, "ExecStart").split()[0]
    service = folder / "lorad.service"
    service.write_text(text.replace(program, sys.executable))
    beside = folder / "lorad.service.d"
    beside.mkdir(exist_ok=True)
    for dropin in dropins:
        shutil.copy(dropin, beside / dropin.name.removesuffix(".example"))
    return service


def exposure(service: Path) -> float:
    """By systemd's measure, what a service could reach: 0 is nothing, 10 everything."""
    said = analyze("security", "--offline=true", service)
    assert said.returncode == 0, said.stderr
    found = re.search(r"Overall exposure level for lorad.service: ([0-9.]+)", said.stdout)
    assert found is not None, said.stdout
    return float(found[1])


@functools.cache
def calls_of(group: str) -> frozenset[str]:
    """The system calls of one of systemd's groups, such as `@file-system`."""
    found: set[str] = set()
    for line in analyze("syscall-filter", group).stdout.splitlines()[1:]:
        name = line.strip()
        if name.startswith("@"):
            found |= calls_of(name)
        elif name and not name.startswith("#"):
            found.add(name)
    assert found, group
    return frozenset(found)


def allowed_calls() -> set[str]:
    """What the service's SystemCallFilter lets through."""
    allowed: set[str] = set()
    for line in values(SERVICE, "SystemCallFilter"):
        named: set[str] = set()
        for word in line.removeprefix("~").split():
            named |= calls_of(word) if word.startswith("@") else {word}
        allowed = allowed - named if line.startswith("~") else allowed | named
    return allowed
