"""A scan that is killed at any moment loses nothing that was finished, and never says anything wrong."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from msgspec import msgpack

from loracore.paths import CATALOGUE
from lorad.library import Question
from tests.builders import architectures
from tests.builders.weights import random_weights
from tests.builders.write import library_order, save_checkpoint, write_safetensors
from tests.integration.scanning import VIEWS, Embedded, partition, scan, view

#: `make soak` raises it.
KILLS = int(os.environ.get("LORAD_KILLS", "10"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copies, metadata and order variants, checkpoints, unique files, and epochs that differ late."""
    path = tmp_path_factory.mktemp("loras")
    specs = architectures.sd15(16, width=1, every=3)
    for seed in range(6):
        layers = random_weights(specs, seed)
        names = library_order(layers)
        write_safetensors(str(path / f"{seed}.safetensors"), layers)
        write_safetensors(str(path / f"{seed} copy.safetensors"), layers)
        write_safetensors(str(path / f"{seed} meta.safetensors"), layers, metadata={"k": "v"})
        write_safetensors(str(path / f"{seed} order.safetensors"), layers, order=names[::-1])
        dtype, shape, data = layers[names[-2]]
        late = {**layers, names[-2]: (dtype, shape, bytes(len(data)))}
        write_safetensors(str(path / f"{seed} epoch.safetensors"), late)
        if seed < 2:
            save_checkpoint(str(path / f"{seed}.pt"), layers)
    for seed in range(100, 140):
        write_safetensors(str(path / f"{seed}.safetensors"), random_weights(specs[:60], seed))
    (path / "bad.safetensors").write_bytes(b"bad")
    return path


def committed(state: Path) -> dict[tuple[int, int], tuple[int, bytes]]:
    """(file, question) → (bytes that the answer took to read, its digests), as the catalogue holds them."""
    if not (state / CATALOGUE).exists():
        return {}
    with sqlite3.connect(state / CATALOGUE) as db:
        try:
            plans = db.execute("SELECT id, sequence FROM layouts WHERE sequence IS NOT NULL").fetchall()
        except sqlite3.OperationalError:
            return {}
        questions = {
            (layout, question.number): question
            for layout, sequence in plans
            for question in msgpack.decode(sequence, type=tuple[Question, ...])
        }
        rows = db.execute(
            "SELECT file, number, layout, digests FROM answers JOIN files ON files.id = answers.file"
        ).fetchall()
    db.close()
    return {
        (file, number): (sum(piece.length for piece in questions[layout, number].pieces), digests)
        for file, number, layout, digests in rows
        if (layout, number) in questions
    }


def views_are_whole(state: Path) -> None:
    """Every JSON file that is there parses, and duplicates do not run ahead of the others."""
    there = {name: json.loads(path.read_text()) for name in VIEWS if (path := state / f"{name}.json").exists()}
    if "duplicates" in there:
        assert there["duplicates"]["generation"] <= there["processed"]["generation"]


def moments(duration: float) -> Iterator[float]:
    rng = random.Random(20)
    for _ in range(KILLS):
        yield rng.uniform(0, duration)


def kill_at(folder: Path, state: Path, moment: float) -> bool:
    """Start a scan and kill it after `moment` seconds; whether it had ended by itself."""
    embedded = Embedded(folder, state)
    try:
        embedded.process.wait(moment)
    except subprocess.TimeoutExpired:
        embedded.kill()
        return False
    embedded.finish()
    return True


def same_outcome(one: Path, other: Path) -> None:
    for name in ("groups", "refined_groups"):
        assert partition(one, name) == partition(other, name)
    for key in ("complete", "duplicates", "levels", "links", "wasted_bytes"):
        assert view(one, "duplicates")[key] == view(other, "duplicates")[key]
    statuses = [
        {
            path: (row["status"], row["error"], row["layout"])
            for path, row in view(state, "processed")["files"].items()
        }
        for state in (one, other)
    ]
    assert statuses[0] == statuses[1]


@pytest.mark.timeout(600 + 10 * KILLS)
def test_killed_scans_end_as_one_that_was_not(folder: Path, tmp_path: Path) -> None:
    """SIGKILL at random moments: the same groups and duplicates, and no committed layer is digested again."""
    whole = tmp_path / "whole"
    started = time.monotonic()
    scan(folder, whole)
    duration = time.monotonic() - started
    state = tmp_path / "killed"
    for moment in moments(duration):
        before = committed(state)
        if kill_at(folder, state, moment):
            # It ended first. What is left to kill is a fresh start.
            same_outcome(whole, state)
            state = tmp_path / f"killed {moment}"
            continue
        views_are_whole(state)
        after = committed(state)
        assert {key: after[key] for key in before} == before, "what was committed stays"
    before = committed(state)
    final = scan(folder, state)
    after = committed(state)
    same_outcome(whole, state)
    learnt = sum(size for key, (size, _) in after.items() if key not in before)
    if final.report["bytes_read"]:
        stages = view(state, "statistics")["stages"]
        # torch's zip tells where a layer starts only beside it: 30 bytes more a piece.
        assert stages["samples"]["bytes"] + stages["layers"]["bytes"] <= learnt + 30 * 2 * 600
    else:
        # It was killed when all was done, and the views are still those of that scan.
        assert learnt == 0
    assert {path.name for path in state.iterdir()} <= {
        *(f"{name}.json" for name in VIEWS), CATALOGUE, f"{CATALOGUE}-wal", f"{CATALOGUE}-shm", "lock", "run",
    }  # fmt: skip
    assert not list((state / "run").glob("*"))


def test_each_kind_of_child_can_be_killed(folder: Path, tmp_path: Path) -> None:
    """A child that dies is started again and its work given again; the scan ends as if nothing had been."""
    whole = tmp_path / "whole"
    scan(folder, whole)
    shared_memory = set(os.listdir("/dev/shm"))
    for module in ("lorad.pipeline.loader", "lorad.pipeline.hasher", "lorad.publish"):
        state = tmp_path / module
        embedded = Embedded(folder, state)
        assert embedded.process.stdout is not None
        killed = False
        while not killed and embedded.process.poll() is None:
            # A report is written whenever something was done, so this waits for events, not for time.
            embedded.process.stdout.read(8)
            for child in embedded.children():
                try:
                    if module in child.cmdline():
                        child.send_signal(signal.SIGKILL)
                        killed = True
                        break
                except psutil.NoSuchProcess:
                    continue
        assert killed
        assert embedded.finish() == 0
        same_outcome(whole, state)
    assert set(os.listdir("/dev/shm")) <= shared_memory


def test_client_that_is_killed_takes_everything_with_it(folder: Path, tmp_path: Path) -> None:
    """Nothing outlives a `loractl` that was killed: the daemon and its children see the closed pipe."""
    import sys

    command = [
        sys.executable,
        "-m",
        "loractl.cli",
        "scan",
        "--json",
        "--state-dir",
        str(tmp_path),
        str(folder),
    ]
    client = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    family: list[psutil.Process] = []
    while len(family) < 4 and client.poll() is None:
        family = psutil.Process(client.pid).children(recursive=True)
    client.kill()
    client.wait()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert family
    assert not alive
