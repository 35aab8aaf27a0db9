"""Plans: the rules decide who is kept, never all copies go, bytes count once (SPEC section 5)."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loracore.config import Dedupe
from loracore.policy import ACTIONS, KEEP_RULES
from lorad.blocks.usage import MOST, Extent, packed
from lorad.dedupe.action.registry import of_policy
from lorad.dedupe.plan import MARKED, NOT_NEW, Folders, Plan, Step, make_plan
from lorad.dedupe.policy import Policy
from lorad.dedupe.sets import Skipped
from lorad.library.keepers import Copy, Rule, choose, is_inside, is_marked
from tests.daemon.publish.plain import taken

NOW = 10**18
HOUR = 3600 * 10**9


def copy(*paths: str, ino: int = 0, content: bytes = b"1", **facts: object) -> Copy:
    """A file of 100 bytes that was changed at time 0; by default each name is an inode of its own."""
    given = {
        "dev": 1, "ino": ino or hash(paths), "size": 100, "mtime_ns": 0, "ctime_ns": 0, "residue": content,
        **facts,
    }  # fmt: skip
    return Copy(tuple(sorted(path.encode() for path in paths)), **given)  # type: ignore[arg-type]


def policy(action: str = "delete", keep: str = "", **settings: object) -> Policy:
    """`keep` as in the configuration, separated by spaces."""
    given = Dedupe(action=action, keep=tuple(keep.split()), **settings)  # type: ignore[arg-type]
    return Policy.of(given, str.encode)


def plan(copies: Sequence[Copy], rules: Policy) -> Plan:
    return make_plan([copies], rules, NOW)


def gone(made: Plan) -> dict[str, str]:
    """What goes, and for what."""
    return {step.path.decode(): step.kept.decode() for step in made.steps}


def reasons(made: Plan) -> dict[str, str]:
    return {row.path.decode(): row.reason for row in made.skipped}


@pytest.mark.parametrize(
    ("keep", "kept", "why"),
    [
        ("", "/a", "comes first by name"),
        ("oldest", "/old", "is older"),
        ("newest", "/new/with/a/long/name", "is newer"),
        ("shortest-path", "/a", "comes first by name"),
        ("most-metadata", "/rich", "has more metadata"),
        ("path-prefix:/new", "/new/with/a/long/name", "lies in /new"),
        ("path-prefix:/nowhere oldest", "/old", "is older"),
        ("most-metadata oldest", "/rich", "has more metadata"),
    ],
)
def test_rules_decide_which_is_kept(keep: str, kept: str, why: str) -> None:
    """The first rule that tells them apart does; what no rule decides, the name does."""
    copies = [
        copy("/a", mtime_ns=5),
        copy("/b", mtime_ns=5),
        copy("/old", mtime_ns=1),
        copy("/new/with/a/long/name", mtime_ns=9),
        copy("/rich", mtime_ns=5, metadata=1000),
    ]
    made = plan(copies, policy(keep=keep))
    assert set(gone(made).values()) == {kept}
    assert len(made.steps) == 4
    assert {step.why for step in made.steps} >= {why}


def test_each_step_says_the_rule_that_decided_it() -> None:
    copies = [copy("/a", mtime_ns=1, metadata=900), copy("/b", mtime_ns=2, metadata=900), copy("/c", mtime_ns=0)]
    made = plan(copies, policy(keep="most-metadata oldest"))
    assert {step.path: step.why for step in made.steps} == {b"/b": "is older", b"/c": "has more metadata"}


def test_a_longer_title_makes_no_richer_metadata() -> None:
    """A few bytes more do not decide; the next rule does."""
    copies = [copy("/a", mtime_ns=2, metadata=1255), copy("/b", mtime_ns=1, metadata=1000)]
    assert gone(plan(copies, policy(keep="most-metadata oldest"))) == {"/a": "/b"}


def test_a_folder_is_no_prefix_of_its_neighbours() -> None:
    assert gone(plan([copy("/keepers/a"), copy("/keep/b")], policy(keep="path-prefix:/keep"))) == {
        "/keepers/a": "/keep/b"
    }


def test_what_stays_anyway_is_kept_and_the_rest_goes() -> None:
    """Outside the scope nothing goes, so one of those is kept, unless a path-prefix in front says otherwise."""
    copies = [copy("/in/a", mtime_ns=1), copy("/out/b", mtime_ns=2), copy("/in/c", mtime_ns=3)]
    made = plan(copies, policy(keep="oldest", scope=("/in",)))
    assert gone(made) == {"/in/a": "/out/b", "/in/c": "/out/b"}
    assert {step.why for step in made.steps} == {"may not be changed"}
    made = plan(copies, policy(keep="path-prefix:/in oldest", scope=("/in",)))
    assert gone(made) == {"/in/c": "/in/a"}
    assert reasons(made) == {"/out/b": "not in scope"}


@pytest.mark.parametrize("keep", ["", "oldest", "path-prefix:/shm", "shortest-path"])
def test_what_lies_in_memory_is_never_kept_for_what_lies_on_a_disk(keep: str) -> None:
    """Whatever the rules and the scope say: a restart would lose the only copy."""
    copies = [copy("/shm/a", dev=2, volatile=True), copy("/models/long/b", mtime_ns=5), copy("/models/long/c")]
    made = plan(copies, policy(keep=keep))
    assert set(gone(made).values()) < {"/models/long/b", "/models/long/c"}
    assert "/shm/a" in gone(made)
    assert {step.why for step in made.steps if step.path == b"/shm/a"} == {"lies on a disk, not in memory"}
    assert not gone(plan(copies[:2], policy(keep=keep, scope=("/models",))))
    both = [copy("/shm/a", volatile=True), copy("/shm/b", volatile=True)]
    assert gone(plan(both, policy())) == {"/shm/b": "/shm/a"}


def test_young_files_do_not_go_and_where_one_is_kept_the_others_wait() -> None:
    """They may still be moved about; when the next of them comes of age is said."""
    copies = [copy("/a"), copy("/b"), copy("/young", ctime_ns=NOW - HOUR)]
    made = plan(copies, policy(min_age=7200))
    assert gone(made) == {"/b": "/a"}
    assert reasons(made) == {"/young": "younger than min_age"}
    assert made.due_ns == NOW + HOUR
    made = plan(copies, policy(keep="path-prefix:/young", min_age=7200))
    assert gone(made) == {}
    assert reasons(made) == dict.fromkeys(("/a", "/b"), "the kept one is younger than min_age")
    assert gone(plan(copies, policy(keep="path-prefix:/young", min_age=3600))) == {"/a": "/young", "/b": "/young"}


def test_files_that_are_still_read_wait() -> None:
    """What is not read to its end does not go, nor does anything for it, or before its header is known."""
    made = plan([copy("/a"), copy("/b", residue=None), copy("/c")], policy())
    assert gone(made) == {"/c": "/a"}
    assert reasons(made) == {"/b": "not read to its end yet"}
    made = plan([copy("/a", residue=None), copy("/b")], policy())
    assert reasons(made) == {"/b": "the kept one is not read to its end yet"}
    made = plan([copy("/a"), copy("/b"), copy("/c", function=b"")], policy())
    assert made.steps == []


def test_what_is_read_only_does_not_go() -> None:
    """SPEC 5: a plan tells what will be refused; where nothing may be kept, nothing goes."""
    frozen = [copy(f"/snap/{name}", read_only=((f"/snap/{name}".encode(), b"/snap"),)) for name in "ab"]
    made = plan([*frozen, copy("/long/c"), copy("/long/d")], policy())
    assert gone(made) == {"/long/d": "/long/c"}
    assert reasons(made) == dict.fromkeys(("/snap/a", "/snap/b"), "on a read-only file system")
    assert plan(frozen, policy()).steps == []
    made = plan([*frozen, copy("/long/c")], policy(keep="path-prefix:/snap"))
    assert gone(made) == {"/long/c": "/snap/a"}
    both = copy("/snap/e", "/x/e", read_only=((b"/snap/e", b"/snap"),))
    assert reasons(plan([copy("/a"), both], policy()))["/x/e"] == "on a read-only file system: its name /snap/e"


@pytest.mark.parametrize("action", ACTIONS)
def test_another_function_by_the_header_is_never_acted_on(action: str) -> None:
    """SPEC 5: files whose headers say another function keep one each, whichever the action."""
    copies = [
        copy("/a", content=b"1"), copy("/b", content=b"1"),
        copy("/c", content=b"2", function=b"f"), copy("/d", content=b"2", function=b"f"),
    ]  # fmt: skip
    made = plan(copies, policy(action))
    assert gone(made) == {"/b": "/a", "/d": "/c"}
    assert reasons(made) == {"/c": "its header says another function"}


@pytest.mark.parametrize("action", ACTIONS)
def test_another_function_by_the_configuration_is_acted_on_in_place_alone(action: str) -> None:
    """SPEC 5: a link or shared blocks leave each file beside its own `adapter_config.json`."""
    copies = [copy("/a"), copy("/x/b", configs=((b"/x/b", b"c"),)), copy("/y/b", configs=((b"/y/b", b"c"),))]
    made = plan(copies, policy(action))
    if of_policy(action).links:
        assert gone(made) == {"/x/b": "/a", "/y/b": "/a"}
    else:
        assert gone(made) == {"/y/b": "/x/b"}
        assert reasons(made) == {"/x/b": "its adapter_config.json says another function"}


def test_a_file_of_two_functions_by_its_names_stands_for_none() -> None:
    """SPEC 5: one name of it beside a configuration that says something, another one beside none."""
    both = [copy(f"/{name}", f"/x/{name}", configs=((f"/x/{name}".encode(), b"c"),)) for name in "ab"]
    made = plan([copy("/c"), *both], policy(keep="path-prefix:/c"))
    assert gone(made) == {}
    assert gone(plan([copy("/c"), *both], policy("symlink", "path-prefix:/c"))).keys() == {
        "/a",
        "/x/a",
        "/b",
        "/x/b",
    }


def adapters(*names: str, weights: Sequence[str] = ("s-1", "s-2"), **facts: object) -> list[list[Copy]]:
    """Adapter folders of these names with the same weight files; a set for each of those."""
    return [[copy(f"/{name}/{file}", content=file.encode(), **facts) for name in names] for file in weights]


def folders(*names: str, difference: str = "") -> Folders:
    weights = {f"/{name}".encode(): [f"/{name}/{file}".encode() for file in ("s-1", "s-2")] for name in names}
    return Folders(weights, lambda folder, kept: difference)


def test_an_adapter_folder_goes_as_a_whole() -> None:
    """SPEC 5: in one step, for a folder in which all is the same; links in place are made file by file."""
    sets = adapters("f", "g", "h")
    for action in [action for action in ACTIONS if of_policy(action).goes_away]:
        made = make_plan(sets, policy(action), NOW, folders("f", "g", "h"))
        assert [(step.folder, step.path, step.kept, step.bytes) for step in made.steps] == [
            (b"/g", b"/g/s-1", b"/f/s-1", 200), (b"/h", b"/h/s-1", b"/f/s-1", 200),
        ]  # fmt: skip
        assert made.bytes == 400
    made = make_plan(sets, policy("symlink"), NOW, folders("f", "g", "h"))
    assert [step.folder for step in made.steps] == [b""] * 4


def test_a_part_of_an_adapter_folder_does_not_go_alone() -> None:
    """SPEC 5: refused by name, whatever it is that is not the same."""
    one, two = adapters("f", "g")
    all_parts = folders("f", "g")
    for sets, parts, why in (
        ([one], all_parts, "/g/s-2 stays"),
        ([one, two], folders("g"), "/f/s-1 is not in a folder like it"),
        ([one, [two[0]._replace(mtime_ns=5), two[1]]], all_parts, "/f/s-1 stays"),
        ([one, two], folders("f", "g", difference="/g/README.md differs"), "/g/README.md differs"),
        ([one, [two[0], two[1]._replace(residue=b"x")]], all_parts, "/f/s-2 is not in a folder like it"),
    ):
        made = make_plan(sets, policy(keep="oldest"), NOW, parts)
        assert made.steps == []
        assert f"part of a folder: {why}" in {row.reason for row in made.skipped}, why


def test_what_another_folder_needs_does_not_go() -> None:
    """SPEC 5: a file with names in two folders goes only where both go."""
    shared = copy("/g/s-1", "/h/s-1", content=b"s-1")
    sets = [
        [copy("/f/s-1", content=b"s-1"), shared],
        [copy("/f/s-2", content=b"s-2"), copy("/g/s-2", content=b"s-2")],
    ]
    assert make_plan(sets, policy(), NOW, folders("f", "g", "h")).steps == []


def test_an_inode_with_several_names_is_one_file() -> None:
    """It goes with all its names, and its bytes count with the last of them; a reflink works on it at once."""
    copies = [copy("/a"), copy("/x", "/y", "/z")]
    made = plan(copies, policy("symlink"))
    assert [(step.path, step.bytes) for step in made.steps] == [(b"/x", 0), (b"/y", 0), (b"/z", 100)]
    made = plan(copies, policy("reflink"))
    assert [(step.path, step.bytes) for step in made.steps] == [(b"/x", 100)]
    made = plan(copies, policy(scope=("/a", "/x", "/y"), keep="path-prefix:/a"))
    assert made.steps == []
    assert reasons(made)["/x"] == "not in scope: its name /z"


def test_names_of_one_inode_are_left_alone() -> None:
    """There is nothing to save, whichever the action."""
    for action in ACTIONS:
        made = plan([copy("/long/name", "/a", residue=None)], policy(action, "shortest-path"))
        assert made.steps == []
        assert made.skipped == [Skipped(b"/long/name", b"/a", "inode", "same inode already")]


def test_links_need_equal_bytes_on_one_file_system() -> None:
    """A set keeps a file of each content and file system, and joins the others to those."""
    copies = [
        copy("/a"), copy("/b"), copy("/c", content=b"2"), copy("/d", content=b"2"),
        copy("/m/e", dev=2), copy("/m/f", dev=2),
    ]  # fmt: skip
    for action in ("hardlink", "reflink"):
        made = plan(copies, policy(action))
        assert gone(made) == {"/b": "/a", "/d": "/c", "/m/f": "/m/e"}
        assert reasons(made) == {
            "/c": f"level tensors: {action} is for level file only",
            "/m/e": "on another file system",
        }
    assert len(plan(copies, policy("symlink")).steps) == 5


def test_levels_limit_what_goes() -> None:
    copies = [copy("/a"), copy("/b"), copy("/c", content=b"2"), copy("/d", content=b"2")]
    made = plan(copies, policy(levels=("file",)))
    assert gone(made) == {"/b": "/a", "/d": "/c"}
    assert reasons(made) == {"/c": "level tensors is not in levels"}
    made = plan(copies, policy(levels=("tensors",)))
    assert gone(made) == {"/c": "/a", "/d": "/a"}
    assert reasons(made) == {"/b": "level file is not in levels"}


def at(*places: int, most: int = MOST) -> bytes:
    """The extents of a file of 100 bytes, in as many pieces of equal length as there are places."""
    length = 100 // len(places)
    extents = (Extent(number * length, length, place - number * length) for number, place in enumerate(places))
    return packed(1, 100, extents, most)


def test_blocks_that_are_shared_are_not_freed_again() -> None:
    copies = [copy("/a", extents=at(1000)), copy("/b", extents=at(1000)), copy("/c", extents=at(2000)), copy("/d")]
    for action in ACTIONS:
        made = plan(copies, policy(action))
        assert gone(made).keys() == {"/c", "/d"}
        assert reasons(made) == {"/b": "shares its blocks already"}


def test_blocks_are_free_when_nobody_has_them_any_more() -> None:
    """Half of a file is shared with the kept one; two that share with each other free their blocks together."""
    copies = [
        copy("/a", extents=at(1000, 1050)), copy("/b", extents=at(3000, 1050)),
        copy("/c", extents=at(2000)), copy("/d", extents=at(2000)),
    ]  # fmt: skip
    made = plan(copies, policy())
    assert {step.path: step.bytes for step in made.steps} == {b"/b": 50, b"/c": 100, b"/d": 0}
    made = plan(copies, policy(scope=("/a", "/b", "/c")))
    assert {step.path: step.bytes for step in made.steps} == {b"/a": 100, b"/b": 50}
    assert reasons(made) == {"/c": "shares its blocks already"}


def test_symbolic_links_are_no_names_of_a_file() -> None:
    """What is seen through one may be kept by its own name; it does not go, and one without a name is left out."""
    copies = [copy("/b", links=(b"/a",)), copy("/c"), copy(links=(b"/d",))]
    made = plan(copies, policy())
    assert gone(made) == {"/c": "/b"}
    assert reasons(made) == {"/a": "same inode already", "/d": "seen through a symbolic link"}
    made = plan(copies, policy(keep="path-prefix:/c"))
    assert made.steps == []


def test_by_itself_only_a_newcomer_goes() -> None:
    """SPEC 5: where the rules would keep the newcomer, the older file waits for `dedupe --apply`."""
    copies = [copy("/a", mtime_ns=2), copy("/b", mtime_ns=3), copy("/new", mtime_ns=4)]
    made = make_plan([copies], policy(keep="oldest"), NOW, newcomers=[b"/new"])
    assert (gone(made), made.bytes) == ({"/new": "/a"}, 100)
    assert reasons(made) == {"/b": NOT_NEW}
    made = make_plan([copies], policy(keep="newest"), NOW, newcomers=[b"/new"])
    assert gone(made) == {}
    assert reasons(made) == {"/a": NOT_NEW, "/b": NOT_NEW}
    assert make_plan([copies], policy(), NOW, newcomers=[b"/elsewhere"]).steps == []


def test_for_a_marked_name_no_final_one_goes_by_itself() -> None:
    """SPEC 5: a finished file is not taken away for a step on the way to it; asked for, it is."""
    copies = [
        copy("/style-000010.pt", mtime_ns=1),
        copy("/style.pt", mtime_ns=2),
        copy("/style (1).pt", mtime_ns=3),
    ]
    rules = policy(keep="oldest")
    made = make_plan([copies], rules, NOW, newcomers=[b"/style.pt", b"/style (1).pt"])
    assert gone(made) == {"/style (1).pt": "/style-000010.pt"}
    assert reasons(made) == {"/style.pt": MARKED}
    assert gone(plan(copies, rules)).keys() == {"/style.pt", "/style (1).pt"}


# Any library, any policy

FOLDERS = ("/r/keep", "/r/in", "/s/out", "/s")
NAMES = st.tuples(st.sampled_from(FOLDERS), st.integers(0, 30), st.sampled_from(["", " (1)"])).map(
    lambda parts: f"{parts[0]}/{parts[1]}{parts[2]}".encode()
)
TIMES = st.integers(0, 3).map(lambda hours: NOW - hours * HOUR)


#: Where the files of each set may lie, and which of these are in so many pieces that only a digest is kept.
LYING = [
    (at(*(10_000 * number + place for place in places), most=most), number)
    for number in range(24)
    for places, most in (
        ((1000,), MOST), ((1000, 5000), MOST), ((7000,), MOST), ((1000, 5000), 1), ((1000, 6000), 1),
    )
]  # fmt: skip
DIGESTS = {extents for extents, _ in LYING if extents.startswith(b"d")}


@st.composite
def libraries(draw: st.DrawFn) -> list[list[Copy]]:
    """Sets of inodes with a few names each; no name twice, and no block in two sets."""
    names = iter(draw(st.lists(NAMES, unique=True, min_size=2, max_size=24)))
    sets: list[list[Copy]] = []
    number = 0
    frozen = draw(st.integers(0, 3)) == 0
    while True:
        copies: list[Copy] = []
        lying = [None, None, *(extents for extents, in_set in LYING if in_set == len(sets))]
        for _ in range(draw(st.integers(1, 6))):
            paths = [name for _, name in zip(range(draw(st.integers(1, 3))), names, strict=False)]
            if not paths:
                break
            number += 1
            content = draw(st.sampled_from([b"1", b"2", None]))
            copies.append(
                Copy(
                    tuple(sorted(paths)),
                    dev=draw(st.integers(1, 2)),
                    ino=number,
                    size=100 + len(content or b""),
                    mtime_ns=draw(TIMES),
                    ctime_ns=draw(TIMES),
                    residue=content,
                    metadata=draw(st.sampled_from([0, 250, 500])),
                    function=draw(st.sampled_from([None, None, b"f"])),
                    configs=tuple((path, b"c") for path in sorted(paths) if draw(st.integers(0, 5)) == 0),
                    read_only=tuple((path, b"/s") for path in sorted(paths) if path.startswith(b"/s") and frozen),
                    volatile=draw(st.integers(0, 5)) == 0,
                    extents=draw(st.sampled_from(lying)),
                )
            )
        if not copies:
            return sets
        sets.append(copies)


POLICIES = st.builds(
    Policy,
    action=st.sampled_from(ACTIONS),
    levels=st.sampled_from([("file",), ("file", "tensors"), ("tensors",)]),
    keep=st.lists(
        st.sampled_from(
            [*map(Rule, KEEP_RULES),
             Rule("path-prefix", b"/r/keep"), Rule("path-prefix", b"/s")]
        ),
        max_size=4,
    ).map(tuple),
    scope=st.lists(st.sampled_from([b"/r", b"/r/in", b"/s/out"]), max_size=2).map(tuple),
    min_age_ns=st.sampled_from([0, HOUR, 2 * HOUR]),
)  # fmt: skip


def saved(sets: list[list[Copy]], steps: Sequence[Step]) -> int:
    """An oracle: carry the steps out on a dict of names, and see what is no longer held by any."""
    held = {path: copy for copies in sets for copy in copies for path in copy.paths}
    before = {copy.ino: copy for copy in held.values()}
    shared = set()
    for step in steps:
        assert step.path in held
        if step.action == "reflink":
            shared.add(held[step.path].ino)
        else:
            del held[step.path]
    left = {copy.ino for copy in held.values()} - shared
    return taken(before.values()) - taken(copy for ino, copy in before.items() if ino in left)


@given(sets=libraries(), rules=POLICIES)
def test_a_plan_keeps_one_of_everything(sets: list[list[Copy]], rules: Policy) -> None:
    """Of each set, and for links of each content, a file stays; each step's kept file is one that stays."""
    made = make_plan(sets, rules, NOW)
    gone = {step.path for step in made.steps}
    assert len(gone) == len(made.steps)
    for copies in sets:
        for content in {copy.residue for copy in copies} if rules.action in ("hardlink", "reflink") else {None}:
            alike = [copy for copy in copies if content is None or copy.residue == content]
            assert any(not gone & set(copy.paths) for copy in alike)
        for function in {copy.function for copy in copies}:
            assert any(not gone & set(copy.paths) for copy in copies if copy.function == function)
        for path in choose(copies, rules).kept.paths:
            assert path not in gone, "what the JSON files say is kept"
    by_name = {
        path: (number, copy) for number, copies in enumerate(sets) for copy in copies for path in copy.paths
    }
    for step in made.steps:
        (number, file), (kept_number, kept) = by_name[step.path], by_name[step.kept]
        assert number == kept_number
        assert (file, kept) == (step.gone, step.keeper)
        assert not gone & set(kept.paths)
        assert file.function == kept.function
        if not rules.kind.links:
            assert file.functions == kept.functions
        if rules.action != "report":
            assert not file.read_only
            assert file.volatile or not kept.volatile
        same_bytes = (file.residue, file.size) == (kept.residue, kept.size)
        assert step.level == ("file" if same_bytes else "tensors")
        assert step.level in rules.levels
        if rules.action in ("hardlink", "reflink"):
            assert same_bytes
            assert file.dev == kept.dev


