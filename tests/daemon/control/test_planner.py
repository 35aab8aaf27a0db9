"""Plans over the protocol: by the running configuration and what a request puts in its place (SPEC section 5)."""

from __future__ import annotations

import os
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from loracore import config
from loracore.control import (
    Applied,
    ApplyDedupe,
    GetSavings,
    History,
    ListHistory,
    PlanDedupe,
    Planned,
    Refusal,
    Savings,
    UndoActions,
    Undone,
)
from lorad.control import pages
from lorad.control.queries import Queries
from lorad.dedupe.plan import Plan
from tests.builders.weights import random_weights
from tests.builders.write import library_order, write_safetensors
from tests.daemon.control.acting import Acts, entry
from tests.daemon.control.serving import ODD, SECONDS, SPECS, Library, Line, Served, serving
from tests.integration.scanning import scan, view


@pytest.fixture
def queries(library: Library) -> Iterator[Queries]:
    made = Queries(str(library.state))
    yield made
    made.close()


def settings(library: Library, **dedupe: Any) -> config.Config:
    return config.Config(watch=config.Watch(roots=(str(library.folder),)), dedupe=config.Dedupe(**dedupe))


def plan(queries: Queries, *given: Any) -> Planned:
    answer = queries.answer(PlanDedupe(*given))
    assert isinstance(answer, msgspec.Raw), answer
    return msgspec.msgpack.decode(answer, type=Planned)


def gone(answer: Planned) -> dict[bytes, bytes]:
    return {os.path.basename(step.path): os.path.basename(step.kept) for step in answer.steps}


def test_a_plan_is_of_the_sets_of_duplicates_json(queries: Queries, library: Library) -> None:
    """By default all that wastes bytes is named, with as many of them, and nothing is to be changed."""
    queries.planner.use(settings(library))
    answer = plan(queries)
    assert answer.action == "report"
    assert answer.complete
    written = view(library.state, "duplicates")
    assert answer.bytes == written["wasted_bytes"]
    assert {os.fsdecode(step.path): step.level for step in answer.steps} == {
        path: level for path, level in written["levels"].items() if level != "inode"
    }
    assert [(os.path.basename(one.path), one.reason) for one in answer.skipped] == [
        (b"e.safetensors", "same inode already")
    ]


def test_a_request_stands_in_place_of_the_configuration(queries: Queries, library: Library) -> None:
    """Action, levels and rules; the scope stays that of the configuration."""
    folder = os.fsencode(library.folder)
    queries.planner.use(settings(library, action="symlink", keep=("oldest",)))
    assert gone(plan(queries)) == dict.fromkeys((b"b.safetensors", b"c.safetensors", ODD), b"a.safetensors")
    assert gone(plan(queries, "hardlink", [b"path-prefix:" + folder + b"/" + ODD])) == {
        b"a.safetensors": ODD,
        b"b.safetensors": ODD,
    }
    assert gone(plan(queries, "", [], ["tensors"])) == {b"c.safetensors": b"a.safetensors"}
    queries.planner.use(settings(library, action="delete", scope=(str(library.folder / "none"),)))
    answer = plan(queries, "symlink")
    assert (answer.action, answer.steps) == ("symlink", [])


def test_folders_of_the_policy_may_be_symbolic_links(queries: Queries, library: Library, tmp_path: Path) -> None:
    """The daemon knows files by where they are."""
    link = tmp_path / "link"
    link.symlink_to(library.folder)
    queries.planner.use(settings(library, scope=(str(link),), keep=(f"path-prefix:{link}/b.safetensors",)))
    assert set(gone(plan(queries)).values()) == {b"b.safetensors"}


@pytest.mark.parametrize(
    ("given", "word"),
    [
        (("burn",), 'action: expected "report"'),
        (("", [b"best"]), "keep, item 1: expected"),
        (("", [b"path-prefix:relative"]), "keep, item 1: expected"),
        (("", [b"path-prefix:/a\0b"]), "keep, item 1: expected"),
        (("", [b"oldest"] * 65), "at most 64"),
        (("", [], ["inode"]), "levels, item 1: expected"),
        (("hardlink", [], ["tensors"]), "byte for byte"),
        (("", [], [], "x"), "cursor"),
    ],
)
def test_what_cannot_be_planned_is_refused(queries: Queries, given: tuple[Any, ...], word: str) -> None:
    answer = queries.answer(PlanDedupe(*given))
    assert isinstance(answer, Refusal)
    assert answer.code == "malformed"
    assert word in answer.text


