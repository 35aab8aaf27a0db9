"""What changes the function of the same tensors counts, and nothing else does (SPEC section 1)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from peft import LoHaConfig, LoKrConfig, LoraConfig

from loracore.adapter.function import (
    BESIDE,
    DEFAULTS,
    config_function,
    config_text,
    function_at,
    header_function,
)
from loracore.errors import FileError
from loracore.tensorfile import open_container
from tests.builders.real import by_diffusers, by_peft

#: A scale of 2: what PEFT's users have most.
STATED: dict[str, Any] = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["to_q", "to_v"]}
LAYERS = [f"base_model.model.{name}.lora_{side}.weight" for name in ("to_q", "to_v") for side in "AB"]


def of(**fields: object) -> bytes | None:
    return config_function(json.dumps(STATED | fields).encode(), LAYERS)


def of_text(text: str) -> bytes | None:
    return config_function(text.encode("utf-8", "surrogatepass"), LAYERS)


def stated(**texts: str) -> bytes | None:
    """Of a header whose tensors have no alpha."""
    return header_function({"format": "pt"} | texts, LAYERS)


@contextmanager
def opened(path: str | Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


def beside(folder: Path) -> bytes | None:
    with opened(folder, os.O_PATH | os.O_DIRECTORY) as fd:
        text = config_text(fd)
    return None if text is None else config_function(text, LAYERS)


def at(path: str) -> tuple[bytes | None, bytes | None]:
    with opened(path) as fd, opened(os.path.dirname(path)) as folder:
        return function_at(fd, os.fsencode(os.path.basename(path)), folder)


@pytest.mark.parametrize("field", sorted(BESIDE))
def test_what_only_training_or_loading_asks_for_does_not_count(field: str) -> None:
    assert of(**{field: "another"}) == of()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("r", 8), ("lora_alpha", 16), ("lora_alpha", 8.5), ("lora_alpha", "8"), ("lora_alpha", True),
        ("rank_pattern", {"to_q": 2}), ("alpha_pattern", {"to_q": 2}), ("use_rslora", True), ("use_dora", True),
        ("init_lora_weights", "pissa"), ("init_lora_weights", False), ("fan_in_fan_out", True),
        ("target_parameters", ["experts"]), ("modules_to_save", ["head"]), ("layers_to_transform", [1]),
        ("layers_pattern", "blocks"), ("bias", "lora_only"), ("lora_bias", True), ("layer_replication", [[0, 4]]),
        ("trainable_token_indices", [1, 2]), ("megatron_core", "other"), ("target_modules", ["to_q"]),
        ("target_modules", ["to_q", "to_v", "to_k"]), ("target_modules", "all-linear"),
        ("exclude_modules", ["to_q"]), ("of_a_later_peft", True), ("of_a_later_peft", False),
        ("of_a_later_peft", 0), ("of_a_later_peft", {}),
    ],
)  # fmt: skip
def test_what_changes_the_function_or_is_not_known_counts(field: str, value: object) -> None:
    assert of(**{field: value}) != of()


def test_two_values_of_a_field_are_two_functions() -> None:
    values = [None, 4, 5, 4.5, "4", True, [4], [4, 4.5], {"4": 4}]
    assert len({of(of_a_later_peft=value) for value in values}) == len(values)
    assert of(of_a_later_peft=4.0) == of(of_a_later_peft=4)


@pytest.mark.parametrize("kind", [LoraConfig, LoHaConfig, LoKrConfig])
def test_a_default_of_peft_says_nothing_written_or_not(kind: type[Any]) -> None:
    """The table is that of the peft that is installed; a field of a later one counts."""
    written = kind().to_dict()
    known = {key: value for key, value in written.items() if key in BESIDE or key in DEFAULTS}
    assert written.keys() - known.keys() == {"r", "lora_alpha", "alpha"} & written.keys()
    assert all(DEFAULTS[key] == value for key, value in known.items() if key in DEFAULTS)
    assert of_text(json.dumps(written)) is None
    assert of(**{key: value for key, value in known.items() if key not in STATED}) == of()
    assert of(**dict.fromkeys(known.keys() - STATED.keys())) == of()


def test_without_a_rank_and_an_alpha_both_are_8() -> None:
    assert of_text('{"lora_alpha": 16}') == of_text('{"r": 8, "lora_alpha": 16}') != None  # noqa: E711
    assert of_text('{"r": 16}') == of_text('{"r": 16, "lora_alpha": null}') != of_text('{"lora_alpha": 16}')
    assert of_text("{}") is of_text('{"r": 8}') is of_text('{"alpha": 8, "peft_type": "LOHA"}') is None


def test_alpha_is_what_the_kind_of_adapter_calls_it() -> None:
    """LoRA knows no `alpha`, LoHa no `lora_alpha`."""
    assert of_text('{"peft_type": "LOHA", "r": 16, "alpha": 16}') is None
    assert of_text('{"peft_type": "LORA", "r": 16, "alpha": 16}') is not None
    assert of_text('{"peft_type": "LOKR", "r": 16, "lora_alpha": 16}') is not None


@pytest.mark.parametrize(
    "fields",
    [{"lora_alpha": 4}, {"lora_alpha": 4.0}, {"r": 1, "lora_alpha": 1}, {"lora_alpha": 2, "use_rslora": True}],
)
def test_a_scale_of_1_is_no_configuration(fields: dict[str, Any]) -> None:
    assert of(**fields) is None
    assert of(**fields, use_dora=True) is not None
    assert of(**fields, alpha_pattern={"to_q": 8}) is not None


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"lora_alpha": 4, "use_rslora": True},
        {"lora_alpha": -4},
        {"r": 0, "lora_alpha": 0},
        {"r": True, "lora_alpha": 1},
    ],
)
def test_another_scale_is_not_none(fields: dict[str, Any]) -> None:
    assert of(**fields) is not None


def test_the_order_of_modules_makes_no_difference_that_of_patterns_does() -> None:
    for field in ("target_modules", "exclude_modules", "modules_to_save"):
        assert of(**{field: ["b", "a"]}) == of(**{field: ["a", "b"]})
    assert of(alpha_pattern={"q": 1, "a.q": 2}) != of(alpha_pattern={"a.q": 2, "q": 1})
    assert of(target_parameters=["a", "b"]) != of(target_parameters=["b", "a"])


def test_modules_that_are_just_those_of_the_tensors_say_nothing() -> None:
    one = json.dumps(STATED | {"lora_alpha": 4}).encode()
    assert config_function(one, LAYERS) is None
    assert config_function(one, [*LAYERS, "base_model.model.to_k.lora_A.weight"]) is not None
    assert config_function(one, LAYERS[:2]) is not None
    assert config_function(one) is not None
    # `to_q` is not the end of `into_q`.
    assert config_function(one, [name.replace("to_q", "into_q") for name in LAYERS]) is not None


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", "4", '{"r": 4} x', '{"r": NaN}', '{"r": 1e999}', '{"r": 4, "r": 8}', "\ufeff{}",
        '{"a": {"b": 1, "b": 1}}', "[" * 100_000, '{"a":' * 100_000, '{"r": ' + "9" * 10_000 + "}", '"\ud800"',
    ],
)  # fmt: skip
def test_what_is_no_configuration_has_a_function_of_its_own(text: str) -> None:
    assert of_text(text) not in (None, of(), of_text(text + " "))
    assert of_text(text) == of_text(text)


# Files


@pytest.mark.parametrize("kind", ["pipe", "folder", "socketless link", "loop", "huge", "device"])
def test_a_configuration_that_is_no_plain_file_is_never_none_and_never_waited_for(
    tmp_path: Path, kind: str
) -> None:
    found = set()
    for name in ("one", "other"):
        path = tmp_path / name / "adapter_config.json"
        path.parent.mkdir()
        match kind:
            case "pipe":
                os.mkfifo(path)
            case "folder":
                path.mkdir()
            case "socketless link":
                path.symlink_to("nowhere")
            case "loop":
                path.symlink_to(path.name)
            case "huge":
                path.write_bytes(b"{}")
                os.truncate(path, 1 << 40)
            case "device":
                path.symlink_to("/dev/zero" if name == "one" else "/dev/full")
        found.add(beside(path.parent))
        assert beside(path.parent) in found
    assert len(found - {None}) == 2


def test_a_link_to_a_configuration_is_followed_and_none_is_none(tmp_path: Path) -> None:
    """Hugging Face's cache has a link for each file."""
    (tmp_path / "blob").write_text(json.dumps(STATED))
    folder = tmp_path / "snapshot"
    folder.mkdir()
    assert beside(folder) is None
    (folder / "adapter_config.json").symlink_to("../blob")
    assert beside(folder) == of()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read all files")
