"""Whether what is to be done to duplicates can be done where the watched folders lie.

Files are made in them only where the policy acts there, and are gone at once.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from itertools import combinations
from typing import NamedTuple

from loracore.control import Finding
from loracore.paths import shown
from lorad.blocks.extents import SHARING
from lorad.checks.probe import Probe
from lorad.dedupe.abilities import Abilities
from lorad.dedupe.action.registry import ACTIONS
from lorad.dedupe.aliases import Alias, Aliases
from lorad.dedupe.policy import Policy
from lorad.dedupe.rootlock import holder_of
from lorad.library.keepers import is_inside
from lorad.watch import timed_calls
from lorad.watch.exclude import Exclude
from lorad.watch.mounts import Mount, Mounted, MountTable, find, inner, inside, is_plain, read_mounts
from lorad.watch.statx import access_error, statx

#: Pairs of places that are asked whether they are one storage, at most.
_PAIRS = 200
#: Where the action `reflink` works; nothing looks at files of OCFS2, which other machines change.
_REFLINK = SHARING | {b"ocfs2"}


class _Place(NamedTuple):
    """A root, or a mount in one. `inner`: the folder of its file system that is seen there."""

    path: bytes
    mount: Mount
    inner: bytes


def examine_action(
    state_dir: str, roots: Sequence[bytes], policy: Policy, exclude: Exclude, probes: Mapping[bytes, Probe]
) -> Iterator[Finding]:
    """Whether the action that is configured can be taken where it is to be taken."""
    if policy.action == "report":
        return
    for folder in policy.scope or roots:
        name = f"{policy.action} in {shown(folder)}"
        if exclude(folder):
            yield Finding(
                name, "problem", "it is left out by [watch] exclude", "change exclude, or [dedupe] scope"
            )
            continue
        probe = probes[folder]
        if not probe.answers:
            yield no_answer(name, folder)
            continue
        if not probe.is_folder:
            if policy.scope:
                yield Finding(name, "problem", "is not there", "mount it, or take it out of [dedupe] scope")
            continue
        if not probe.writable:
            yield _not_writable(name, folder, probe)
            continue
        if probe.free_inodes == 0:
            yield Finding(name, "problem", "no inodes are left there", "remove some files, however small")
            continue
        mount = mount_of(folder)
        if not policy.kind.hides and not (mount and mount.kind in _REFLINK):
            remedy = 'set [dedupe] action to "hardlink" or "symlink"'
            yield Finding(name, "problem", f"is on {kind_of(mount)}, which cannot share blocks", remedy)
            continue
        yield Finding(name, "ok", "can be written")
    if policy.action != "report" and not policy.kind.needs_equal_bytes:
        for root in roots:
            # A file is put aside by renaming it, so on its own file system.
            probe = probes[root]
            if probe.is_folder and probe.device != _device(state_dir) and not probe.writable:
                yield _not_writable(f"quarantine in {shown(root)}", root, probe)


def _not_writable(name: str, folder: bytes, probe: Probe) -> Finding:
    if probe.read_only:
        remedy = "loractl service install --act, or mount it writable"
        return Finding(name, "problem", "it is read-only for this service", remedy)
    remedy = "run lorad as the owner of the files: loractl service install --act"
    return Finding(name, "problem", "the daemon's user may not write there", remedy)


def _device(folder: bytes | str) -> int | None:
    try:
        return os.stat(folder).st_dev
    except OSError:
        return None


def examine_places(roots: Sequence[bytes], action: str, grace: float) -> Iterator[Finding]:
    """Findings about folders that are there, and answer. `grace` in seconds."""
    mounts = read_mounts()
    places = [place for root in roots for place in _places(root, mounts)]
    yield from aliases(places, asks=action != "report")
    if action == "report":
        return
    yield from read_only(places, roots)
    yield from other_lorads(roots)
    if ACTIONS[action].needs_exchange:
        yield from exchange(places)
    if grace == 0 and ACTIONS[action].hides and not ACTIONS[action].quarantines:
        yield no_grace()


def _places(root: bytes, mounts: Sequence[Mount]) -> Iterator[_Place]:
    around = find(mounts, root)
    if around is not None:
        yield _Place(root, around, inner(around, root))
    for point, mount in inside(mounts, root).items():
        if os.path.isdir(point):
            yield _Place(point, mount, mount.root)


def aliases(places: Sequence[_Place], *, asks: bool) -> Iterator[Finding]:
    """Places that show the same files: bind mounts by the table of mounts, others by a probe if `asks`."""
    pairs = list(combinations(places, 2))
    for one, other in pairs:
        bound = one.mount.device == other.mount.device and one.mount.number != other.mount.number
        if bound and (is_inside(one.inner, other.inner) or is_inside(other.inner, one.inner)):
            yield _alias(one, other, "a bind mount")
    odd = [pair for pair in pairs if not all(is_plain(place.mount) for place in pair)]
    with closing(Aliases(Mounted())) as storages:
        for one, other in odd[:_PAIRS] if asks else ():
            answer = Alias.NO if one.mount.device == other.mount.device else storages.between(one.path, other.path)
            if answer is Alias.ONE:
                yield _alias(one, other, "what is made in one is seen in the other")
            elif answer is Alias.UNKNOWN:
                text = f"may show files of {shown(one.path)}, which is on another file system"
                remedy = "nothing is done by itself between the two; `loractl dedupe --apply` does it on request"
                yield Finding(f"folder {shown(other.path)}", "warning", text, remedy)


def _alias(one: _Place, other: _Place, why: str) -> Finding:
    return Finding(
        f"folder {shown(other.path)}",
        "warning",
        f"shows the same files as {shown(one.path)} ({why})",
        "watch one of the two only, or leave one out by [watch] exclude",
    )


def read_only(places: Sequence[_Place], roots: Sequence[bytes]) -> Iterator[Finding]:
    """Mounts in the roots that cannot be written to; of the roots themselves, more is said elsewhere."""
    for place in places:
        if place.path not in roots and access_error(place.path, os.W_OK) == errno.EROFS:
            remedy = "mount it for writing, or name it in a path-prefix of [dedupe] keep to have its files kept"
            text = "is read-only: its files are neither hidden, nor kept for others"
            yield Finding(f"folder {shown(place.path)}", "warning", text, remedy)


def exchange(places: Sequence[_Place]) -> Iterator[Finding]:
    """Whether a link can take a file's place at once, tried once a mount."""
    abilities, tried = Abilities(), set()
    for place in places:
        if place.mount.number not in tried:
            tried.add(place.mount.number)
            if abilities.exchange(place.path, statx(place.path), place.mount.kind):
                text = f"is on {shown(place.mount.kind)}, which cannot exchange two names at once, as a link needs"
                remedy = 'set [dedupe] action to "delete" or "quarantine"'
                yield Finding(f"folder {shown(place.path)}", "problem", text, remedy)


def other_lorads(roots: Sequence[bytes]) -> Iterator[Finding]:
    """Roots that another lorad acts in."""
    for root in roots:
        holder = holder_of(root)
        if holder is not None and not holder.ours:
            text, _, remedy = str(holder).partition("; ")
            yield Finding(f"folder {shown(root)}", "problem", f"is only reported on: {text}", remedy)


def no_grace() -> Finding:
    """What `grace = "0s"` means."""
    text = 'grace is "0s": what goes is removed at once, and comes back only by being made anew from a kept file'
    return Finding("grace", "warning", text, 'give it time to be missed: grace = "7d"')


def no_answer(name: str, folder: bytes) -> Finding:
    """A folder whose file system keeps everybody waiting."""
    mount = mount_of(timed_calls.led(folder))
    point = mount.point if mount else folder
    remedy = f"see after its server or program, or unmount it: umount -l {shown(point)}"
    return Finding(name, "problem", f"does not answer; it is on {kind_of(mount)}", remedy)


def mount_of(path: bytes) -> Mount | None:
    table = MountTable()
    try:
        return find(table.mounts, path)
    finally:
        table.close()


def kind_of(mount: Mount | None) -> str:
    return shown(mount.kind) if mount else "an unknown file system"
