"""What a policy makes of sets of duplicates: which files go, which is kept for them, what is left alone and why.

It does no I/O: it sees files as the catalogue has them and touches none; each is looked at again before anything
is done. What becomes of one set is decided in `sets`.

- An inode with several names is one file. It goes with all its names or not at all, a step for each; its bytes
  count once, with the last of them, for only then they are free. A reflink works on the inode: one step.
- A file that was changed less than `min_age` ago, or is not read to its end yet, does not go; where the rules keep
  such a file, its whole set waits.
- Files whose headers say another function are never acted on for each other. Where the configuration beside them
  does, they may share blocks or be links to each other, but each set of one function keeps a file of its own under
  all other actions.
- `reflink` and `hardlink` join what is equal byte for byte on one file system. A set may then keep a file for
  each of its byte contents and file systems; every other action keeps one of each function.
- An adapter folder goes as a whole, for another of the same files, or no file of it goes, unless its files stay
  where they are.
- Files whose blocks are shared already are left alone, whatever the action: nothing would be freed. What others
  share with files that stay is not counted.
"""

from __future__ import annotations

import builtins
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from posixpath import dirname, join  # `os` would be I/O, which no plan does
from typing import NamedTuple

from loracore.paths import shown
from lorad.blocks.usage import Room
from lorad.dedupe.policy import Policy
from lorad.dedupe.sets import UNREAD as UNREAD  # noqa: PLC0414 - reasons are read with plans
from lorad.dedupe.sets import YOUNG as YOUNG  # noqa: PLC0414
from lorad.dedupe.sets import Going, Judged, Skipped, is_young, judge
from lorad.library.keepers import Copy, has_final_name, is_inside

PART = "part of a folder"


class Folders(NamedTuple):
    """The weight files of each adapter folder, and in what one is not the same as another; empty where it is."""

    weights: Mapping[bytes, Collection[bytes]] = {}
    difference: Callable[[bytes, bytes], str] = lambda folder, kept: ""

    def of(self, path: bytes) -> bytes:
        """The adapter folder that a file is a part of; empty for none."""
        folder = dirname(path)
        return folder if path in self.weights.get(folder, ()) else b""


def go_whole(sets: Sequence[Judged], folders: Folders) -> list[bytes]:
    """The folders that go, none inside another. Parts of the others are left alone."""
    names = sorted(path for made in sets for copy in made.copies for path in (*copy.paths, *copy.links))
    reasons: dict[bytes, str] = {}
    again = bool(folders.weights)
    while again:
        going = {path: each for made in sets for each in made.going for path in each.copy.paths}
        parts = {folder for path in going if (folder := folders.of(path))}
        reasons = {folder: _why_not(folder, names, going, folders) for folder in parts}

        def why(each: Going, reasons: Mapping[bytes, str] = reasons) -> str:
            found = (reasons.get(folders.of(path), "") for path in each.copy.paths)
            return next(filter(None, found), "")

        # What stays for this may have names in other folders.
        again = sum(made.keep_back(why) for made in sets) > 0
    whole = [folder for folder, reason in sorted(reasons.items()) if not reason]
    return [one for one in whole if not any(one != other and is_inside(one, other) for other in whole)]


def by_folder(paths: Iterable[bytes], whole: Sequence[bytes]) -> dict[bytes, list[bytes]]:
    """These paths by the folder that goes with them; under an empty one those that go alone."""
    found: dict[bytes, list[bytes]] = defaultdict(list)
    known = frozenset(whole)
    for path in paths:
        found[next((folder for folder in _around(path) if folder in known), b"") if known else b""].append(path)
    return found


def _around(path: bytes) -> Iterator[bytes]:
    while path != b"/":
        path = dirname(path)
        yield path


def _why_not(folder: bytes, names: Sequence[bytes], going: Mapping[bytes, Going], folders: Folders) -> str:
    """Why a folder does not go; empty where it does, for another one. `names`: of all sets, sorted."""
    kept = b""
    inside = join(folder, b"")
    below = names[bisect_left(names, inside) : bisect_left(names, inside[:-1] + b"0")]
    for path in (*sorted(folders.weights[folder]), *below):
        if path not in going:
            return f"{PART}: {shown(path)} stays"
        twin, name = going[path].choice.path, path[len(folder) :]
        kept = kept or twin.removesuffix(name)
        if going[path].level != "file" or twin != kept + name or kept not in folders.weights:
            return f"{PART}: {shown(twin)} is not in a folder like it"
    if is_inside(kept, folder):
        return f"{PART}: what is kept lies in it"
    difference = folders.difference(folder, kept)
    return f"{PART}: {difference}" if difference else ""


