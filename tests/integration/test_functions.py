"""Files of the same tensors and another function are told apart, as their headers and configurations are now."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from loracore.paths import CATALOGUE
from lorad.catalog.views import connect
from tests.builders import architectures
from tests.builders.real import by_diffusers, by_peft
from tests.builders.weights import random_weights
from tests.builders.write import write_peft_folder, write_safetensors
from tests.integration.running import Running, running
from tests.integration.scanning import loractl, scan, view

LAYERS = random_weights(architectures.llm(4, width=64, every=8), 1)
KOHYA = random_weights(architectures.sd15(4, width=16, every=12), 1)
CONFIG = "adapter_config.json"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "loras"
    path.mkdir()
    return path


@pytest.fixture
def daemon(tmp_path: Path, root: Path) -> Iterator[Running]:
    with running(tmp_path / "daemon", root) as daemon:
        yield daemon


def adapter(folder: Path, **fields: object) -> str:
    """A PEFT folder of the same weights each time; its weight file."""
    return write_peft_folder(str(folder), LAYERS, rank=4, targets=["q_proj"], **fields)


def duplicates(state: Path) -> dict[str, Any]:
    """As they are in the file, once the numbers of all views agree."""
    found = view(state, "duplicates")
    figures = view(state, "statistics")
    assert figures["wasted_bytes"] == found["wasted_bytes"]
    assert figures["duplicate_sets"] == len(found["duplicates"])
    assert set(found["functions"].values()) <= {"differs"}
    assert found["functions"].keys() <= found["levels"].keys()
    return found


def differing(daemon: Running) -> set[str]:
    """The names of another function than the kept one's, when all that is on the disk is known."""
    daemon.settle()
    return set(duplicates(daemon.state)["functions"])


def kept(daemon: Running) -> str:
    (path,) = duplicates(daemon.state)["duplicates"]
    return path


def size(path: str) -> int:
    return os.path.getsize(path)


def test_a_scan_tells_functions_apart_and_wastes_nothing_by_them(tmp_path: Path, root: Path) -> None:
    """SPEC 3: counted as duplicates, not as wasted; the totals agree to the last one."""
    first, again, louder = (
        adapter(root / name, lora_alpha=alpha) for name, alpha in (("a", 8), ("b", 8), ("c", 16))
    )
    for age, path in enumerate((first, again, louder)):
        os.utime(path, (age, age))
    state = tmp_path / "state"
    report = scan(root, state).report
    found = duplicates(state)
    assert found["duplicates"] == {first: [again, louder]}
    assert found["functions"] == {louder: "differs"}
    assert found["wasted_bytes"] == report["wasted_bytes"] == size(again)
    assert report["duplicate_sets"] == 1
    rows = view(state, "processed")["files"]
    assert {rows[path]["status"] for path in (first, again, louder)} == {"duplicate"}
    shown = loractl("scan", "--state-dir", state, root).stdout
    assert [line for line in shown.splitlines() if "other function" in line] == [
        line for line in shown.splitlines() if "c/adapter_model" in line
    ]


def test_files_of_real_libraries_are_told_apart(tmp_path: Path, root: Path) -> None:
    for name, alpha in (("one", 8), ("two", 16)):
        (root / name).mkdir()
        by_peft(str(root / name), lora_alpha=alpha)
    (root / "three").mkdir()
    (root / "four").mkdir()
    by_diffusers(str(root / "three"), config={"r": 4, "lora_alpha": 4})
    by_diffusers(str(root / "four"), config={"r": 4, "lora_alpha": 8})
    scan(root, tmp_path / "state")
    found = duplicates(tmp_path / "state")
    assert len(found["duplicates"]) == 2
    # The checkpoints say nothing, as does a scale of 1.
    odd = [
        path for path in found["levels"].keys() | found["duplicates"].keys() if "/four/" in path and "saf" in path
    ]
    of_diffusers = {path for path in found["functions"] if "/three/" in path or "/four/" in path}
    assert of_diffusers == set(odd) or odd[0] in found["duplicates"]
    assert len({path for path in found["functions"] if "/one/" in path or "/two/" in path}) == 1


@pytest.mark.parametrize("how", ["header", "config"])
def test_a_newcomer_of_another_function_is_seen_at_once(daemon: Running, root: Path, how: str) -> None:
    first = write_safetensors(str(root / "a.safetensors"), LAYERS)
    assert differing(daemon) == set()
    if how == "header":
        other = write_safetensors(str(root / "b.safetensors"), LAYERS, metadata={"lora_alpha": "9"})
    else:
        other = adapter(root / "b")
    assert differing(daemon) == {other, first} - {kept(daemon)}
    assert duplicates(daemon.state)["wasted_bytes"] == 0


