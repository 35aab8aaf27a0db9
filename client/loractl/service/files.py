"""Which files make the service, and what stands in them on this machine."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from importlib.resources import files as resources
from typing import NamedTuple

from loracore.config import SYSTEM_CONFIG
from loracore.errors import UsageError
from loracore.paths import shown
from loractl.service.machine import Owner, hidden

UNIT = "/etc/systemd/system/lorad.service"
SYSUSERS = "/etc/sysusers.d/lorad.conf"
ACT, HOME, GPU = (f"{UNIT}.d/{name}.conf" for name in ("act", "home", "gpu"))
#: All that may be put in place, and removed again.
PATHS = (SYSUSERS, UNIT, ACT, HOME, GPU, SYSTEM_CONFIG)


class Setup(NamedTuple):
    """What is asked for. `environment`: folders that the program is read from. `owner`: of the profile *act*."""

    program: str
    environment: Sequence[str]
    folders: Sequence[str]
    owner: Owner | None
    gpu: bool

    @property
    def user(self) -> str:
        return self.owner.user if self.owner else "lorad"


class File(NamedTuple):
    """A file of the service, and what it does, in a few words."""

    path: str
    text: str
    does: str


def wanted(setup: Setup) -> list[File]:
    """The files of this service, in the order in which they are put in place."""
    found = [
        File(SYSUSERS, template("lorad.sysusers.conf"), "makes the user and the group lorad"),
        File(
            UNIT,
            _filled("lorad.service", "ExecStart", [f"ExecStart={quoted(setup.program)} --config {SYSTEM_CONFIG}"]),
            f"starts {shown(setup.program)} as {setup.user}",
        ),
    ]
    places = [os.path.realpath(folder) for folder in setup.folders]
    if setup.owner is not None:
        does = f"runs it as {setup.user}, the owner, and lets it change files in {_listed(places)}"
        found.append(File(ACT, _act(setup.owner, places), does))
    models, programs = hidden(setup.folders), hidden(setup.environment)
    if models or programs:
        kind = "BindPaths" if setup.owner else "BindReadOnlyPaths"
        lines = _each(kind, models) + _each("BindReadOnlyPaths", programs)
        text = _filled("dropins/home.conf.example", "BindReadOnlyPaths", lines)
        found.append(File(HOME, text, f"lets it see {_listed([*models, *programs])}"))
    if setup.gpu:
        found.append(File(GPU, template("dropins/gpu.conf.example"), "lets it use NVIDIA GPUs"))
    roots = f"roots = {json.dumps(list(setup.folders), ensure_ascii=False)}"
    config = File(SYSTEM_CONFIG, _filled("lorad.toml", "roots ", [roots]), f"looks after {_listed(setup.folders)}")
    return [*found, config]


def template(name: str) -> str:
    """A file of `systemd/` as it is."""
    return (resources("loractl.service") / "systemd" / name).read_text("utf-8")


def named(name: str, setup: Setup) -> str:
    """What `service print NAME` shows: a file of this service, else a drop-in to be filled in by hand.

    Raises UsageError.
    """
    texts = {
        entry.name.removesuffix(".example"): template(f"dropins/{entry.name}")
        for entry in (resources("loractl.service") / "systemd" / "dropins").iterdir()
    }
    texts |= {os.path.basename(file.path): file.text for file in wanted(setup)}
    if name not in texts:
        raise UsageError(f"{shown(name)}: no such file; there are {', '.join(sorted(texts))}")
    return texts[name]


def quoted(path: str) -> str:
    """A path as one word of a unit file (systemd.syntax(7)); `%` begins a specifier there."""
    text = path.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{text}"' if re.search(r"[^\w/.,+@=%-]", text) else text


def _act(owner: Owner, folders: Sequence[str]) -> str:
    text = _filled("dropins/act.conf.example", "User", [f"User={owner.user}"])
    text = _replaced(text, "Group", [f"Group={owner.group}"])
    return _replaced(text, "ReadWritePaths", _each("ReadWritePaths", folders))


def _each(setting: str, folders: Iterable[str]) -> list[str]:
    """A line for each folder; one that is not there at the start is passed over (`-`), not an error."""
    return [f"{setting}={quoted(f'-{folder}')}" for folder in folders]


def _filled(name: str, setting: str, lines: Sequence[str]) -> str:
    return _replaced(template(name), setting, lines)


def _replaced(text: str, setting: str, lines: Sequence[str]) -> str:
    """`text` with these lines in the place of the one line of a setting."""
    found, count = re.subn(rf"^{setting}=.*$", lambda _: "\n".join(lines), text, flags=re.MULTILINE)
    assert count == 1, setting
    return found


def _listed(folders: Sequence[str]) -> str:
    return ", ".join(map(shown, folders)) or "no folder yet"
