"""The benchmark tells the truth about its corpora, what its peers find, and what a command reads."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from bench.contest import Plan, Row, ToolFailedError, compete
from bench.demo import make_demo
from bench.load_everything import digest_of
from bench.machine import describe
from bench.measure import run
from bench.peers import Tool, jdupes, load_everything, rdfind, rmlint
from bench.recipes import RECIPES, Scale
from bench.report import Report, to_json, to_markdown
from bench.startup import core_memory
from bench.truth import SAMPLES, Member, Truth, lower_bound, score, truth_of

from bench import corpus

TINY = Scale(width=32, every=12, count=10, files=150)


def sets_by_loading(paths: list[str]) -> list[tuple[str, ...]]:
    """Files with equal tensors, found by loading every one."""
    groups: dict[str, list[str]] = {}
    for path in paths:
        groups.setdefault(digest_of(path)[0], []).append(path)
    return sorted(tuple(sorted(same)) for same in groups.values() if len(same) > 1)


def sets_by_bytes(paths: list[str]) -> list[tuple[str, ...]]:
    groups: dict[bytes, list[str]] = {}
    for path in paths:
        groups.setdefault(Path(path).read_bytes(), []).append(path)
    return sorted(tuple(sorted(same)) for same in groups.values() if len(same) > 1)


@pytest.mark.parametrize("name", sorted(set(RECIPES) - {"multi_gb"}))
def test_a_corpus_is_what_its_truth_says(tmp_path: Path, name: str) -> None:
    """Sets of equal files, sizes and the number of files are found again by reading everything."""
    truth = corpus.make(name, str(tmp_path), TINY)
    weights = [member.path for member in truth.members]
    on_disk = [os.path.join(parent, file) for parent, _, files in os.walk(truth.folder) for file in files]
    assert sorted(weights) == sorted(path for path in on_disk if not path.endswith(".json"))
    assert sets_by_loading(weights) == list(truth.tensor_sets)
    assert sets_by_bytes(weights) == list(truth.file_sets)
    assert truth.bytes_total == sum(os.path.getsize(path) for path in weights)
    assert 0 < truth.lower_bound <= truth.bytes_total
    assert truth.duplicates > 0


def test_the_giant_layer_is_a_hole_and_duplicated(tmp_path: Path) -> None:
    truth = corpus.make("multi_gb", str(tmp_path), replace(TINY, width=1000))
    assert sets_by_loading([member.path for member in truth.members]) == list(truth.tensor_sets)
    assert len(truth.tensor_sets) == 1


def test_a_corpus_is_made_once_and_again_only_when_touched(tmp_path: Path) -> None:
    """Unchanged: the same files. A changed file, or another scale: all made again, and true again."""
    first = corpus.make("small", str(tmp_path), TINY)
    path = first.members[0].path
    inode = os.stat(path).st_ino
    assert corpus.make("small", str(tmp_path), TINY) == first
    assert os.stat(path).st_ino == inode
    before = Path(path).read_bytes()
    Path(path).write_bytes(b"somebody was here")
    assert corpus.make("small", str(tmp_path), TINY) == first
    assert Path(path).read_bytes() == before
    assert len(corpus.make("small", str(tmp_path), replace(TINY, files=20)).members) == 20


def test_a_strangers_folder_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "mine.safetensors").write_bytes(b"precious")
    with pytest.raises(FileExistsError, match="not empty"):
        corpus.make("small", str(tmp_path), TINY)


def member(path: str, layout: str, weights: str, late: int = 0) -> Member:
    return Member(path, layout, weights, content=path, header=100, data=1_000_000, late=late)


def test_the_lower_bound_counts_what_must_be_read() -> None:
    """Headers always; nothing of a lonely layout; samples of a unique file; duplicates whole."""
    assert lower_bound([member("a", "x", "1"), member("b", "y", "1")]) == 200
    assert lower_bound([member("a", "x", "1"), member("b", "x", "2")]) == 200 + 2 * SAMPLES
    assert lower_bound([member("a", "x", "1"), member("b", "x", "1")]) == 200 + 2_000_000
    late = [member("a", "x", "1", late=5000), member("b", "x", "2", late=5000)]
    assert lower_bound(late) == 200 + 2 * (SAMPLES + 5000)


def test_a_score_counts_found_missed_and_wrong() -> None:
    truth = truth_of("t", "/", [member(name, "x", name[0]) for name in ("a1", "a2", "a3", "b1", "b2", "c1")])
    assert truth.duplicates == 3
    assert score(truth, [["a1", "a2", "a3"], ["b1", "b2"]]).found == 3
    assert score(truth, [["a1", "a2"], ["notes.json", "more.json"]]).missed == 2
    assert score(truth, [["a1", "c1"]]).wrong == 1


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    return corpus.make("mixed", str(tmp_path_factory.mktemp("library")), TINY)


@pytest.mark.parametrize("tool", [jdupes(), rdfind(), rmlint(), load_everything()], ids=lambda tool: tool.name)
def test_peers_find_what_they_can_and_change_nothing(tool: Tool, library: Truth) -> None:
    """Tools for whole files find the byte copies and no more; loading everything finds all."""
    if not tool.installed:
        pytest.skip(f"{tool.program} is not installed")
    row = compete(tool, library, Plan(runs=1, cold_runs=0))
    byte_copies = sum(len(paths) - 1 for paths in library.file_sets)
    assert row.found == (library.duplicates if tool.mapped else byte_copies)
    assert row.found + row.missed == library.duplicates
    assert row.wrong == 0
    assert corpus.make("mixed", os.path.dirname(library.folder), TINY) == library
    assert all(os.stat(member.path).st_nlink == 1 for member in library.members)


def test_a_tool_that_fails_is_reported_with_what_it_said(library: Truth) -> None:
    broken = replace(
        load_everything(), command=lambda *_: [sys.executable, "-c", "raise SystemExit('no such luck')"]
    )
    with pytest.raises(ToolFailedError, match="no such luck"):
        compete(broken, library, Plan(runs=1, cold_runs=0))


def test_measuring_counts_the_bytes_of_the_whole_process_tree(tmp_path: Path) -> None:
    """A file read by a grandchild counts; so does one by an orphan that outlives the command."""
    path = tmp_path / "ten"
    path.write_bytes(os.urandom(10_000_000))
    direct = run(["cat", str(path)])
    assert direct.status == 0
    assert len(direct.stdout) == 10_000_000
    assert 10_000_000 <= direct.bytes_read < 11_000_000
    nested = run(["sh", "-c", f"sh -c 'cat {path} > /dev/null; exit 3'"])
    assert nested.status == 3
    assert 10_000_000 <= nested.bytes_read < 11_000_000
    orphan = run(["sh", "-c", f"(cat {path} > /dev/null) & exit 0"])
    assert 10_000_000 <= orphan.bytes_read < 11_000_000


def test_measuring_sees_the_memory_of_children() -> None:
    program = "held = b'x' * 60_000_000; import hashlib; hashlib.pbkdf2_hmac('sha1', b'', b'', 200_000)"
    waiting = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {program!r}], check=True)"
    sampled = run([sys.executable, "-c", waiting], memory=True)
    assert sampled.status == 0
    assert max(sampled.resident.values()) > 60_000_000
    assert sampled.peak_bytes > 60_000_000


def test_the_core_is_told_from_its_children() -> None:
    resident = {
        "python3 bin/loractl scan --json /m": 1,
        "python3 -m lorad.scan --state-dir /s -- /m": 2,
        "python3 -m lorad.pipeline.loader loader-0.1": 3,
    }
    assert core_memory(resident) == 2


def test_reports_hold_every_row(library: Truth, tmp_path: Path) -> None:
    row = Row(library.name, "load + SHA-256", 5.0, None, 2**20, 10**6, 0, 1.5, 3, 1, 0)
    report = Report("2025-01-31", describe(str(tmp_path)), {"jdupes": "1.21"})
    report.add(library, [row, replace(row, tool="jdupes", warm=0.5)])
    text = to_markdown(report)
    assert "| jdupes | 0.50 | – |" in text
    assert "10.0×" in text
    assert '"tool": "jdupes"' in to_json(report)


def test_the_demo_needs_the_standard_library_alone(tmp_path: Path) -> None:
    """Made by an interpreter without site-packages, small, with every sameness, never made twice."""
    folder = tmp_path / "demo"
    root = str(Path(__file__).parents[2])
    subprocess.run([sys.executable, "-S", "-m", "bench.demo", str(folder)], cwd=root, check=True)
    paths = [path for path in folder.rglob("*") if path.is_file()]
    assert 20 <= len(paths) <= 35
    assert sum(path.stat().st_size for path in paths if not path.is_symlink()) < 20_000_000
    assert any(path.is_symlink() for path in paths)
    assert any(path.stat().st_nlink == 2 for path in paths)
    whole = [
        str(path)
        for path in paths
        if path.suffix == ".safetensors" and path.name != "placeholder.safetensors" and not path.is_symlink()
    ]
    whole.remove(str(folder / "downloads/add_detail_xl.safetensors"))
    assert len(sets_by_loading(whole)) == 4
    assert not make_demo(str(folder))
