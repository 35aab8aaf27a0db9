"""The daemon with a GPU (an emulated one, see `tests/emulation`): same answers, and none lost when it goes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.builders import architectures
from tests.builders.weights import random_weights
from tests.builders.write import save_checkpoint, write_safetensors
from tests.gpu.conftest import emulated_environment
from tests.integration.running import Running
from tests.integration.scanning import VIEWS, duplicate_sets, scan, view

#: Layers of a few KiB, and one of 12 MiB, which goes over slabs.
SMALL = architectures.sd15(4, width=4, every=6)
LARGE = architectures.llm(768, blocks=1, targets=("q_proj",))
CUDA = '[pipeline]\nhasher = "cuda"\nloaders = 2\n'


@pytest.fixture(autouse=True)
def _compiler() -> None:
    if shutil.which("g++") is None:
        pytest.skip("g++ is missing, which builds the kernel for the emulated GPU")


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Duplicates in several containers, files that differ late, small layers and large ones."""
    folder = tmp_path / "loras"
    folder.mkdir()
    for number, specs in enumerate((SMALL, LARGE)):
        first, second = (random_weights(specs, seed) for seed in (1, 2))
        write_safetensors(str(folder / f"{number} first.safetensors"), first)
        write_safetensors(str(folder / f"{number} edited.safetensors"), first, metadata={"ss_output_name": "x"})
        save_checkpoint(str(folder / f"{number} other container.pt"), first)
        write_safetensors(str(folder / f"{number} second.safetensors"), second)
        last = max(first)
        dtype, shape, content = first[last]
        late = {**first, last: (dtype, shape, content[:-1] + bytes([content[-1] ^ 1]))}
        write_safetensors(str(folder / f"{number} late.safetensors"), late)
    return folder


def expected(library: Path, *folders: str) -> set[frozenset[str]]:
    """The duplicates in it; where there are copies of it all in `folders`, those of every file."""
    same = [["first.safetensors", "edited.safetensors", "other container.pt"]]
    if folders:
        same += [["second.safetensors"], ["late.safetensors"]]
    return {
        frozenset(str(library / folder / f"{number} {name}") for name in names for folder in folders or ("",))
        for names in same
        for number in (0, 1)
    }


def launches(counter: Path) -> int:
    return os.path.getsize(counter) if counter.exists() else 0


def test_a_scan_with_a_gpu_says_what_one_without_says(library: Path, tmp_path: Path) -> None:
    """SPEC 1: the same signatures, groups and duplicates, to the letter."""
    counter = tmp_path / "launches"
    by_cpu = scan(library, tmp_path / "cpu", "--hasher", "cpu")
    by_gpu = scan(
        library, tmp_path / "gpu", "--hasher", "cuda", environment=emulated_environment(counter=str(counter))
    )
    assert by_cpu.code == by_gpu.code == 0, by_gpu.stderr
    assert not by_gpu.stderr
    assert launches(counter) > 10, "the GPU was not used"
    assert duplicate_sets(tmp_path / "gpu") == expected(library)
    for name, key in (("groups", "groups"), ("refined_groups", "refined_groups"), ("duplicates", "levels")):
        assert view(tmp_path / "cpu", name)[key] == view(tmp_path / "gpu", name)[key]


def test_a_gpu_that_was_asked_for_and_is_not_there_is_told(library: Path, tmp_path: Path) -> None:
    """The scan goes on with the CPU, and says so."""
    result = scan(library, tmp_path / "state", "--hasher", "cuda", environment=emulated_environment(devices=0))
    assert result.code == 0
    assert "no GPU of NVIDIA's answers" in result.stderr
    assert duplicate_sets(tmp_path / "state") == expected(library)


def test_a_slower_gpu_is_not_taken(tmp_path: Path) -> None:
    """`auto` measures both, once the daemon is ready, and says what it found."""
    (tmp_path / "root").mkdir()
    environment = emulated_environment(open_seconds=0.1)
    with Running(tmp_path, [tmp_path / "root"], environment=environment) as daemon:
        with daemon.client() as client, client.events(["hasher"]) as events:
            status = client.status()
            if not status.hasher_note:
                next(iter(events))
                status = client.status()
        assert status.hasher == "cpu"
        assert status.hasher_note.startswith("faster than NVIDIA Emulated GPU, 0.")


@pytest.mark.parametrize("launch", [1, 2, 3, 5, 8])
def test_the_daemon_survives_a_gpu_that_vanishes(library: Path, tmp_path: Path, launch: int) -> None:
    """Whatever was under way is digested by the CPU; `status` tells, and no process even restarts."""
    bell = tmp_path / "bell"
    environment = emulated_environment(fail_after=launch, count_from=str(bell))
    with Running(tmp_path, [library], tables=CUDA, environment=environment) as daemon, daemon.client() as client:
        daemon.settle()
        assert client.status().hasher == "cuda"
        bell.touch()
        shutil.copytree(library, library / "more")
        daemon.settle()
        assert duplicate_sets(daemon.state) == expected(library, "", "more")
        status = client.status()
        assert status.hasher == "cpu"
        assert "restart lorad to try it again" in status.hasher_note
        assert [error.text for error in status.errors] == [status.hasher_note]
        assert {child.restarts for child in status.children} == {0}


def test_a_gpu_that_kills_its_process_is_not_tried_for_ever(library: Path, tmp_path: Path) -> None:
    """A driver that crashes takes the hasher with it: the second time it is started again without the GPU."""
    environment = emulated_environment(die_after=2, counter=str(tmp_path / "launches {pid}"))
    with Running(tmp_path, [library], tables=CUDA, environment=environment) as daemon, daemon.client() as client:
        daemon.settle()
        assert duplicate_sets(daemon.state) == expected(library)
        status = client.status()
        assert status.hasher == "cpu"
        assert "the hasher's process ended while it used it" in status.hasher_note
        assert {child.name: child.restarts for child in status.children}["hasher"] == 2
    assert len(list(tmp_path.glob("launches *"))) == 2


def test_results_of_cpu_and_gpu_go_together(library: Path, tmp_path: Path) -> None:
    """What a GPU digested is not digested again without it: the catalogue does not tell them apart."""
    state = tmp_path / "state"
    scan(library, state, "--hasher", "cuda", environment=emulated_environment())
    before: Mapping[str, object] = {name: view(state, name).get(name) for name in VIEWS if name != "statistics"}
    again = scan(library, state, "--hasher", "cpu")
    assert again.report["bytes_read"] == 0
    assert {name: view(state, name).get(name) for name in before} == before
