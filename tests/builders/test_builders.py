"""The builders' files are what they claim to be, in the eyes of the libraries that people load them with."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from tests.builders import real
from tests.builders.architectures import ARCHITECTURES, LayerSpec, flux, llm, sd15, sdxl
from tests.builders.weights import ITEM_SIZE, Layers, random_weights, scalar
from tests.builders.write import (
    header,
    library_order,
    save_checkpoint,
    write_peft_folder,
    write_safetensors,
    write_sparse,
)

FLOATS = ("F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2")


def shapes(specs: list[LayerSpec]) -> dict[str, tuple[int, ...]]:
    return {spec.name: spec.shape for spec in specs}


def content(path: str) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Every tensor of a safetensors file as its library reads it, as (torch dtype, shape, bytes)."""
    return raw(load_file(path))


def raw(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {
        name: (str(tensor.dtype), tuple(tensor.shape), tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
        for name, tensor in tensors.items()
    }


@pytest.mark.parametrize(
    ("architecture", "modules"), [(sd15, 192 + 72), (sdxl, 722 + 72 + 192), (flux, 19 * 10 + 38 * 3)]
)
def test_kohya_architectures_have_the_modules_of_the_real_models(
    architecture: Callable[..., list[LayerSpec]], modules: int
) -> None:
    """Three layers a module, names unique, rank in the shape."""
    layers = shapes(architecture(7))
    assert len(layers) == 3 * modules
    assert all(shape[0] == 7 for name, shape in layers.items() if name.endswith("lora_down.weight"))
    assert all(shape[1] == 7 for name, shape in layers.items() if name.endswith("lora_up.weight"))


def test_names_and_shapes_are_those_of_published_files() -> None:
    """Spot checks against keys of files that kohya's and PEFT's trainers have written."""
    one, xl, flow, text = shapes(sd15(8)), shapes(sdxl(8)), shapes(flux(4)), shapes(llm(16))
    assert one["lora_te_text_model_encoder_layers_11_mlp_fc1.lora_up.weight"] == (3072, 8)
    assert one["lora_unet_up_blocks_3_attentions_2_proj_out.lora_down.weight"] == (8, 320, 1, 1)
    assert one["lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight"] == (
        8,
        768,
    )
    assert xl["lora_unet_input_blocks_8_1_transformer_blocks_9_ff_net_0_proj.lora_up.weight"] == (10240, 8)
    assert xl["lora_unet_middle_block_1_transformer_blocks_0_attn2_to_v.lora_down.weight"] == (8, 2048)
    assert xl["lora_te2_text_model_encoder_layers_31_self_attn_q_proj.alpha"] == ()
    assert flow["lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight"] == (9216, 4)
    assert flow["lora_unet_single_blocks_37_linear2.lora_down.weight"] == (4, 15360)
    assert text["base_model.model.model.layers.31.self_attn.k_proj.lora_B.weight"] == (1024, 16)


def test_width_and_every_make_an_architecture_tiny() -> None:
    small = sdxl(2, width=64, every=50)
    assert len(small) < 70
    assert sum(math.prod(spec.shape) for spec in small) < 10_000


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
@pytest.mark.parametrize("dtype", FLOATS)
def test_random_weights_are_finite_small_and_deterministic(name: str, dtype: str, tmp_path: Path) -> None:
    """The same seed gives the same bytes; another seed shares no layer but alpha."""
    specs = ARCHITECTURES[name](4, width=16, every=40)
    specs = [LayerSpec(spec.name, dtype, spec.shape) for spec in specs if dtype in FLOATS[:4] or spec.shape]
    layers = random_weights(specs, 5)
    assert layers == random_weights(specs, 5)
    other = random_weights(specs, 6)
    assert all(other[key] != layers[key] for key in layers if not key.endswith(".alpha"))
    path = write_safetensors(str(tmp_path / "x.safetensors"), layers)
    for tensor in load_file(path).values():
        assert bool(torch.isfinite(tensor.float()).all())
        assert float(tensor.float().abs().max()) <= 2


def test_zero_layers_and_alpha_are_as_asked() -> None:
    layers = random_weights(sd15(4, width=16, every=20), 1, alpha=4, zero=r"^lora_te_.*lora_up")
    for name, (_, _, data) in layers.items():
        if name.endswith(".alpha"):
            assert data == scalar(4, "F16")
        else:
            assert (not any(data)) == (name.startswith("lora_te_") and "lora_up" in name)


def test_default_order_and_padding_are_the_librarys(tmp_path: Path) -> None:
    """A file with layers of several dtypes is byte for byte what `safetensors.torch.save_file` writes."""
    path = real.by_safetensors(str(tmp_path))[0]
    with safe_open(path, "pt") as file:
        names = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    layers = {name: (names[name], shape, data) for name, (_, shape, data) in content(path).items()}
    ours = write_safetensors(str(tmp_path / "ours.safetensors"), layers, metadata=metadata)
    theirs = Path(path).read_bytes()
    start = 8 + int.from_bytes(theirs[:8], "little")
    assert os.path.getsize(ours) == len(theirs)
    assert Path(ours).read_bytes()[start:] == theirs[start:]
    assert json.loads(Path(ours).read_bytes()[8:start]) == json.loads(theirs[8:start])


@pytest.fixture
def layers() -> Layers:
    return random_weights(llm(2, width=64, every=40, dtype="BF16"), 3)


def test_order_metadata_and_padding_do_not_change_the_content(tmp_path: Path, layers: Layers) -> None:
    plain = write_safetensors(str(tmp_path / "plain.safetensors"), layers)
    turned = write_safetensors(
        str(tmp_path / "turned.safetensors"),
        layers,
        order=library_order(layers)[::-1],
        metadata={"name": "ä \ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16")},
        padding=13,
    )
    assert content(plain) == content(turned)
    assert Path(plain).read_bytes() != Path(turned).read_bytes()


def test_extra_bytes_make_a_file_that_the_library_refuses(tmp_path: Path, layers: Layers) -> None:
    path = write_safetensors(str(tmp_path / "extra.safetensors"), layers, extra=b"rest")
    with pytest.raises(SafetensorError), safe_open(path, "pt"):
        pass


def test_sparse_files_hold_zeros_but_for_the_pieces(tmp_path: Path) -> None:
    specs = [LayerSpec("a", "F32", (4,)), LayerSpec("b", "F32", (1 << 20,))]
    path = write_sparse(str(tmp_path / "sparse.safetensors"), specs, pieces={"b": {4: scalar(2, "F32")}})
    assert os.path.getsize(path) == len(header(specs)) + 16 + (4 << 20)
    assert os.stat(path).st_blocks * 512 < 1 << 20
    tensors = load_file(path)
    assert torch.equal(torch.nonzero(tensors["b"]).reshape(-1), torch.tensor([1]))
    assert not tensors["a"].any()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("nested", [None, "state_dict"])
def test_checkpoints_hold_the_same_layers(
    tmp_path: Path, layers: Layers, legacy: bool, nested: str | None
) -> None:
    with_scalar = {**layers, "x.alpha": ("F16", (), scalar(4, "F16"))}
    path = save_checkpoint(str(tmp_path / "x.pt"), with_scalar, legacy=legacy, nested=nested)
    assert (Path(path).read_bytes()[:2] == b"PK") != legacy
    loaded = torch.load(path, weights_only=True)
    tensors = loaded if nested is None else loaded[nested]
    expected = write_safetensors(str(tmp_path / "x.safetensors"), with_scalar)
    assert raw(tensors) == content(expected)


def test_peft_loads_the_peft_folder(tmp_path: Path) -> None:
    """PEFT reads the configuration and the weights that `write_peft_folder` wrote."""
    from peft import PeftConfig
    from peft.utils import load_peft_weights

    layers = random_weights(llm(2, width=64, blocks=2), 1)
    write_peft_folder(str(tmp_path), layers, rank=2, targets=("q_proj", "k_proj", "v_proj", "o_proj"))
    assert PeftConfig.from_pretrained(str(tmp_path)).r == 2
    weights = load_peft_weights(str(tmp_path), device="cpu")
    assert {name: len(data) for name, (_, _, data) in raw(weights).items()} == {
        name: math.prod(shape) * ITEM_SIZE[dtype] for name, (dtype, shape, _) in layers.items()
    }


def test_real_libraries_write_files_that_load(tmp_path: Path) -> None:
    """Every writer's file has layers, and the same weights in two containers are equal."""
    peft = real.by_peft(str(tmp_path / "peft"))[0]
    binary = real.by_peft(str(tmp_path / "peft-bin"), safetensors=False)[0]
    assert content(peft) == raw(torch.load(binary, weights_only=True))
    assert len(content(peft)) == 4

    diffusers, diffusers_bin = real.by_diffusers(str(tmp_path))
    assert content(diffusers) == raw(torch.load(diffusers_bin, weights_only=True))

    kinds = [" ".join(sorted(content(path))) for path in real.by_lycoris(str(tmp_path))]
    for keys, part in zip(kinds, ("lora_mid|lora_up", "hada_w1_a", "lokr_w1"), strict=True):
        assert any(word in keys for word in part.split("|"))

    plain, legacy, training = real.by_torch(str(tmp_path))
    expected = content(real.by_safetensors(str(tmp_path))[0])
    assert raw(torch.load(plain, weights_only=True)) == expected
    assert raw(torch.load(legacy, weights_only=True)) == expected
    assert raw(torch.load(training, weights_only=True)["state_dict"]) == expected