def test_an_unreadable_configuration_is_not_none(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_config.json").chmod(0)
    assert beside(tmp_path) is not None


def test_folders_of_peft_differ_by_what_counts_alone(tmp_path: Path) -> None:
    (first,) = by_peft(str(tmp_path / "first"))
    (again,) = by_peft(str(tmp_path / "again"), lora_dropout=0.1, target_modules=["to_v", "to_q"])
    (louder,) = by_peft(str(tmp_path / "louder"), lora_alpha=16)
    (plain,) = by_peft(str(tmp_path / "plain"), lora_alpha=4, init_lora_weights=True)
    assert Path(first).read_bytes() == Path(louder).read_bytes()
    assert at(first) == at(again)
    assert len({at(first), at(louder), at(plain)}) == 3
    # A copy of the weights alone does what a folder of scale 1 does.
    (tmp_path / "alone").mkdir()
    alone = str(tmp_path / "alone" / "adapter_model.safetensors")
    Path(alone).write_bytes(Path(plain).read_bytes())
    assert at(alone) == at(plain) == (None, None)


def test_what_is_no_container_has_no_function(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"no")
    with pytest.raises(FileError):
        at(str(tmp_path / "a.safetensors"))


# Headers


def test_headers_of_diffusers_say_what_the_configuration_says(tmp_path: Path) -> None:
    found = {}
    for name, alpha in (("none", None), ("one", 4), ("two", 8)):
        (tmp_path / name).mkdir()
        config = (
            LoraConfig(r=4, lora_alpha=alpha, target_modules=["to_q", "to_k", "to_v"]).to_dict() if alpha else None
        )
        if config:
            config["target_modules"] = sorted(config["target_modules"])
            config["peft_type"] = "LORA"
        path, checkpoint = by_diffusers(str(tmp_path / name), config=config)
        found[name] = at(path)
        assert at(checkpoint) == (None, None)
    assert found["none"] == found["one"] == (None, None)
    assert found["two"][0] is not None


@pytest.mark.parametrize("key", ["lora_alpha", "transformer.lora_alpha", "use_dora", "unet.rank_pattern", "alpha"])
def test_what_the_header_says_one_by_one_counts(key: str) -> None:
    assert stated(**{key: "16"}) not in (None, stated(**{key: "32"}))
    assert stated(**{key: "16"}) == stated(**{key: "16.0"})


def test_in_the_header_too_a_scale_of_1_and_defaults_say_nothing() -> None:
    assert stated(**{"transformer.lora_alpha": "16", "transformer.r": "16"}) is None
    assert stated(**{"transformer.lora_alpha": "16", "unet.r": "16"}) is not None
    # The rank is that of the tensors here, whatever it is.
    assert stated(lora_alpha="8") is not None
    assert (
        stated(use_dora="False", use_rslora="false", rank_pattern="{}", bias="none", layers_pattern="None") is None
    )
    assert stated(lora_adapter_metadata="{}") is None
    assert stated(lora_adapter_metadata='{"unet.r": 4, "unet.lora_alpha": 4}') is None


def test_alpha_in_the_metadata_counts_where_no_tensor_says_it() -> None:
    kohya = {"ss_network_dim": "16", "ss_network_alpha": "8.0", "ss_network_args": '{"conv_alpha": 1}'}
    assert stated(**kohya) not in (None, stated(**kohya | {"ss_network_alpha": "4"}))
    assert stated(**kohya) != stated(**kohya | {"ss_network_args": '{"conv_alpha": 2}'})
    assert header_function(kohya, ["lora_unet_x.alpha", "lora_unet_x.lora_down.weight"]) is None
    assert stated(ss_network_dim="16", ss_network_alpha="16.0", ss_network_args="{}") is None
    assert stated(ss_network_dim="16", ss_network_alpha="None") is None


def test_all_other_metadata_say_nothing() -> None:
    others = {
        "ss_output_name": "x",
        "modelspec.title": "y",
        "ss_tag_frequency": '{"a": {"b": 1}}',
        "trigger": "alpha",
    }
    assert stated(**others) is None
    assert stated(**others, lora_alpha="2") == stated(lora_alpha="2")


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"unet.r": 4, "unet.r": 4}', "[" * 50_000, '{"a":' * 900 + "1" + "}" * 900]
)
def test_a_header_that_cannot_be_read_has_a_function_of_its_own(text: str) -> None:
    for key in ("lora_adapter_metadata", "unet.rank_pattern"):
        assert stated(**{key: text}) not in (None, stated(**{key: text + " x"}))


def test_a_hostile_header_costs_little() -> None:
    """As many parts, names and dots as a header can hold; what is beyond all models counts as it stands."""
    layers = [f"p{number}" + ".a" * 300 + ".lora_A.weight" for number in range(5_000)]
    assert config_function(b'{"target_modules": ["a"]}', layers) is None
    parts = {f"p{number}.target_modules": '["a"]' for number in range(5_000)}
    assert header_function(parts, layers) is not None
    assert config_function(b'{"target_modules": ["a"]}', layers * 2) is not None


def test_metadata_of_a_checkpoint_count_as_those_of_safetensors(tmp_path: Path) -> None:
    import torch

    path = tmp_path / "a.pt"
    torch.save({"state_dict": {"x.lora_A.weight": torch.ones(2, 2)}, "lora_alpha": 4}, path)
    assert at(str(path))[0] == header_function(open_container(str(path)).metadata) == stated(lora_alpha="4")


def test_torch_and_numpy_are_not_loaded() -> None:
    check = "import sys, loracore.adapter.function; assert not {'torch', 'numpy', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)