def test_pages_make_up_the_whole_plan(queries: Queries, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = plan(queries, "symlink")
    monkeypatch.setattr(pages, "PAGE_BYTES", 10)
    parts = [plan(queries, "symlink")]
    while parts[-1].cursor:
        parts.append(plan(queries, "symlink", [], [], parts[-1].cursor))
    assert len(parts) == len(whole.steps) + len(whole.skipped)
    assert [step for part in parts for step in part.steps] == whole.steps
    assert sum(part.bytes for part in parts) == whole.bytes


def test_most_metadata_does_not_count_what_the_order_costs(tmp_path: Path) -> None:
    """Offsets have fewer digits when small layers come first, which says nothing of a file's metadata."""
    folder = tmp_path / "loras"
    folder.mkdir()
    layers = random_weights(SPECS, 1, alpha=4)
    names = library_order(layers)
    small = sorted(names, key=lambda name: len(layers[name][2]))
    for name, order, metadata in (
        ("small_first", small, {"note": "x" * 400}), ("large_first", small[::-1], {}),
        ("rich", small, {"note": "x" * 900}),
    ):  # fmt: skip
        path = write_safetensors(str(folder / f"{name}.safetensors"), layers, order=order, metadata=metadata)
        os.utime(path, ns=(0, 0))
    scan(folder, tmp_path / "state")
    queries = Queries(str(tmp_path / "state"))
    made = queries.plan("symlink", [b"most-metadata"])
    queries.close()
    assert not isinstance(made, Refusal)
    assert {os.path.basename(step.kept) for step in made.steps} == {b"rich.safetensors"}
    bytes_of = {os.path.basename(step.path): step.gone.metadata for step in made.steps}
    assert 380 < bytes_of[b"small_first.safetensors"] - bytes_of[b"large_first.safetensors"] < 420


def test_symbolic_links_that_are_followed_do_not_go(tmp_path: Path) -> None:
    """A name that is one is not taken for the file itself."""
    folder = tmp_path / "loras"
    folder.mkdir()
    layers = random_weights(SPECS, 1)
    for name in "ab":
        write_safetensors(str(folder / f"{name}.safetensors"), layers)
    (folder / "link.safetensors").symlink_to("b.safetensors")
    scan(folder, tmp_path / "state", "--follow-symlinks")
    queries = Queries(str(tmp_path / "state"))
    queries.planner.use(config.Config(watch=config.Watch(follow_symlinks=True)))
    made = queries.plan("delete", [b"path-prefix:" + os.fsencode(folder / "a.safetensors")])
    queries.close()
    assert not isinstance(made, Refusal)
    assert made.steps == []
    assert {row.reason for row in made.skipped} == {"seen through a symbolic link"}


def test_files_in_a_folder_that_is_a_link_do_not_go(tmp_path: Path) -> None:
    """No action would follow that link, so no plan promises one."""
    folder, other = tmp_path / "loras", tmp_path / "other"
    layers = random_weights(SPECS, 1)
    for each in (folder, other / "below"):
        each.mkdir(parents=True)
        write_safetensors(str(each / "a.safetensors"), layers)
    (folder / "link").symlink_to(other)
    scan(folder, tmp_path / "state", "--follow-symlinks")
    queries = Queries(str(tmp_path / "state"))
    queries.planner.use(config.Config(watch=config.Watch(follow_symlinks=True)))
    made = queries.plan("delete", [b"path-prefix:" + os.fsencode(folder / "a.safetensors")])
    queries.close()
    assert not isinstance(made, Refusal)
    assert (made.steps, made.bytes) == ([], 0)
    assert [(row.path, row.reason) for row in made.skipped] == [
        (os.fsencode(folder / "link" / "below" / "a.safetensors"), "seen through a symbolic link")
    ]


def test_newcomers_are_planned_for_by_the_running_policy(served: Served) -> None:
    """Their sets alone are looked at; what was there before is left as it is."""
    folder = os.fsencode(served.library.folder)
    served.server.handlers.use(settings(served.library, action="symlink", keep=("oldest",)))
    given: queue.Queue[Plan | Refusal] = queue.Queue()
    for newcomers, expected in (
        ([folder + b"/c.safetensors"], [folder + b"/c.safetensors"]),
        ([folder + b"/" + ODD, folder + b"/nothing"], [folder + b"/" + ODD]),
        ([folder + b"/d.safetensors", folder + b"/f.safetensors"], []),
    ):
        served.server.handlers.plan_for(newcomers, given.put)
        made = given.get(timeout=SECONDS)
        assert not isinstance(made, Refusal)
        assert [step.path for step in made.steps] == expected


# Requests that act


@pytest.fixture
def acts() -> Acts:
    return Acts([entry(number) for number in range(1, 4)])


@pytest.fixture
def acting(library: Library, tmp_path: Path, acts: Acts) -> Iterator[Served]:
    with serving(library, tmp_path / "run", deduper=acts) as served:
        served.server.handlers.use(settings(library))
        yield served


def test_what_is_applied_is_the_plan(acting: Served, acts: Acts) -> None:
    """With each file as the catalogue has it, for whoever checks it again."""
    with Line(acting) as line:
        planned: Any = line.ask(PlanDedupe("symlink"))
        applied: Any = line.ask(ApplyDedupe("symlink"))
    (made,) = acts.plans
    assert [(step.path, step.kept) for step in made.steps] == [(step.path, step.kept) for step in planned.steps]
    assert (applied.done, applied.bytes) == (len(planned.steps), planned.bytes)
    for step in made.steps:
        for path, file in ((step.path, step.gone), (step.kept, step.keeper)):
            status = os.stat(path)
            assert (file.dev, file.ino, file.size) == (status.st_dev, status.st_ino, status.st_size)
            assert (file.mtime_ns, file.ctime_ns) == (status.st_mtime_ns, status.st_ctime_ns)


def test_to_report_is_not_to_act(acting: Served, acts: Acts) -> None:
    """Neither by configuration nor by request; and nothing to do is no work for anybody."""
    with Line(acting) as line:
        refused: Any = line.ask(ApplyDedupe())
        assert (refused.code, acts.plans) == ("read-only", [])
        acting.server.handlers.use(settings(acting.library, scope=("/nowhere",)))
        assert line.ask(ApplyDedupe("delete")) == Applied(0, 0, 0, [])
        assert acts.plans == []


def test_undo_takes_ids_or_all(acting: Served, acts: Acts) -> None:
    with Line(acting) as line:
        undone: Any = line.ask(UndoActions([2, 9]))
        assert (undone.done, undone.refused) == (1, 1)
        assert isinstance(line.ask(UndoActions(all=True)), Undone)
        assert acts.undone == [[2, 9], None]
        for wrong in (UndoActions(), UndoActions([1], True), UndoActions(list(range(20_000)))):
            refused: Any = line.ask(wrong)
            assert refused.code == "malformed"


def test_history_comes_in_pages(acting: Served, acts: Acts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oldest first, nothing twice, nothing missing; also where there are more than are asked for at once."""
    acts.entries = [entry(number) for number in range(1, 10_001)]
    with Line(acting) as line:
        found: list[Any] = []
        cursor = ""
        while not found or cursor:
            page = line.ask(ListHistory(cursor))
            assert isinstance(page, History)
            found += page.actions
            cursor = page.cursor
        assert found == acts.entries
        for wrong in ("x", "-1", "9" * 30, "²"):
            refused: Any = line.ask(ListHistory(wrong))
            assert refused.code == "malformed"
        acts.entries = []
        assert line.ask(ListHistory()) == History([])


def test_savings_know_what_could_be_saved(acting: Served) -> None:
    """What could be is the sum of the plan by the configuration."""
    with Line(acting) as line:
        planned: Any = line.ask(PlanDedupe())
        answer = line.ask(GetSavings())
    assert isinstance(answer, Savings)
    assert answer.possible_bytes == planned.bytes > 0


def test_a_daemon_that_does_not_act_says_so(served: Served) -> None:
    with Line(served) as line:
        for request in (ApplyDedupe("delete"), UndoActions(all=True), ListHistory(), GetSavings()):
            refused: Any = line.ask(request)
            assert refused.code == "read-only"


def test_an_act_that_fails_is_answered(acting: Served, acts: Acts, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a refusal; and the next request is answered as ever."""

    def fail(plan: object, reply: object) -> None:
        raise OSError("no")

    monkeypatch.setattr(acts, "apply", fail)
    with Line(acting) as line:
        refused: Any = line.ask(ApplyDedupe("delete"))
        assert refused.code == "failed"
        assert isinstance(line.ask(ListHistory()), History)
