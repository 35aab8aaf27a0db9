"""Putting the files of the service in place, and removing them: never one that was edited.

Each file begins with a line that has a sum of the rest. Where they disagree, or there is no such line, the file is
somebody's own.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import subprocess
from collections.abc import Sequence
from typing import NamedTuple

from loracore import __version__
from loracore.config import SYSTEM_CONFIG, load_config
from loracore.errors import LoraError, UsageError
from loracore.paths import shown
from loractl.service import machine
from loractl.service.files import ACT, GPU, PATHS, SYSUSERS, UNIT, File, Setup

SERVICE = "lorad.service"
#: What systemd makes for the service, and what is never removed here.
STATE_DIR = "/var/lib/lorad"
#: sd_booted(3)
_BOOTED = "/run/systemd/system"
_MARK = re.compile(r"# Put here by `loractl service install`[^\n]*, sum ([0-9a-f]{16})\.[^\n]*\n")
#: Lines of the journal that an error shows.
_LINES = 3


class Step(NamedTuple):
    """What becomes of a file: `do` is `write`, `replace`, `remove`, `keep` (as it was put) or `leave` (edited)."""

    do: str
    path: str
    why: str
    text: str = ""


def need_systemd() -> None:
    """Raises UsageError where systemd is not what runs the machine."""
    if not os.path.isdir(_BOOTED):
        remedy = "`loractl service print` shows what another init needs, or run `lorad --watch DIR`"
        raise UsageError(f"{_BOOTED}: not there, so systemd does not run this machine; {remedy}")


def setup(watch: Sequence[str], act: bool | None, gpu: bool | None) -> Setup:
    """What is asked for; what is left open is as it was installed. Raises UsageError and MissingPackage."""
    before = load_config(SYSTEM_CONFIG).watch.roots if _found(SYSTEM_CONFIG) is not None else ()
    folders = machine.folders(watch or before)
    if watch and folders != machine.folders(before) and not _may_write(SYSTEM_CONFIG):
        remedy = "put the folders into [watch] roots there, and leave --watch out"
        raise UsageError(f"{SYSTEM_CONFIG}: was edited, and is not overwritten; {remedy}")
    if act is None:
        act = _found(ACT) is not None
    if act and not folders:
        raise UsageError("--act is for folders: name them by --watch DIR")
    if gpu is None:
        gpu = _found(GPU) is not None
    owner = machine.owner(folders) if act else None
    return Setup(machine.program(), machine.environment(), folders, owner, gpu)


def putting(files: Sequence[File]) -> list[Step]:
    """The steps that make these files, and no others of `PATHS`. Raises UsageError for one that was edited."""
    given = {file.path: file for file in files}
    steps = []
    for path in PATHS:
        there, file = _found(path), given.get(path)
        text = _marked(file.text) if file else ""
        if not _may_write(path):
            if path != SYSTEM_CONFIG:
                remedy = "put your changes into a drop-in of your own (systemctl edit lorad), and remove this file"
                raise UsageError(f"{path}: was edited, or is not by `loractl service`; {remedy}")
            steps.append(Step("leave", path, "is as you edited it"))
        elif file is None:
            steps += [Step("remove", path, "is not needed any more")] if there is not None else []
        else:
            do = "write" if there is None else "keep" if there == text else "replace"
            steps.append(Step(do, path, file.does, text))
    return steps


def removing() -> list[Step]:
    """The steps that remove what was put in place and not edited."""
    return [
        Step("remove", path, "") if _may_write(path) else Step("leave", path, "was edited, or is not by us")
        for path in PATHS
        if _found(path) is not None
    ]


def take(steps: Sequence[Step]) -> None:
    """Write and remove. Each file is replaced whole or not at all."""
    for step in steps:
        if step.do in ("write", "replace"):
            _write(step.path, step.text)
        elif step.do == "remove":
            os.unlink(step.path)
    for folder in (os.path.dirname(ACT), os.path.dirname(SYSTEM_CONFIG)):
        with contextlib.suppress(OSError):  # It stays where something else is in it.
            os.rmdir(folder)


def commands(*, removes: bool = False) -> list[list[str]]:
    """What is run before the files are removed, or after they were put in place."""
    if removes:
        return [["systemctl", "disable", "--now", SERVICE]] if _found(UNIT) is not None else []
    return [
        ["systemd-sysusers", SYSUSERS],
        ["systemctl", "daemon-reload"],
        ["systemctl", "enable", SERVICE],
        ["systemctl", "restart", SERVICE],
    ]


def run(command: Sequence[str]) -> None:
    """Raises LoraError with what the command said, or with the service's last words where it did not start."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise UsageError(f"{command[0]}: not installed; install systemd's package of that name") from error
    if not done.returncode:
        return
    said = done.stderr
    if "restart" in command:
        # What the service said itself at this start; what systemd says of it names no cause.
        start = _said("systemctl", "show", "--value", "--property=InvocationID", SERVICE).strip()
        lines = f"--lines={_LINES}"
        said = _said("journalctl", "--quiet", "--output=cat", lines, f"_SYSTEMD_INVOCATION_ID={start}") or said
    words = "; ".join(shown(line.strip()) for line in said.splitlines() if line.strip())
    raise LoraError(f"{' '.join(command)} failed: {words} (`journalctl -u lorad` has more)")


def _said(*command: str) -> str:
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False).stdout


def _found(path: str) -> str | None:
    """The text of a file; "" for what is no regular file of UTF-8; None where there is none."""
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return ""
        with open(path, encoding="utf-8", newline="") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UnicodeDecodeError:
        return ""


def _may_write(path: str) -> bool:
    """Whether there is no such file, or it is as it was put there."""
    text = _found(path)
    mark = _MARK.match(text) if text is not None else None
    return text is None or (mark is not None and mark[1] == _sum(text[mark.end() :]))


def _marked(text: str) -> str:
    line = f"# Put here by `loractl service install` of lorad {__version__}, sum {_sum(text)}."
    return f"{line} It is never overwritten once it was edited.\n{text}"


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _write(path: str, text: str) -> None:
    folder = os.path.dirname(path)
    os.makedirs(folder, mode=0o755, exist_ok=True)
    new = f"{path}.new"
    with open(new, "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), 0o644)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
