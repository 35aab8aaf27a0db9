"""What is wrong with the machine for lorad's purposes, and what to do about it."""

from __future__ import annotations

import glob
import importlib.util
import math
import os
import resource
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial

from loracore.causes import explained, state_of
from loracore.control import Examined, Finding, Hashing, Root
from loracore.errors import StateError
from loracore.paths import CATALOGUE, shown
from lorad.blocks.extents import SHARING
from lorad.checks.places import examine_action, examine_places, kind_of, mount_of, no_answer
from lorad.checks.probe import Probe, probe_all
from lorad.dedupe.abilities import share_error
from lorad.dedupe.action.journal import Journal
from lorad.dedupe.action.journal_file import JOURNAL
from lorad.dedupe.history import look
from lorad.dedupe.policy import Policy
from lorad.watch.exclude import Exclude
from lorad.watch.mounts import is_remote

_TO_REPORT = Policy()
_INOTIFY = "/proc/sys/fs/inotify"
#: Watches that a machine's other programs are left.
_WATCHES_SPARE = 1024
_INSTANCES, _OPEN_FILES = 16, 1024
#: Free bytes in the state folder below which there is a warning, or a problem.
_LITTLE_SPACE, _NO_SPACE = 1 << 30, 64 << 20
#: Actions that cannot be undone, of which what they lack is named.
_NAMED = 3


def examine(
    state_dir: str,
    runtime_dir: str,
    roots: Sequence[Root],
    policy: Policy = _TO_REPORT,
    hashing: Hashing | None = None,
    *,
    exclude: Exclude | None = None,
    grace: float = math.inf,
) -> Examined:
    """All findings; folders are looked at by processes of their own.

    Files are made in the state folder, and where the policy acts. `grace`: of what is hidden, in seconds.
    """
    paths = [root.path for root in roots]
    probes = probe_all([*paths, *(policy.scope if policy.action != "report" else ())])
    parts: list[tuple[str, Callable[[], Iterable[Finding]]]] = [("inotify", lambda: _inotify(roots))]
    parts += [(f"folder {shown(root.path)}", partial(_root, root, probes[root.path])) for root in roots]
    parts += [
        (f"{policy.action}", lambda: examine_action(state_dir, paths, policy, exclude or Exclude(), probes)),
        (
            "places",
            lambda: examine_places([path for path in paths if probes[path].is_folder], policy.action, grace),
        ),
        (f"state folder {shown(state_dir)}", lambda: _state(state_dir)),
        ("journal", lambda: _journal(state_dir, [path for path in paths if not probes[path].answers])),
        (f"runtime folder {shown(runtime_dir)}", lambda: [_sockets(runtime_dir)]),
        ("GPU", lambda: [_gpu()]),
        ("open files", lambda: [_limits()]),
    ]
    if hashing is not None and hashing.on_arrival:
        parts.append(("hashes on arrival", lambda: [_hashes(hashing)]))
    return Examined([finding for name, part in parts for finding in _examined(name, part)])


