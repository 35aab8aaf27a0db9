"""What is true about a corpus: which files are duplicates, and how little must be read to know it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

#: What it takes to tell a file from the others of its layout, at most: four samples of 4 KiB (SPEC.md, 2).
SAMPLES = 16 << 10


@dataclass(frozen=True)
class Member:
    """One file of a corpus. Equal `layout`, `weights` and `content` mean equal layouts, layers and bytes.

    `header` and `data` are in bytes and sum up to the file's size. `late` is how many bytes of layers lie
    before and in the first one that differs from the file's nearest relative, in the order on disk; 0 for a
    file whose samples tell it apart.
    """

    path: str
    layout: str
    weights: str
    content: str
    header: int
    data: int
    late: int = 0


@dataclass(frozen=True)
class Truth:
    """A corpus and what a tool that makes no mistake says about it. Sets hold absolute paths, sorted."""

    name: str
    folder: str
    members: tuple[Member, ...]
    file_sets: tuple[tuple[str, ...], ...]
    tensor_sets: tuple[tuple[str, ...], ...]
    lower_bound: int

    @property
    def bytes_total(self) -> int:
        return sum(member.header + member.data for member in self.members)

    @property
    def duplicates(self) -> int:
        """How many files could go: all but one of every set."""
        return sum(len(paths) - 1 for paths in self.tensor_sets)


@dataclass(frozen=True)
class Score:
    """How a tool's sets compare: duplicates found, missed, and files put together that are not the same."""

    found: int
    missed: int
    wrong: int


def truth_of(name: str, folder: str, members: Iterable[Member]) -> Truth:
    ordered = tuple(sorted(members, key=lambda member: member.path))
    return Truth(
        name=name,
        folder=folder,
        members=ordered,
        file_sets=_sets((member.content, member.path) for member in ordered),
        tensor_sets=_sets((f"{member.layout} {member.weights}", member.path) for member in ordered),
        lower_bound=lower_bound(ordered),
    )


def lower_bound(members: Iterable[Member]) -> int:
    """Bytes that must be read: the headers, duplicates once, a little of the rest (SPEC.md, section 2.5)."""
    layouts: dict[str, dict[str, list[Member]]] = defaultdict(lambda: defaultdict(list))
    total = 0
    for member in members:
        total += member.header
        layouts[member.layout][member.weights].append(member)
    for by_weights in layouts.values():
        alone = len(by_weights) == 1
        for same in by_weights.values():
            if len(same) > 1:
                total += sum(member.data for member in same)
            elif not alone:
                total += min(same[0].data, SAMPLES + same[0].late)
    return total


def score(truth: Truth, reported: Iterable[Iterable[str]]) -> Score:
    """Compare a tool's sets of equal files with the truth, leaving files that are no LoRAs out of account."""
    owner = {member.path: (member.layout, member.weights) for member in truth.members}
    found = wrong = 0
    for paths in reported:
        counts: dict[tuple[str, str], int] = defaultdict(int)
        for path in set(paths) & owner.keys():
            counts[owner[path]] += 1
        found += sum(count - 1 for count in counts.values())
        wrong += max(0, len(counts) - 1)
    return Score(found, truth.duplicates - found, wrong)


def _sets(keyed: Iterable[tuple[str, str]]) -> tuple[tuple[str, ...], ...]:
    paths: dict[str, list[str]] = defaultdict(list)
    for key, path in keyed:
        paths[key].append(path)
    return tuple(sorted(tuple(sorted(same)) for same in paths.values() if len(same) > 1))
