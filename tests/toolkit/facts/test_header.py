"""Facts of headers: as the job `metadata` has them, for files of real writers, and at what cost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from loracore.facts import Facts, decode, encode
from loracore.jobs.job import Alone
from loracore.jobs.metadata import MetadataParameters
from loracore.tensorfile import open_regular, read_container
from lorakit.facts.header import facts
from lorakit.jobs.metadata.job import JOB
from tests.builders import real
from tests.builders.architectures import flux, llm, sd15, sdxl
from tests.builders.weights import random_weights
from tests.builders.write import write_peft_folder, write_safetensors
from tests.toolkit.test_metadata import KOHYA


def of(path: str | Path) -> Facts:
    name = os.fsencode(path)
    with open_regular(name) as source:
        found = facts(read_container(source, name), name)
    assert decode(encode(found)) == found
    return found


def test_what_a_trainer_states_and_what_shapes_show(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_safetensors(str(path), random_weights(sdxl(4, width=16, every=10), 1, alpha=2), metadata=KOHYA)
    found = of(path)
    assert (found.family, found.algorithm, found.convention) == ("sdxl", "lora", "kohya")
    assert (found.rank, found.min_rank, found.alpha, found.dtype) == (4, 4, 2.0, "F16")
    assert found.sound
    assert (found.title, found.output, found.author) == ("grün_cat", "grün_cat", "me")
    assert (found.base, found.epoch, found.steps) == ("sdxl_base_v1-0", 10, 400)
    assert found.triggers == ("sks cat", "meow")
    assert found.tags == (("cat", 5), ("dog", 3), ("whiskers", 1))
    assert found.date == "2023-11-14T23:13:20+00:00"
    assert (found.session, found.model_hash) == ("3017823435", "0" * 64)


def test_facts_agree_with_the_job_metadata(tmp_path: Path) -> None:
    """For files of each real writer, and of four families."""
    for name in ("peft", "lycoris", "diffusers", "safetensors", "torch"):
        (tmp_path / name).mkdir()
    files = [
        *real.by_peft(str(tmp_path / "peft")),
        *real.by_lycoris(str(tmp_path / "lycoris")),
        *real.by_diffusers(str(tmp_path / "diffusers")),
        *real.by_safetensors(str(tmp_path / "safetensors")),
        *real.by_torch(str(tmp_path / "torch")),
    ]
    for name, specs in (("sd15", sd15(8, width=8)), ("flux", flux(4, width=8)), ("llm", llm(4))):
        path = str(tmp_path / f"{name}.safetensors")
        write_safetensors(path, random_weights(specs, 1, alpha=2))
        files.append(path)
    weights = [path for path in files if path.endswith((".safetensors", ".bin", ".pt", ".ckpt", ".pth"))]
    assert len(weights) > 8
    for path in weights:
        found, told = of(path), JOB.run(MetadataParameters(os.fsencode(path)), Alone())
        shapes = told.architecture_info
        assert found.family == told.model_info.family, path
        assert found.modules == shapes.modules, path
        assert found.convention == shapes.convention, path
        assert found.rank == (max(shapes.ranks.values()) if shapes.ranks else shapes.rank), path
        assert (found.algorithm or "").lower() == (shapes.algorithm or "").lower().replace(" + ", "+"), path
        assert found.sound is told.validation_info.is_valid, path
        assert found.base in (None, told.model_info.base_model), path


def test_peft_says_beside_the_file_what_it_is(tmp_path: Path) -> None:
    layers = random_weights(llm(4), 1)
    write_peft_folder(str(tmp_path), layers, rank=4, targets=["q_proj"], base="org/Base-7B", lora_alpha=32)
    path = tmp_path / "adapter_model.safetensors"
    found = of(path)
    assert (found.base, found.alpha, found.trainer, found.convention) == ("org/Base-7B", 32.0, "PEFT", "peft")
    (tmp_path / "adapter_config.json").write_text("not JSON")
    found = of(path)
    assert found.base is None
    assert found.problem is not None
    assert found.problem.startswith("adapter_config.json: ")


def test_a_configuration_behind_a_link_is_read_and_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """As in the cache of the Hugging Face hub, where all names are links."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    snapshot.mkdir()
    write_peft_folder(str(blobs), random_weights(llm(4), 1), rank=4, targets=["q_proj"], base="org/Base-7B")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (snapshot / name).symlink_to(blobs / name)
    name = os.fsencode(snapshot / "adapter_model.safetensors")
    with open_regular(os.fsencode(blobs / "adapter_model.safetensors")) as source:
        container = read_container(source, name)
    assert facts(container, name).base == "org/Base-7B"
    (snapshot / "adapter_config.json").unlink()
    assert facts(container, name).base is None
    os.mkfifo(snapshot / "adapter_config.json")
    assert facts(container, name).problem == "adapter_config.json: it cannot be read, or is no JSON"


def test_a_header_that_lies_about_its_rank_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_safetensors(str(path), random_weights(sd15(4, width=8), 1, alpha=2), metadata={"ss_network_dim": "128"})
    found = of(path)
    assert found.rank == 4
    assert found.problem == "ss_network_dim states rank 128, but the modules have 4"


def test_what_is_no_adapter_is_not_sound(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_safetensors(str(path), random_weights([("x.y", "F32", (2, 2))], 1))
    found = of(path)
    assert not found.sound
    assert found.family is None
    assert found.problem is not None


def test_texts_of_strangers_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    most = {"everywhere": 2**63 - 1}
    tags = {"y": most, "z": most, "x": {f"tag {number} " + "y" * 1000: number for number in range(500)}}
    metadata = {
        "modelspec.title": "t" * 100_000,
        "ss_tag_frequency": json.dumps(tags),
        "modelspec.trigger_phrase": ", ".join(f"{number} " + "w" * 500 for number in range(1000)),
        "ss_dataset_dirs": json.dumps({"x": {"img_count": 2**63 - 1}}),
        "ss_epoch": "99999999999999999999999",
        "ss_steps": "-5",
    }
    write_safetensors(str(path), random_weights(sd15(4, width=8), 1, alpha=2), metadata=metadata)
    found = of(path)
    assert len(encode(found)) < 20_000
    assert (found.epoch, found.steps) == (None, None)
    assert len(found.tags) == len(found.triggers) == 20


def test_loaders_load_no_numbers_for_it() -> None:
    """They import it with their first header: neither numpy nor torch may come with it."""
    code = "import sys, lorakit.facts.header; print(sorted({'numpy', 'torch', 'scipy'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("field", Facts.__struct_fields__)
def test_what_is_not_known_takes_no_room(field: str) -> None:
    assert field.encode() not in msgspec.msgpack.encode(Facts())