@given(sets=libraries(), rules=POLICIES)
def test_bytes_count_once(sets: list[list[Copy]], rules: Policy) -> None:
    """The sum is that of the blocks that no name holds when all is done."""
    made = make_plan(sets, rules, NOW)
    assert made.bytes == sum(step.bytes for step in made.steps) == saved(sets, made.steps)


@given(sets=libraries(), rules=POLICIES)
def test_only_what_may_be_changed_is_changed(sets: list[list[Copy]], rules: Policy) -> None:
    """In scope by all names, and of age; and every other name is accounted for."""
    made = make_plan(sets, rules, NOW)
    for step in made.steps:
        for path in step.gone.paths:
            assert not rules.scope or any(is_inside(path, folder) for folder in rules.scope)
        assert NOW - step.gone.ctime_ns >= rules.min_age_ns
    listed = {row.path for row in (*made.steps, *made.skipped)}
    kept = {row.kept for row in (*made.steps, *made.skipped)}
    if rules.action != "reflink":
        several = [copies for copies in sets if len(copies) > 1]
        missing = {path for copies in several for copy in copies for path in copy.paths} - listed - kept
        assert all(len([c for c in copies if missing & set(c.paths)]) <= 1 for copies in several)


@given(sets=libraries(), rules=POLICIES, seed=st.integers(0, 99))
def test_a_plan_does_not_depend_on_the_order(sets: list[list[Copy]], rules: Policy, seed: int) -> None:
    shuffled = [random.Random(seed).sample(copies, len(copies)) for copies in sets]
    random.Random(seed).shuffle(shuffled)
    assert make_plan(shuffled, rules, NOW) == make_plan(sets, rules, NOW)


@given(sets=libraries(), rules=POLICIES, which=st.integers(0, 99))
def test_a_newcomers_plan_is_a_part_of_the_whole(sets: list[list[Copy]], rules: Policy, which: int) -> None:
    """Nothing is done for a newcomer that `dedupe --apply` would not do."""
    names = [path for copies in sets for copy in copies for path in copy.paths]
    newcomer = names[which % len(names)]
    whole, part = make_plan(sets, rules, NOW), make_plan(sets, rules, NOW, newcomers=[newcomer])
    expected = [
        step
        for step in whole.steps
        if newcomer in step.gone.paths
        and (all(map(is_marked, step.gone.paths)) or not all(map(is_marked, step.keeper.paths)))
    ]
    # Blocks that it shares with others that stay are not freed.
    assert [step._replace(bytes=0) for step in part.steps] == [step._replace(bytes=0) for step in expected]
    assert {row.path for row in part.skipped} >= {row.path for row in whole.skipped}
