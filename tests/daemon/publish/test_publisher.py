"""What is on the disk stays whole: under SIGKILL at any moment, and when the disk is full."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lorad.catalog import Catalog, Row
from lorad.pipeline.launch import Crew
from lorad.pipeline.pipeline import Pipeline
from lorad.pipeline.protocol import Publish, Published
from lorad.publish.publisher import Publisher
from lorad.state_folder import VIEWS, written_generation
from tests.daemon.publish.plain import rendered_anew, written

#: `make soak` raises it.
KILLS = int(os.environ.get("LORAD_KILLS", "12"))

#: Renders all, says so, and then what it is told on each line: a generation and names.
PROGRAM = """
import json, os, sys
from lorad.pipeline.protocol import Publish
from lorad.publish.publisher import Publisher
publisher = Publisher(sys.argv[1])
publisher.publish(Publish(0, None))
print("ready", flush=True)
for line in sys.stdin:
    generation, names = json.loads(line)
    publisher.publish(Publish(generation, [os.fsencode(name) for name in names]))
"""


def fill(catalog: Catalog, numbers: range, status: str = "duplicate") -> list[bytes]:
    """Put files into a new generation, pairs of the same weights; their names."""
    layout = catalog.layouts.number(b"l" * 32, b"")
    names = []
    for number in numbers:
        signature = (number // 2).to_bytes(32, "big")
        row = Row(
            number, 1, number, 100, number, 1, 1, status, layout, None, 0, "safetensors", signature, signature,
            0.5, None, 0, 0,
        )  # fmt: skip
        catalog.files.save([row])
        names.append(b"/srv/models/loras/%05d.safetensors" % number)
        catalog.names.save([(names[-1], number, 1, None)])
    catalog.commit(new_generation=True)
    return names


def generations(state: Path) -> list[int]:
    """Of the five files in their order; each must be whole."""
    return [json.loads((state / name).read_bytes())["generation"] for name in VIEWS]


def test_a_killed_publisher_leaves_whole_files(tmp_path: Path) -> None:
    """SPEC 3: every file parses, and none of the order is of a later generation than one before it."""
    catalog = Catalog(str(tmp_path))
    fill(catalog, range(1500))
    rng = random.Random(5)
    for turn in range(KILLS):
        command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            assert written(tmp_path) == rendered_anew(tmp_path), "what an earlier one left does no harm"
            names = fill(catalog, range(turn, 1500, 10), rng.choice(["duplicate", "unique", "grouped"]))
            process.stdin.write(json.dumps([catalog.generation, list(map(os.fsdecode, names))]).encode() + b"\n")
            process.stdin.flush()
            time.sleep(rng.uniform(0, 0.03))
            process.kill()
        found = generations(tmp_path)
        assert found == sorted(found, reverse=True)
        assert set(found) <= {catalog.generation - 1, catalog.generation}
    assert Publisher(str(tmp_path)).publish(Publish(catalog.generation, None)) == catalog.generation
    assert written(tmp_path) == rendered_anew(tmp_path)
    assert not list(tmp_path.glob("*.new"))
    catalog.close()


def published(pipeline: Pipeline) -> Published:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for event in pipeline.poll(0.1):
            if isinstance(event, Published):
                return event
    raise TimeoutError


def test_the_process_follows_and_its_successor_knows_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real process over the real line: a first time, a change, and a change told to one started after it."""
    monkeypatch.chdir(tmp_path)
    catalog = Catalog(str(tmp_path))
    fill(catalog, range(100))
    pipeline = Pipeline(Crew(str(tmp_path), str(tmp_path), loaders=1, hasher="cpu"), told=lambda *_: None)
    try:
        pipeline.publish(Publish(1, None))
        assert published(pipeline).generation == 1
        pipeline.publish(Publish(2, fill(catalog, range(1), "unique")))
        assert published(pipeline).generation == 2
        assert written(tmp_path) == rendered_anew(tmp_path)
        os.kill(pipeline.children.pids()["publisher"], 9)
        assert published(pipeline).generation == -1
        pipeline.publish(Publish(3, fill(catalog, range(1, 2), "unique")))
        assert published(pipeline).generation == 3
        assert written(tmp_path) == rendered_anew(tmp_path)
    finally:
        pipeline.stop()
        catalog.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of four megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "lorad-test", place], check=False)
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_leaves_the_old_files(small_disk: Path) -> None:
    """SPEC 3, 11: the error is told, the old files stay whole, nothing half written takes the room."""
    catalog = Catalog(str(small_disk))
    fill(catalog, range(1000))
    publisher = Publisher(str(small_disk))
    assert publisher.publish(Publish(1, None)) == 1
    before = written(small_disk)
    names = fill(catalog, range(3), "unique")
    free = os.statvfs(small_disk)
    (small_disk / "ballast").write_bytes(bytes((free.f_bavail - 60) * free.f_frsize))
    with pytest.raises(OSError, match="No space left"):
        publisher.publish(Publish(2, names))
    assert written(small_disk) == before
    assert written_generation(str(small_disk)) == 1
    assert not list(small_disk.glob("*.new"))
    (small_disk / "ballast").unlink()
    assert publisher.publish(Publish(2, names)) == 2
    assert written(small_disk) == rendered_anew(small_disk)
    catalog.close()
