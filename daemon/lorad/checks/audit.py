"""Does the catalogue say what is on the disk, and do the JSON files say what is in the catalogue?

Nothing is changed and no file is opened: names and identities are compared. The daemon works on meanwhile,
so what differs is looked at again until it has either settled or differs still.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from itertools import accumulate, zip_longest

from loracore.causes import explained
from loracore.config import Watch
from loracore.control import PAGE_BYTES, Audited, Difference
from loracore.errors import StateError
from loracore.identity import UNKNOWN, Identity
from loracore.whole import regular
from lorad.catalog.views import Known, connect, names_known, read_snapshot
from lorad.dedupe.history import look
from lorad.index.records import is_under
from lorad.publish.model import Model
from lorad.publish.render import render
from lorad.watch import timed_calls
from lorad.watch.exclude import Exclude
from lorad.watch.scanner import Seen, walk

#: Seconds before each further look at what differs. The first is for what changed under our eyes, the others,
#: together longer than a file has to settle by default, for what has just changed.
_PAUSES = (0.3, 2.0, 4.0)
#: Names that are looked at again for one audit.
_TOLD = 1000
#: Seconds within which a file that changed is said not to have settled yet.
_YOUNG = 10.0
#: Bytes of a difference in an answer beside its texts, at most about.
_ROW = 48
_UPDATED = re.compile(rb'"updated": "[^"]*"')
#: As `lorad.dedupe.action.journal` names them.
_TEMPORARY = re.compile(rb"\.lorad-[0-9a-f]+-[0-9]+\.tmp")
_SET_ASIDE = (
    "set aside by an action that is not at its end: keep it, see history, bring its folder back and restart"
)
_AWAY = "its disk is not mounted, or another one over it: mount it, or unmount that; files of it that are known"


def audit(
    state_dir: str,
    watch: Watch,
    look_again: Callable[[bytes], None] = lambda path: None,
    *,
    sleep: Callable[[float], None] = time.sleep,
    room: int = PAGE_BYTES,
) -> Audited:
    """Compare all names that are watched with the catalogue in `state_dir`, and that with the JSON files.

    `look_again` is told of names whose file changed since it was read: of some changes, such as a hard link that
    was made elsewhere, no watch tells. `room`: bytes that the answer may have.

    The roots have no symbolic links. Raises OSError and sqlite3.Error where it cannot look.
    """
    files, disk = _compare_disk(state_dir, watch)
    views = compare_views(state_dir)
    told = {difference.path for difference in disk[:_TOLD] if difference.what == "changed"}
    for path in told:
        look_again(path)
    for number, pause in enumerate(_PAUSES):
        waits = views or any(_is_young(difference) or difference.path in told for difference in disk)
        if (not disk and not views) or (number and not waits):
            break
        sleep(pause)
        if disk:
            before = {difference.path for difference in disk}
            files, disk = _compare_disk(state_dir, watch)
            disk = [difference for difference in disk if difference.path in before]
        views = compare_views(state_dir)
    return _fitting(files, views + _undo(state_dir) + disk, room)


def _undo(state_dir: str) -> list[Difference]:
    """Actions that cannot be undone, as what they need is not there."""
    try:
        return [Difference(each.path, "undo", each.lacks) for each in look(state_dir) if each.lacks]
    except StateError as error:
        return [Difference(os.fsencode(state_dir), "undo", str(error))]


def _fitting(files: int, differences: list[Difference], room: int) -> Audited:
    """As many differences as an answer of this size holds."""
    sizes = accumulate(len(difference.path) + len(difference.text) + _ROW for difference in differences)
    count = sum(size <= room for size in sizes)
    return Audited(files, differences[:count], len(differences) - count)


def _compare_disk(state_dir: str, watch: Watch) -> tuple[int, list[Difference]]:
    """How many names there are, and what differs, sorted by path."""
    roots = list(map(os.fsencode, watch.roots))
    lost = {root: why for root in roots if (why := _why_lost(root))}
    there = [root for root in roots if root not in lost]
    # The disk first: what the daemon learns meanwhile can only be newer.
    state, exclude = os.fsencode(state_dir), Exclude(watch.exclude, roots)
    walked = walk(there, follow=watch.follow_symlinks, without=[state], exclude=exclude)
    names = {seen.path: seen for seen in walked}
    with closing(connect(state_dir)) as db:
        known = names_known(db)
    # What is in a folder that cannot be listed is not missing.
    unlisted = [path for path, seen in names.items() if seen.failed and seen.status is None]
    in_lost = is_under([*lost, *unlisted])
    away: Counter[bytes] = Counter()
    found = [Difference(root, "missing", f"this watched folder {why}") for root, why in lost.items()]
    found += leftovers(there)
    for path in sorted(names.keys() | known.keys()):
        if in_lost(path):
            continue
        with suppress(timed_calls.NoAnswer):
            if path not in names and (folder := _unmounted(path, known[path])) is not None:
                away[folder] += 1
                continue
            difference = compare(path, known.get(path), names.get(path))
            if difference is not None:
                found.append(difference)
    return len(names), found + [
        Difference(folder, "missing", f"{_AWAY}: {count:,}") for folder, count in away.items()
    ]


def _unmounted(path: bytes, known: Known) -> bytes | None:
    """The folder that is left on the way to a name whose disk is not there; None where that is not the reason.

    Raises NoAnswer.
    """
    folder = path
    while True:
        try:
            status = timed_calls.stat(folder, follow_symlinks=False)
        except timed_calls.NoAnswer:
            raise
        except OSError:
            folder = os.path.dirname(folder)
            continue
        return folder if known.identity.dev not in (0, status.st_dev) and folder != path else None


def _why_lost(root: bytes) -> str:
    """Why a root cannot be looked through; empty where it can."""
    try:
        return "" if timed_calls.is_folder(root) else "is not there"
    except timed_calls.NoAnswer:
        return "does not answer"


def leftovers(roots: Sequence[bytes]) -> list[Difference]:
    """What actions that were cut short have set aside: each may be the only copy of a file."""
    found: list[Difference] = []
    waiting = list(roots)
    while waiting:
        folder = waiting.pop()
        with suppress(OSError):
            for path, is_folder in timed_calls.do(folder, _contents, folder):
                if is_folder:
                    waiting.append(path)
                elif _TEMPORARY.fullmatch(os.path.basename(path)):
                    found.append(Difference(path, "leftover", _SET_ASIDE))
    return found


def _contents(folder: bytes) -> list[tuple[bytes, bool]]:
    """What is in a folder, and whether that is one."""
    with os.scandir(folder) as listing:
        return [(entry.path, entry.is_dir(follow_symlinks=False)) for entry in listing]


def compare(path: bytes, known: Known | None, seen: Seen | None) -> Difference | None:
    """One name in the catalogue and on the disk."""
    if seen is None:
        if timed_calls.do(path, os.path.lexists, path):
            return Difference(path, "stale", "in the catalogue, but left out or in no folder that is watched now")
        return Difference(path, "missing", "in the catalogue, not on the disk")
    if known is None:
        return Difference(path, "unknown", "on the disk, not in the catalogue" + _age(seen))
    if known.identity != _identity(seen):
        return Difference(path, "changed", "not the file that was read" + _age(seen))
    reason = seen.passed_over or None
    if known.passed_over != reason:
        return Difference(path, "stale", f"now {reason or 'to be read'}, was {known.passed_over or 'read'}")
    return None


def _identity(seen: Seen) -> Identity:
    return Identity.of(seen.status) if seen.status is not None else UNKNOWN


def _age(seen: Seen) -> str:
    if seen.status is None:
        return ""
    age = time.time() - max(seen.status.st_ctime, seen.status.st_mtime)
    return f" (changed {age:.0f} s ago, may not have settled yet)" if 0 <= age < _YOUNG else ""


def _is_young(difference: Difference) -> bool:
    try:
        status = timed_calls.stat(difference.path, follow_symlinks=False)
    except OSError:
        return False
    return 0 <= time.time() - max(status.st_ctime, status.st_mtime) < _YOUNG


def compare_views(state_dir: str) -> list[Difference]:
    """The JSON files against what the catalogue's present generation would have them say."""
    with closing(connect(state_dir)) as db:
        snapshot = read_snapshot(db)
    model = Model()
    model.update(snapshot, ())
    found = []
    for name, parts in render(model):
        path = os.path.join(state_dir, name)
        text = _differs(path, b"".join(parts), snapshot.generation)
        if text:
            found.append(Difference(os.fsencode(path), name, text))
    return found


def _differs(path: str, expected: bytes, generation: int) -> str:
    """How a file is not what it should be; empty where it is."""
    try:
        with open(path, "rb", opener=regular) as file:
            content = file.read()
    except OSError as error:
        return f"cannot be read: {explained(error)}"
    if _undated(content) == _undated(expected):
        return ""
    try:
        written = json.loads(content)["generation"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return f"is not a JSON file of lorad: {ascii(str(error))[1:-1][:200]}"
    if written != generation:
        return f"is of generation {written}, the catalogue is at {generation}"
    lines = zip_longest(_undated(content).splitlines(), _undated(expected).splitlines())
    wrong = next((number for number, (line, right) in enumerate(lines, 1) if line != right), 1)
    return f"line {wrong} is not what generation {generation} of the catalogue says"


def _undated(content: bytes) -> bytes:
    """A view without the moment when it was written."""
    return _UPDATED.sub(b"", content, count=1)
