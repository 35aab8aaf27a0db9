"""What a file states of itself as a model: its name, its base, who made it, and on what terms."""

from __future__ import annotations

import re

from lorakit.facts.stated import Statements

#: SimpleTuner names a model after the folder that it is saved in.
_STEP = re.compile(r"checkpoint-\d+")
#: The titles of OneTrainer's templates (`resources/sd_model_spec/*-lora.json`), the same for all LoRAs of a base.
_OF_BASE = frozenset(
    f"{base} LoRA"
    for base in (
        "Anima", "Chroma1", "Ernie Image 1.0", "Flux 2.0", "FluxDev 1.0", "FluxDev Fill 1.0", "HiDream I1 Full",
        "HunyuanVideo", "Ideogram 4", "Krea 2", "PixArt Alpha 1.0", "PixArt Sigma 1.0", "Qwen Image", "Sana",
        "Stable Cascade 1.0", "Stable Diffusion 1.5", "Stable Diffusion 1.5 Inpainting", "Stable Diffusion 2.0",
        "Stable Diffusion 2.0 Depth", "Stable Diffusion 2.0 Inpainting", "Stable Diffusion 2.1",
        "Stable Diffusion 3 Medium", "Stable Diffusion 3.5", "Stable Diffusion XL 1.0 Base",
        "Stable Diffusion XL 1.0 Base Inpainting", "Wuerstchen 2.0", "Z-Image",
    )
)  # fmt: skip
#: What OneTrainer's examples call a model.
_EXAMPLES = frozenset({"model", "lora"})
#: What OneTrainer writes for SDXL, for a web interface that looks how it begins.
_HINT = "sdxl_"
_FILE = re.compile(r"(?:.*[\\/])?([^\\/]+\.(?:safetensors|ckpt|gguf|pth?))", re.DOTALL)


def name(stated: Statements) -> str | None:
    return output(stated) or _title(stated)


def title(stated: Statements) -> str | None:
    """As its author calls it, rather than what its trainer called the file."""
    return _title(stated) or output(stated)


def output(stated: Statements) -> str | None:
    """What its trainer was told to call it."""
    if text := stated.text("ss_output_name"):
        return text
    stem = re.split(r"[\\/]", stated.text("ot.output_model_destination") or "")[-1].rpartition(".")[0]
    return None if stem.lower() in _EXAMPLES else stem or None


def base_model(stated: Statements) -> str | None:
    found = stated.text("peft.base_model_name_or_path", "ss_base_model_version")
    if found in (None, _HINT):
        found = stated.text(
            "modelspec.architecture", "ss_base_model", "ss_base_model_name", "ss_sd_model_name",
            "ot.base_model_name", "ot.model_type", "base_model", "card.base_model",
        )  # fmt: skip
    # ModelSpec's mark of an adapter.
    return found.removesuffix("/lora") if found else None


def base_file(stated: Statements) -> str | None:
    """The base model's file, without its folder, or its name on a hub."""
    found = stated.text("ss_sd_model_name", "ot.base_model_name")
    match = _FILE.fullmatch(found or "")
    return match[1] if match else found


def author(stated: Statements) -> str | None:
    found = stated.text("modelspec.author", "ssmd_author", "author")
    # OneTrainer's template for SDXL states the base model's.
    return None if found == "StabilityAI" and _is_of_base(stated) else found


def licence(stated: Statements) -> str | None:
    found = stated.text("modelspec.license", "license", "card.license")
    # The hub's word for one that it has no word for.
    return (stated.text("card.license_name") or found) if found == "other" else found


def _title(stated: Statements) -> str | None:
    found = None if _is_of_base(stated) else stated.text("modelspec.title")
    if found is None or _STEP.fullmatch(found):
        found = stated.text("ssmd_display_name", "ss_model_name", "name")
    return found


def _is_of_base(stated: Statements) -> bool:
    """Whether what ModelSpec's entries state is of the base model, not of this one."""
    return "ot_revision" in stated.values and stated.text("modelspec.title") in _OF_BASE
