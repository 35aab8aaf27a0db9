"""`convert` where one naming has a fused projection and the other its parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from loracore.names.originals import diffusers_names
from tests.toolkit.change.converting import CLOSE, assert_same, convert, deltas, flux_file, randn
from tests.toolkit.change.libraries import by_diffusers, by_peft, flux, save


def test_a_fused_projection_is_cut_and_joined(tmp_path: Path) -> None:
    """Flux: kohya's qkv and linear1 are three and four modules of diffusers', whose weights gain the same rows."""
    path = flux_file(tmp_path / "kohya.safetensors")
    convert(path, tmp_path / "diffusers.safetensors", "diffusers")
    gained = by_diffusers(tmp_path / "diffusers.safetensors", "flux", flux())
    ours = {name.removeprefix("transformer:"): delta for name, delta in deltas(path).items()}
    for block in range(2):
        for stream, names in (
            ("img", ("to_q", "to_k", "to_v")),
            ("txt", ("add_q_proj", "add_k_proj", "add_v_proj")),
        ):
            rows = [gained.pop(f"transformer_blocks.{block}.attn.{name}.weight").numpy() for name in names]
            assert_same(
                {"": np.concatenate(rows)}, {"": ours.pop(f"double_blocks.{block}.{stream}_attn.qkv")}, CLOSE
            )
        root = f"single_transformer_blocks.{block}"
        parts = [f"{root}.attn.{name}" for name in ("to_q", "to_k", "to_v")] + [f"{root}.proj_mlp"]
        rows = [gained.pop(f"{part}.weight").numpy() for part in parts]
        assert_same({"": np.concatenate(rows)}, {"": ours.pop(f"single_blocks.{block}.linear1")}, CLOSE)
    shift, scale = np.split(ours.pop("final_layer.adaLN_modulation.1"), 2)
    assert_same({"": gained.pop("norm_out.linear.weight")}, {"": np.concatenate([scale, shift])}, CLOSE)
    assert len(gained) == len(ours) == 2 * (2 * 4 + 2) + 2


def test_diffusers_finds_the_same_in_kohyas_flux_file(tmp_path: Path) -> None:
    """But for linear1, which its converter cuts by the widths of the released model alone."""
    path = flux_file(tmp_path / "kohya.safetensors")
    tensors = {name: values for name, values in load_file(path).items() if "linear1" not in name}
    # It drops the alpha of the final layer, and has no prefix for the embedders.
    tensors = {name: values for name, values in tensors.items() if "_blocks_" in name}
    path = save(path, tensors)
    convert(path, tmp_path / "diffusers.safetensors", "diffusers")
    assert_same(
        by_diffusers(tmp_path / "diffusers.safetensors", "flux", flux()), by_diffusers(path, "flux", flux()), CLOSE
    )
    convert(tmp_path / "diffusers.safetensors", tmp_path / "back.safetensors", "kohya")
    after = load_file(tmp_path / "back.safetensors")
    assert after.keys() == tensors.keys()
    assert all(torch.equal(after[name], values) for name, values in tensors.items())


@pytest.mark.parametrize("blocks", [False, True])
def test_a_flux_round_trip_keeps_every_bit(blocks: bool, tmp_path: Path) -> None:
    """Through PEFT and diffusers; a projection of blocks becomes parts of its blocks' rank, and blocks again."""
    path = flux_file(tmp_path / "kohya.safetensors", blocks=blocks)
    convert(path, tmp_path / "peft", "peft")
    convert(tmp_path / "peft", tmp_path / "diffusers.safetensors", "diffusers")
    convert(tmp_path / "diffusers.safetensors", tmp_path / "back.safetensors", "kohya")
    part = "transformer.transformer_blocks.0.attn.to_k.lora_A.weight"
    assert len(load_file(tmp_path / "diffusers.safetensors")[part]) == (4 if blocks else 12)
    before, after = load_file(path), load_file(tmp_path / "back.safetensors")
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], values) for name, values in before.items())
    gained = by_peft(tmp_path / "peft", flux())
    assert_same(gained, by_diffusers(tmp_path / "diffusers.safetensors", "flux", flux()), CLOSE)


def test_parts_that_differ_become_blocks(tmp_path: Path) -> None:
    """Each with its own A, rank and scale; a part that was not trained is zero."""
    generator = torch.Generator().manual_seed(3)
    tensors, sizes = {}, {"attn.to_q": (2, 32), "attn.to_v": (3, 32), "proj_mlp": (2, 128)}
    for name, (rank, out) in sizes.items():
        root = f"transformer.single_transformer_blocks.0.{name}"
        tensors[f"{root}.lora_A.weight"] = torch.randn(rank, 32, generator=generator)
        tensors[f"{root}.lora_B.weight"] = torch.randn(out, rank, generator=generator)
    path = save(tmp_path / "a.safetensors", tensors)
    convert(path, tmp_path / "b.safetensors", "kohya")
    (joined,) = deltas(tmp_path / "b.safetensors").values()
    parts = {name.rpartition("blocks.0.")[2]: delta for name, delta in deltas(path).items()}
    expected = [parts["attn.to_q"], np.zeros((32, 32)), parts["attn.to_v"], parts["proj_mlp"]]
    assert_same({"": joined}, {"": np.concatenate(expected)})
    convert(tmp_path / "b.safetensors", tmp_path / "c.safetensors", "diffusers")
    again = {name.rpartition("blocks.0.")[2]: delta for name, delta in deltas(tmp_path / "c.safetensors").items()}
    assert not again.pop("attn.to_k").any()
    assert_same(again, parts)