NOT_NEW = "not new: left to `loractl dedupe --apply`"
MARKED = "the kept one has no final name: left to `loractl dedupe --apply`"


class Step(NamedTuple):
    """One name to be acted on. `why` completes the sentence: the kept one ….

    `bytes` is what it takes out of the library: for `quarantine`, the disk has it back only when that is emptied.
    `folder`: the adapter folder that goes as one, of whose weight files this is the first; mostly empty.
    """

    path: bytes
    kept: bytes
    level: str
    action: str
    bytes: int
    why: str
    gone: Copy
    keeper: Copy
    folder: builtins.bytes = b""


class Plan(NamedTuple):
    """Steps and what is skipped, both sorted by the kept file and the path.

    `due_ns`: when the next file comes of the age at which it may be acted on; None where none is too young.
    """

    action: str
    steps: list[Step]
    skipped: list[Skipped]
    bytes: int
    due_ns: int | None


_NO_FOLDERS = Folders()


def make_plan(
    sets: Iterable[Sequence[Copy]],
    policy: Policy,
    now_ns: int,
    folders: Folders = _NO_FOLDERS,
    newcomers: Collection[bytes] | None = None,
) -> Plan:
    """What the policy makes of all these sets. Their order, and that of the files in them, makes no difference.

    `newcomers`: only the steps in which one of these goes, by any of its names. Where the rules keep the newcomer,
    what was there before waits for a whole plan; so does a newcomer of a final name, where the kept one has none.
    """
    judged = [judge(copies, policy, now_ns) for copies in sets]
    if newcomers is not None:
        known = frozenset(newcomers)
        for each in judged:
            each.keep_back(lambda going: _why_asked(going, known))
    whole = go_whole(judged, folders) if policy.kind.goes_away else []
    steps = list(
        _whole([step for each in judged for step in _steps(each.going, each.copies, policy)], whole, folders)
    )
    skipped = [row for each in judged for row in each.skipped]
    steps.sort(key=_place)
    skipped.sort(key=_place)
    due = [
        copy.ctime_ns + policy.min_age_ns
        for each in judged
        for copy in each.copies
        if is_young(copy, policy, now_ns)
    ]
    return Plan(policy.action, steps, skipped, sum(step.bytes for step in steps), min(due, default=None))


def _place(row: Step | Skipped) -> tuple[bytes, bytes]:
    return row.kept, row.path


def _steps(going: list[Going], copies: Sequence[Copy], policy: Policy) -> Iterator[Step]:
    """A step for each name of what goes, of all these copies."""
    gone = {each.copy.paths for each in going}
    room = Room()
    for copy in copies:
        if copy.paths not in gone:
            room.add(copy.size, copy.extents)
    for copy, choice, level, why in sorted(going, key=lambda each: each.copy.paths):
        own = room.add(copy.size, copy.extents)
        names = copy.paths if policy.kind.hides else copy.paths[:1]
        for path in names:
            freed = own if path == names[-1] else 0
            yield Step(path, choice.path, level, policy.action, freed, why, copy, choice.kept)


def _why_asked(going: Going, newcomers: frozenset[bytes]) -> str:
    """Why a file goes only when that is asked for; empty where it goes by itself."""
    if newcomers.isdisjoint(going.copy.paths):
        return NOT_NEW
    return MARKED if has_final_name(going.copy) and not has_final_name(going.choice.kept) else ""


def _whole(steps: Sequence[Step], whole: Sequence[bytes], folders: Folders) -> Iterator[Step]:
    """The same steps, with one for each adapter folder that goes."""
    by_path = {step.path: step for step in steps}
    for folder, paths in by_folder(by_path, whole).items():
        if not folder:
            yield from map(by_path.__getitem__, paths)
            continue
        first = by_path[min(folders.weights[folder])]
        yield first._replace(bytes=sum(by_path[path].bytes for path in paths), folder=folder)
