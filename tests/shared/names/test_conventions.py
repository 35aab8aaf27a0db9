"""Names in every convention, against the module names of the real models."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import nn

from loracore.names import canonical, originals
from loracore.names.conventions import Nameless, bare, key_of, suffix_of
from tests.shared.names.test_canonical import adapted, clip, flux, qwen, sd3, sd15, sdxl, t5, wan

FAMILIES = {"sd15": sd15, "sdxl": sdxl, "flux": flux, "sd3": sd3, "wan": wan, "qwen-image": qwen}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_module_has_a_kohya_stem_that_leads_back(family: str) -> None:
    """All linear layers and convolutions of the released models; parts of a fused projection by their whole."""
    model: Callable[[], nn.Module] = FAMILIES[family]
    component = "unet" if family.startswith("sd") and family != "sd3" else "transformer"
    stems: dict[str, list[str]] = {}
    for name in adapted(model):
        part = originals.original_part(family, name) if component == "transformer" else None
        stem = key_of("kohya", component, part.original if part else name, family)
        assert stem.startswith("lora_unet_")
        assert "." not in stem
        stems.setdefault(stem, []).append(name)
    flat = [stem.removeprefix("lora_unet_") for stem in stems]
    found = canonical.dotted(flat, "unet")
    for stem, modules in stems.items():
        kind, name = canonical.canonical("unet", found[stem.removeprefix("lora_unet_")])
        assert kind == component
        again = originals.diffusers_names(family, name) or (name,)
        assert sorted(again) == sorted(modules)


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_original_unet_names_are_the_inverse_of_diffusers(family: str) -> None:
    """Each module has one original name, which leads back to it."""
    found = {}
    for name in adapted(FAMILIES[family]):
        original = originals.original_unet(name, family)
        assert original is not None
        assert canonical.canonical("unet", original) == ("unet", name)
        found[original] = name
    assert len(found) == len(adapted(FAMILIES[family]))


@pytest.mark.parametrize(
    ("component", "family", "kohya", "diffusers"),
    [
        ("te1", "sd15", "lora_te_", "text_encoder."), ("te1", "sdxl", "lora_te1_", "text_encoder."),
        ("te2", "sdxl", "lora_te2_", "text_encoder_2."), ("te1", "flux", "lora_te1_", "text_encoder."),
        ("te2", "sd3", "lora_te2_", "text_encoder_2."),
    ],
)  # fmt: skip
def test_clips_names(component: str, family: str, kohya: str, diffusers: str) -> None:
    """Numbered where a pipeline has several; diffusers' from transformers' own names."""
    for name in adapted(clip):
        whole = f"{component}.{name}"
        assert key_of("kohya", component, whole, family) == kohya + name.replace(".", "_")
        assert key_of("diffusers", component, whole, family) == diffusers + name
        assert bare(component, whole) == name.removeprefix("text_model.")


def test_t5_is_the_third_for_kohya_and_the_second_of_two_for_diffusers() -> None:
    for name in adapted(t5):
        if name.startswith("encoder.block."):
            flat = name.replace(".", "_")
            assert key_of("kohya", "te2", f"te2.{name}", "flux") == f"lora_te3_{flat}"
            assert key_of("diffusers", "te3", f"te3.{name}", "flux") == f"text_encoder_2.{name}"
            assert key_of("diffusers", "te3", f"te3.{name}", "sd3") == f"text_encoder_3.{name}"


@pytest.mark.parametrize(
    ("convention", "component", "name", "family", "word"),
    [
        ("kohya", "llm", "model.layers.0.self_attn.q_proj", "llama", "--to peft"),
        ("diffusers", "llm", "model.layers.0.self_attn.q_proj", "llama", "--to peft"),
        (
            "kohya",
            "transformer",
            "transformer_blocks.0.attn.to_q",
            "flux",
            "is part of 'double_blocks.0.img_attn.qkv'",
        ),
        ("peft", "transformer", "double_blocks.0.img_attn.qkv", "flux", "is 3 modules in diffusers"),
        ("diffusers", "transformer", "double_blocks.0.img_attn_qkv", "hunyuan-video", "no name in diffusers"),
        ("kohya", "transformer", "transformer_blocks.0.attn1.to_q", "ltx", "no name in kohya's"),
        ("peft", "unet", "lora_unet_made_up_0", "sd15", "no model that is known here"),
    ],
)
def test_what_has_no_name_says_why(convention: str, component: str, name: str, family: str, word: str) -> None:
    with pytest.raises(Nameless, match=word):
        key_of(convention, component, name, family)


def test_suffixes_of_roles() -> None:
    """As each convention's writer has them."""
    assert suffix_of("kohya", "down") == ".lora_down.weight"
    assert suffix_of("peft", "up") == suffix_of("diffusers", "up", "unet") == ".lora_B.weight"
    assert suffix_of("diffusers", "up", "te1") == ".lora_linear_layer.up.weight"
    for convention, role in (("peft", "alpha"), ("diffusers", "mid"), ("kohya", "embedding_up")):
        with pytest.raises(Nameless, match=role):
            suffix_of(convention, role)