def sd3_file(path: Path) -> Path:
    """A file as sd-scripts writes it for a small SD3 of two blocks, the first with dual attention."""
    width, sizes = 32, {}
    for block in range(2):
        for stream in ("x_block", "context_block"):
            last = stream == "context_block" and block == 1
            root = f"joint_blocks_{block}_{stream}"
            sizes[f"{root}_attn_qkv"] = (3 * width, width)
            # The last context block has no way out, and is modulated by shift and scale alone.
            if not last:
                sizes |= {
                    f"{root}_attn_proj": (width, width), f"{root}_mlp_fc1": (4 * width, width),
                    f"{root}_mlp_fc2": (width, 4 * width),
                }  # fmt: skip
            chunks = 2 if last else 9 if stream == "x_block" and block == 0 else 6
            sizes[f"{root}_adaLN_modulation_1"] = (chunks * width, width)
    sizes["joint_blocks_0_x_block_attn2_qkv"] = (3 * width, width)
    sizes |= {"final_layer_adaLN_modulation_1": (2 * width, width), "context_embedder": (width, 8)}
    tensors = {}
    for seed, (name, (out, inputs)) in enumerate(sizes.items()):
        tensors[f"lora_unet_{name}.lora_down.weight"] = randn(4, inputs, seed=seed)
        tensors[f"lora_unet_{name}.lora_up.weight"] = randn(out, 4, seed=seed + 100)
        tensors[f"lora_unet_{name}.alpha"] = torch.tensor(2.0)
    return save(path, tensors)


def sd3() -> Any:
    from diffusers import SD3Transformer2DModel

    torch.manual_seed(0)
    return SD3Transformer2DModel(
        sample_size=8, in_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=8, caption_projection_dim=32, pooled_projection_dim=8, out_channels=4,
        pos_embed_max_size=8, dual_attention_layers=(0,), qk_norm="rms_norm",
    )  # fmt: skip


def test_sd3_is_what_diffusers_loads(tmp_path: Path) -> None:
    """Every rank of rows where diffusers has it, shift and scale in its order; and back to the last bit."""
    path = sd3_file(tmp_path / "kohya.safetensors")
    convert(path, tmp_path / "diffusers.safetensors", "diffusers")
    convert(tmp_path / "diffusers.safetensors", tmp_path / "back.safetensors", "kohya")
    before, after = load_file(path), load_file(tmp_path / "back.safetensors")
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], values) for name, values in before.items())
    gained = by_diffusers(tmp_path / "diffusers.safetensors", "sd3", sd3())
    ours = {name.removeprefix("transformer:"): delta for name, delta in deltas(path).items()}
    for name, delta in ours.items():
        parts = [gained.pop(f"{part}.weight").numpy() for part in diffusers_names("sd3", name) or ()]
        swapped = name in {"final_layer.adaLN_modulation.1", "joint_blocks.1.context_block.adaLN_modulation.1"}
        expected = np.concatenate(np.split(delta, 2)[::-1]) if swapped else delta
        assert_same({name: np.concatenate(parts)}, {name: expected}, CLOSE)
    assert not gained


def test_wan_is_renamed_and_back(tmp_path: Path) -> None:
    """What musubi-tuner writes, under diffusers' names; its own names again give the same bits."""
    names = ("blocks_0_self_attn_q", "blocks_1_cross_attn_o", "blocks_1_ffn_0", "time_embedding_0")
    tensors = {}
    for seed, name in enumerate(names):
        tensors[f"lora_unet_{name}.lora_down.weight"] = randn(4, 16, seed=seed)
        tensors[f"lora_unet_{name}.lora_up.weight"] = randn(16, 4, seed=seed + 10)
        tensors[f"lora_unet_{name}.alpha"] = torch.tensor(2.0)
    path = save(tmp_path / "a.safetensors", tensors)
    convert(path, tmp_path / "b.safetensors", "diffusers")
    stems = {
        name.partition(".lora_")[0].removeprefix("transformer.") for name in load_file(tmp_path / "b.safetensors")
    }
    assert stems == {
        "blocks.0.attn1.to_q", "blocks.1.attn2.to_out.0", "blocks.1.ffn.net.0.proj",
        "condition_embedder.time_embedder.linear_1",
    }  # fmt: skip
    convert(tmp_path / "b.safetensors", tmp_path / "c.safetensors", "kohya")
    after = load_file(tmp_path / "c.safetensors")
    assert after.keys() == tensors.keys()
    assert all(torch.equal(after[name], values) for name, values in tensors.items())