def _examined(name: str, part: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """What a part finds, also if that is that it cannot look."""
    try:
        return list(part())
    except (OSError, sqlite3.Error) as error:
        where = error.filename if isinstance(error, OSError) and isinstance(error.filename, str | bytes) else ""
        text, _, remedy = explained(error, where).partition("; ")
        return [Finding(name, "problem", f"cannot be examined: {text}", remedy or "try again")]


def _inotify(roots: Sequence[Root]) -> Iterator[Finding]:
    name, folders = "inotify", sum(root.folders for root in roots)
    watches, instances = _number("max_user_watches"), _number("max_user_instances")
    if watches is None or instances is None:
        yield Finding(
            name,
            "warning",
            "the kernel has no inotify",
            "folders are polled; use a kernel with CONFIG_INOTIFY_USER",
        )
        return
    if watches < folders:
        yield Finding(
            name, "problem", f"{folders:,} folders, but only {watches:,} watches are allowed", _raise_to(folders)
        )
    elif watches < folders + _WATCHES_SPARE:
        text = f"{folders:,} folders leave few of the {watches:,} allowed watches"
        yield Finding(name, "warning", text, _raise_to(folders))
    else:
        yield Finding(name, "ok", f"{folders:,} folders of {watches:,} allowed watches")
    if instances < _INSTANCES:
        remedy = "sysctl fs.inotify.max_user_instances=128, and put it into /etc/sysctl.d/lorad.conf"
        yield Finding(name, "warning", f"only {instances} users of inotify are allowed", remedy)


def _raise_to(folders: int) -> str:
    wanted = max(524_288, 1 << (2 * folders).bit_length())
    return f"sysctl fs.inotify.max_user_watches={wanted}, and put it into /etc/sysctl.d/lorad.conf"


def _number(name: str) -> int | None:
    try:
        with open(f"{_INOTIFY}/{name}", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


def _root(root: Root, probe: Probe) -> Iterator[Finding]:
    name = f"folder {shown(root.path)}"
    if not probe.answers:
        yield no_answer(name, root.path)
        return
    if not probe.is_folder:
        text = f"is not there: {probe.error}" if probe.error else "is no folder"
        yield Finding(name, "problem", text, "mount it, or take it out of [watch] roots")
        return
    if not probe.readable:
        remedy = "let the daemon's user read it: setfacl -R -m u:lorad:rX, or run it as the owner"
        yield Finding(name, "problem", "cannot be read", remedy)
        return
    if root.health == "degraded":
        remedy = "see the reason; until then changes are found by scans alone"
        yield Finding(name, "warning", f"is watched in part: {root.reason}", remedy)
    mount = mount_of(root.path)
    kind = kind_of(mount)
    if is_remote(mount):
        remedy = "set [watch] poll_seconds to your liking, or run lorad on the machine that has the disk"
        yield Finding(name, "warning", f"is on {kind}, which sends no events; it is polled", remedy)
    elif mount and mount.kind in SHARING:
        yield Finding(name, "ok", f"is on {kind}, where duplicates can share their blocks (reflink)")
    else:
        yield Finding(name, "ok", f"is on {kind}, which cannot share blocks; hardlink and symlink save the space")


def _state(state_dir: str) -> Iterator[Finding]:
    name = f"state folder {shown(state_dir)}"
    for path in (state_dir, os.path.join(state_dir, CATALOGUE)):
        if wrong := state_of(path):
            text, _, remedy = wrong.partition("; ")
            yield Finding(name, "problem", f"cannot be written: {text}", remedy or "chown it to the daemon's user")
            return
    mount = mount_of(os.fsencode(os.path.realpath(state_dir)))
    kind = kind_of(mount)
    if is_remote(mount):
        remedy = "give a state_dir on a local disk"
        yield Finding(name, "problem", f"is on {kind}, where a database can be damaged", remedy)
    free = shutil.disk_usage(state_dir).free
    if free < _LITTLE_SPACE:
        level = "problem" if free < _NO_SPACE else "warning"
        yield Finding(name, level, f"only {free >> 20} MiB are free", "make room, or give another state_dir")
    else:
        can = "cannot" if share_error(os.fsencode(state_dir)) else "can"
        yield Finding(name, "ok", f"{kind}, {free >> 30} GiB free, blocks {can} be shared")


def _journal(state_dir: str, silent: Sequence[bytes]) -> Iterator[Finding]:
    """Whether what was done to files can be undone; nothing where nothing was ever done."""
    if not Journal.was_made(state_dir):
        return
    try:
        with closing(Journal(state_dir, writing=False)) as journal:
            waiting = journal.unfinished()
    except (StateError, sqlite3.Error) as error:
        reason, _, remedy = (state_of(os.path.join(state_dir, JOURNAL)) or str(error)).partition("; ")
        yield Finding("journal", "problem", reason, remedy or "put a backup of it in its place")
        return
    if waiting:
        remedy = "see history, and the daemon's log for what they wait for"
        yield Finding("journal", "warning", f"actions that are not at their end: {len(waiting)}", remedy)
    try:
        yield undoable(state_dir, silent)
    except (StateError, sqlite3.Error) as error:
        path = os.path.join(state_dir, CATALOGUE)
        text = explained(error, path) if isinstance(error, sqlite3.Error) else str(error)
        reason, _, remedy = text.partition("; ")
        yield Finding(f"catalogue {shown(path)}", "problem", reason, remedy)


def undoable(state_dir: str, silent: Sequence[bytes] = ()) -> Finding:
    """Whether what was done to files can be undone. Raises StateError and sqlite3.Error.

    `silent`: folders that do not answer, which are not looked at.
    """
    looked = list(look(state_dir, silent))
    lacking = [each for each in looked if each.lacks]
    if not lacking:
        return Finding("journal", "ok", f"{len(looked):,} actions can be undone: what each needs is there")
    named = "; ".join(f"{shown(each.path)}: {each.lacks}" for each in lacking[:_NAMED])
    text = f"{len(lacking):,} of {len(looked):,} actions cannot be undone: {named}"
    return Finding("journal", "problem", text, "see `loractl audit` for all of them")


def _sockets(runtime_dir: str) -> Finding:
    mode = os.stat(runtime_dir).st_mode & 0o777
    name = f"runtime folder {shown(runtime_dir)}"
    if mode & 0o002:
        return Finding(name, "warning", f"everybody may write to it (mode {mode:04o})", "chmod 750 it")
    return Finding(name, "ok", f"mode {mode:04o}")


def _gpu() -> Finding:
    devices = len(glob.glob("/dev/nvidia[0-9]*"))
    if not devices:
        return Finding("GPU", "ok", "none of NVIDIA's; weights are hashed on the CPU")
    if importlib.util.find_spec("cupy") is None:
        remedy = "pip install 'lorad[gpu]'"
        return Finding("GPU", "warning", f"{devices} there, but CuPy is not installed", remedy)
    if not all(os.access(path, os.R_OK | os.W_OK) for path in ("/dev/nvidiactl", "/dev/nvidia0")):
        remedy = "give the service DeviceAllow=/dev/nvidia*, and its user the group of /dev/nvidia0"
        return Finding("GPU", "warning", "it is there, but may not be used", remedy)
    return Finding("GPU", "ok", f"{devices} of NVIDIA's, with CuPy")


def _hashes(hashing: Hashing) -> Finding:
    name = "hashes on arrival"
    if hashing.trouble:
        return Finding(name, "problem", hashing.trouble, "see to that, and reload lorad to have it tried again")
    if hashing.failed:
        text = f"{hashing.failed:,} files cannot be hashed"
        return Finding(name, "warning", text, "`loractl status` names the last of them, and why")
    return Finding(name, "ok", f"{hashing.hashed:,} of {hashing.hashed + hashing.waiting:,} files have them")


def _limits() -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < _OPEN_FILES:
        remedy = "raise it: LimitNOFILE=65536 in the service, or ulimit -n"
        return Finding("open files", "warning", f"only {soft} are allowed", remedy)
    return Finding("open files", "ok", f"{soft:,} allowed")