def test_a_configuration_that_is_written_renamed_or_removed_makes_a_new_generation(
    daemon: Running, root: Path
) -> None:
    """What is beside a name now is what counts."""
    first, other = adapter(root / "a"), adapter(root / "b")
    assert differing(daemon) == set()
    odd = {first, other} - {kept(daemon)}
    config = root / "b" / CONFIG
    content = config.read_text()
    before = daemon.settle()
    config.write_text(json.dumps(json.loads(content) | {"lora_alpha": 1}))
    assert differing(daemon) == odd
    assert daemon.settle() > before
    config.write_text(json.dumps(json.loads(content) | {"revision": "main"}))
    assert differing(daemon) == set()
    config.rename(root / "b" / "elsewhere.json")
    assert differing(daemon) == odd
    (root / "b" / "elsewhere.json").rename(config)
    assert differing(daemon) == set()
    config.unlink()
    assert differing(daemon) == odd
    shutil.copyfile(root / "a" / CONFIG, root / "b" / "new")
    (root / "b" / "new").rename(config)
    assert differing(daemon) == set()
    # A folder takes its configuration with it, and its names are others then.
    (root / "a").rename(root / "c")
    assert differing(daemon) == set()
    assert any("/c/" in path for path in view(daemon.state, "processed")["files"])


def test_what_is_no_configuration_is_another_function(daemon: Running, root: Path) -> None:
    first, other = adapter(root / "a"), adapter(root / "b")
    differing(daemon)
    odd = {first, other} - {kept(daemon)}
    config = root / "b" / CONFIG
    config.unlink()
    os.mkfifo(config)
    assert differing(daemon) == odd
    config.unlink()
    config.symlink_to("../a/" + CONFIG)
    assert differing(daemon) == set()


def test_a_name_of_an_inode_has_the_configuration_beside_it(daemon: Running, root: Path) -> None:
    """Level `inode`, and nothing of it is wasted."""
    first = adapter(root / "a")
    (root / "b").mkdir()
    os.link(first, root / "b/adapter_model.safetensors")
    found = differing(daemon)
    assert found == {first, str(root / "b/adapter_model.safetensors")} - {kept(daemon)}
    assert duplicates(daemon.state)["wasted_bytes"] == 0


def test_what_changed_while_lorad_was_stopped_is_seen_by_its_first_sweep(tmp_path: Path, root: Path) -> None:
    first, other = adapter(root / "a"), adapter(root / "b")
    with running(tmp_path / "daemon", root) as daemon:
        assert differing(daemon) == set()
        odd = {first, other} - {kept(daemon)}
        daemon.stop()
        (root / "b" / CONFIG).unlink()
        daemon.start()
        assert differing(daemon) == odd
        daemon.stop()
        shutil.copyfile(root / "a" / CONFIG, root / "b" / CONFIG)
        daemon.start()
        assert differing(daemon) == set()


def test_the_client_says_which_differ(daemon: Running, root: Path) -> None:
    """`duplicates` and `show`, for people and as JSON."""
    first, other = adapter(root / "a"), adapter(root / "b", lora_alpha=1)
    (odd,) = differing(daemon)
    assert odd in {first, other}
    there = {"LORAD_SOCKET": str(daemon.runtime)}
    found = json.loads(loractl("duplicates", "--json", environment=there).stdout)
    assert (found["functions"], found["wasted_bytes"]) == ({odd: "differs"}, 0)
    assert json.loads(loractl("show", "--json", first, environment=there).stdout)["differing"] == [odd]
    for command in (["duplicates"], ["show", first]):
        told = loractl(*command, environment=there).stdout
        assert [line.rstrip().endswith(f"{odd} (other function)") for line in told.splitlines()].count(True) == 1


def test_headers_of_an_older_catalogue_are_read_again_and_no_weights(tmp_path: Path, root: Path) -> None:
    """An update reads headers alone, in the background."""
    for name, metadata in (("a", {}), ("b", {"lora_alpha": "9"}), ("c", {"lora_alpha": "9"})):
        write_safetensors(str(root / f"{name}.safetensors"), KOHYA, metadata=metadata)
    state = tmp_path / "state"
    scan(root, state)
    now = duplicates(state)
    assert now["functions"]
    with closing(sqlite3.connect(state / CATALOGUE)) as db:
        # As the migration leaves it.
        db.execute("UPDATE files SET function = x'' WHERE layout IS NOT NULL")
        db.execute("UPDATE names SET config = NULL")
        db.execute("UPDATE meta SET value = 0 WHERE key = 'complete'")
        db.commit()
    report = scan(root, state).report
    again = duplicates(state)
    assert {key: again[key] for key in ("duplicates", "functions", "wasted_bytes", "levels")} == {
        key: now[key] for key in ("duplicates", "functions", "wasted_bytes", "levels")
    }
    headers = sum(size(path) for path in map(str, root.iterdir())) - 3 * sum(
        len(data) for _, _, data in KOHYA.values()
    )
    assert 0 < report["bytes_read"] <= headers
    with closing(connect(str(state))) as db:
        assert db.execute("SELECT count(*) FROM files WHERE function = x''").fetchone() == (0,)
