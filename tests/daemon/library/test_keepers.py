"""Which file of a set is kept: the same one for all who ask, as SPEC section 5 words the rules."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loracore.policy import KEEP_RULES
from lorad.library.keepers import Copy, Rule, Rules, choose, has_final_name, is_marked, may_keep, name_of

MARKED = (
    "style-000010", "style-step00000500", "style-epoch3", "style_epoch_3", "style epoch-12", "epoch7",
    "style-step2",
    "style_step-40000", "stylestep9", "style (1)", "style (23)", "style copy", "style Copy", "style - Copy",
    "style - copy", "style copy 2", "style - Copy (2)", "style copy (13)", "style (given back)", "style~",
    "style.bak", "style.old", "style v2 (2)", "-000001",
)  # fmt: skip
UNMARKED = (
    "style", "style-00010", "style-0000010", "style000010", "style-20240131", "style-000010-final",
    "style-step500x",
    "style-step", "epoch", "style (a)", "style(1)", "style-copy", "stylecopy", "style COPY", "style copy2",
    "style copy - 2", "copy", "style (given back) x", "style~1", "style.bak2", "bak", "old", "style (1) x",
    "style-Epoch3", "style-１２３４５６", "xl-v1.0",
)  # fmt: skip


@pytest.mark.parametrize("stem", MARKED)
def test_a_name_of_a_copy_or_of_a_step_is_marked(stem: str) -> None:
    """SPEC 5, `final-name`: by the end of the stem alone, whatever the container."""
    for suffix in (".safetensors", ".pt"):
        assert is_marked(f"/models/{stem}{suffix}".encode())


@pytest.mark.parametrize("stem", UNMARKED)
def test_all_other_names_are_final(stem: str) -> None:
    """SPEC 5: marked or not, nothing between."""
    assert not is_marked(f"/models/{stem}.safetensors".encode())


def test_what_lies_in_a_checkpoint_is_marked() -> None:
    """SPEC 5: the parent folder is `checkpoint-` and a number, and no folder above it counts."""
    assert is_marked(b"/run/checkpoint-500/adapter_model.safetensors")
    for folder in ("checkpoint-500/x", "checkpoint-", "checkpoint-5a", "my-checkpoint-5", "checkpoint"):
        assert not is_marked(f"/run/{folder}/adapter_model.safetensors".encode())


def copy(*paths: str, **facts: object) -> Copy:
    given = {"dev": 1, "ino": 1, "size": 100, "mtime_ns": 0, "ctime_ns": 0, "residue": b"1", **facts}
    return Copy(tuple(sorted(path.encode() for path in paths)), **given)  # type: ignore[arg-type]


def rules(keep: str = "final-name most-metadata oldest shortest-path", scope: Sequence[bytes] = ()) -> Rules:
    kinds = (text.partition(":") for text in keep.split())
    return Rules(keep=tuple(Rule(kind, folder.encode()) for kind, _, folder in kinds), scope=tuple(scope))


def test_a_final_name_is_kept_before_an_older_file_with_more_metadata() -> None:
    """SPEC 5: the default order is `final-name, most-metadata, oldest, shortest-path`."""
    copies = [
        copy("/m/style-000009.pt", metadata=900), copy("/m/style (1).pt", mtime_ns=-5),
        copy("/m/style.pt", mtime_ns=9), copy("/m/a/style.pt", mtime_ns=9),
    ]  # fmt: skip
    found = choose(copies, rules())
    assert found.path == b"/m/style.pt"
    assert set(found.reasons.values()) == {"has a final name", "has a shorter path"}


def test_an_inode_has_a_final_name_if_one_of_its_names_is() -> None:
    """SPEC 5; and it is known by that one."""
    both = copy("/m/a-000001.pt", "/m/longer name.pt", mtime_ns=5)
    assert has_final_name(both)
    assert choose([copy("/m/b-000002.pt"), both], rules())[:2] == (both, b"/m/longer name.pt")
    assert not has_final_name(copy("/m/a-000001.pt", "/m/a~.pt"))


def test_a_read_only_file_is_not_kept_unless_a_rule_names_its_place() -> None:
    """SPEC 5, may keep: a rule for a folder around the read-only place does not name it."""
    frozen = copy("/m/snap/1/a.pt", read_only=((b"/m/snap/1/a.pt", b"/m/snap"),))
    other = copy("/m/b.pt", mtime_ns=9)
    for keep, kept in (
        ("oldest", other), ("path-prefix:/m oldest", other), ("path-prefix:/m/snap", frozen),
        ("path-prefix:/m/snap/1", frozen), ("path-prefix:/m/snap/2 oldest", other),
        ("newest path-prefix:/m/snap", other),
    ):  # fmt: skip
        assert choose([frozen, other], rules(keep)).kept is kept, keep
    assert not may_keep(frozen, rules("path-prefix:/m"))
    assert may_keep(frozen, rules("path-prefix:/m/snap/1"))


def test_a_name_that_can_be_written_makes_a_file_one_that_may_be_kept() -> None:
    """SPEC 5: the same file may lie on a read-only mount as well; it is known by the other name."""
    both = copy("/a/x.pt", "/long/name/x.pt", read_only=((b"/a/x.pt", b"/a"),))
    assert may_keep(both, rules())
    assert name_of(both, rules("shortest-path")) == b"/long/name/x.pt"


def test_memory_is_no_place_to_keep_what_lies_on_a_disk() -> None:
    """SPEC 5: whatever the rules say; among files in memory they decide as ever."""
    shm, disk = copy("/shm/a.pt", volatile=True), copy("/m/b-000001.pt", mtime_ns=9)
    for keep in ("path-prefix:/shm", "oldest", "final-name", "shortest-path"):
        assert choose([shm, disk], rules(keep)).kept is disk
    assert choose([shm, copy("/shm/b.pt", volatile=True, mtime_ns=-1)], rules("oldest")).path == b"/shm/b.pt"


def test_metadata_decide_from_some_hundred_characters_on() -> None:
    """A longer title makes no richer file."""
    old, new = copy("/a.pt", metadata=1000), copy("/b.pt", mtime_ns=5, metadata=1255)
    assert choose([old, new], rules()).kept is old
    assert choose([old, new._replace(metadata=1256)], rules()).path == b"/b.pt"


# Any set, any rules

FOLDERS = ("/m", "/m/checkpoint-5", "/m/snap", "/s")
STEMS = ("a", "b", "a-000004", "b (1)", "style copy", "a~")
NAMES = st.builds(
    lambda folder, stem: f"{folder}/{stem}.pt".encode(), st.sampled_from(FOLDERS), st.sampled_from(STEMS)
)
RULES = st.builds(
    Rules,
    keep=st.lists(
        st.sampled_from([*map(Rule, KEEP_RULES), *(Rule("path-prefix", folder.encode()) for folder in FOLDERS)]),
        max_size=5,
    ).map(tuple),
    scope=st.lists(st.sampled_from([b"/m", b"/s"]), max_size=1).map(tuple),
)


@st.composite
def sets(draw: st.DrawFn) -> list[Copy]:
    """Inodes with a few names each, no name twice."""
    names = draw(st.lists(NAMES, unique=True, min_size=1, max_size=10))
    copies = []
    while names:
        size = draw(st.integers(1, 3))
        paths, names = tuple(sorted(names[:size])), names[size:]
        frozen = draw(st.booleans())
        read_only = tuple((path, b"/m/snap") for path in paths if path.startswith(b"/m/snap/") and frozen)
        copies.append(
            Copy(
                paths, 1, len(copies), 100, draw(st.integers(0, 2)), 0, b"1", draw(st.sampled_from([0, 200, 400])),
                (b"/link",) if draw(st.integers(0, 9)) == 0 else (), None, draw(st.booleans()), read_only,
            )
        )  # fmt: skip
    return copies


def plainly(copies: Sequence[Copy], given: Rules) -> tuple[tuple[bytes, ...], bytes]:
    """An oracle: take out what loses, rule by rule; what is left at the end is kept."""

    def keepable(one: Copy) -> list[bytes]:
        frozen = dict(one.read_only)
        named = [rule.folder for rule in given.keep if rule.kind == "path-prefix" and rule.folder == b"/m/snap"]
        return [path for path in one.paths if path not in frozen or named] or list(one.paths)

    def prefer(left: list[Copy], good: Callable[[Copy], bool]) -> list[Copy]:
        return [one for one in left if good(one)] or left

    def apply(left: list[Copy], rule: Rule) -> list[Copy]:
        match rule.kind:
            case "path-prefix":
                return prefer(left, lambda one: any(p.startswith(rule.folder + b"/") for p in keepable(one)))
            case "final-name":
                return prefer(left, lambda one: not all(map(is_marked, keepable(one))))
            case "most-metadata":
                return [one for one in left if one.metadata > max(other.metadata for other in left) - 256]
            case "oldest":
                return [one for one in left if one.mtime_ns == min(other.mtime_ns for other in left)]
            case "newest":
                return [one for one in left if one.mtime_ns == max(other.mtime_ns for other in left)]
        length = min(len(path) for one in left for path in keepable(one))
        return [one for one in left if any(len(path) == length for path in keepable(one))]

    left = prefer(list(copies), lambda one: may_keep(one, given))
    left = prefer(left, lambda one: not one.volatile)
    waiting = list(given.keep)
    while waiting and waiting[0].kind == "path-prefix":
        left = apply(left, waiting.pop(0))
    covered = tuple(folder + b"/" for folder in given.scope) or (b"/",)
    left = prefer(left, lambda one: bool(one.links) or not all(path.startswith(covered) for path in one.paths))
    for rule in waiting:
        left = apply(left, rule)
    first = min(min(keepable(one)) for one in left)
    (kept,) = (one for one in left if first in one.paths)
    return kept.paths, first


@given(copies=sets(), given_rules=RULES, seed=st.integers(0, 99))
def test_the_rules_decide_in_their_order_and_the_path_last(
    copies: list[Copy], given_rules: Rules, seed: int
) -> None:
    """SPEC 5: one function decides; the order in which files come makes no difference."""
    found = choose(copies, given_rules)
    kept, _ = plainly(copies, given_rules)
    assert found.kept.paths == kept
    assert found.path in found.kept.paths
    assert found.reasons.keys() == {one.paths for one in copies} - {kept}
    shuffled = random.Random(seed).sample(copies, len(copies))
    assert choose(shuffled, given_rules) == found


@given(copies=sets(), given_rules=RULES)
def test_what_may_not_keep_is_kept_only_where_nothing_may(copies: list[Copy], given_rules: Rules) -> None:
    """SPEC 5, may keep."""
    kept = choose(copies, given_rules).kept
    assert may_keep(kept, given_rules) or not any(may_keep(one, given_rules) for one in copies)
    if kept.volatile:
        assert not any(may_keep(one, given_rules) for one in copies if not one.volatile)
