"""The metadata that trainers write into a LoRA's header, by their own keys and with their own quirks.

Gathered from kohya-ss/sd-scripts (`train_network.py`), kohya-ss/musubi-tuner (`training/trainer_base.py`),
Nerogar/OneTrainer (`DtypeModelSaverMixin.py`, `resources/sd_model_spec`), ostris/ai-toolkit
(`BaseSDTrainProcess.py`, `toolkit/metadata.py`) and bghira/SimpleTuner (`save_hooks.py`).
"""

from __future__ import annotations

import json

_TAGS = {"10_ohwx woman": {"ohwx woman": 20, "1girl": 18}, "1_woman": {"woman": 50}}
_OWN_BASE = "/home/me/models/illustriousXL_v01.safetensors"


def kohya(name: str, session: str, epoch: int, steps: int, *, toml: bool = False) -> dict[str, str]:
    """SDXL on a checkpoint of one's own; with `toml`, data sets as a configuration file describes them."""
    subsets = [
        {"img_count": 20, "num_repeats": 10, "image_dir": "photos", "class_tokens": "ohwx woman", "is_reg": False},
        {"img_count": 50, "num_repeats": 1, "image_dir": "1_reg", "class_tokens": "woman", "is_reg": True},
    ]
    datasets = {
        "ss_datasets": json.dumps([{"is_dreambooth": True, "resolution": [1024, 1024], "subsets": subsets}]),
        "ss_dataset_dirs": json.dumps({"photos": {"n_repeats": 10, "img_count": 20}}),
    }
    folders = {
        "ss_dataset_dirs": json.dumps({"10_ohwx woman": {"n_repeats": 10, "img_count": 20}}),
        "ss_reg_dataset_dirs": json.dumps({"1_woman": {"n_repeats": 1, "img_count": 50}}),
        "ss_batch_size_per_device": "2", "ss_resolution": "(1024, 1024)",
    }  # fmt: skip
    return {
        "ss_session_id": session, "ss_training_started_at": "1712000000.5", "ss_output_name": name,
        "ss_learning_rate": "0.0001", "ss_num_train_images": "200", "ss_num_reg_images": "50",
        "ss_num_epochs": "10", "ss_max_train_steps": "1000", "ss_network_module": "networks.lora",
        "ss_network_dim": "4", "ss_network_alpha": "2.0", "ss_network_dropout": "None", "ss_v2": "False",
        "ss_base_model_version": "sdxl_base_v1-0", "ss_clip_skip": "None", "ss_training_comment": "None",
        "ss_sd_scripts_commit_hash": "e0a3c69223c7a3b3a5b2a5d0f2e5a4a5f6a7b8c9",
        "ss_optimizer": "bitsandbytes.optim.adamw.AdamW8bit(weight_decay=0.1)",
        "ss_sd_model_name": "ponyDiffusionV6XL.safetensors", "ss_steps": str(steps), "ss_epoch": str(epoch),
        "ss_training_finished_at": "1712003600.25", "ss_tag_frequency": json.dumps(_TAGS),
        "modelspec.sai_model_spec": "1.0.1", "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
        "modelspec.title": name, "modelspec.date": "2024-04-01T21:33:20", **(datasets if toml else folders),
    }  # fmt: skip


def musubi(name: str, session: str, epoch: int, steps: int) -> dict[str, str]:
    return {
        "ss_session_id": session, "ss_training_started_at": "1740000000.1", "ss_output_name": name,
        "ss_num_train_items": "30", "ss_num_epochs": "16", "ss_max_train_steps": "480",
        "ss_base_model_version": "wan2.1", "ss_network_module": "networks.lora_wan", "ss_network_dim": "4",
        "ss_network_alpha": "1.0", "ss_timestep_sampling": "shift", "ss_steps": str(steps), "ss_epoch": str(epoch),
        "ss_datasets": json.dumps([{"resolution": [960, 544], "num_repeats": 1, "video_directory": "videos"}]),
        "ss_sd_model_name": "wan2.1_t2v_14B_bf16.safetensors", "ss_training_finished_at": "1740003600.9",
        "modelspec.architecture": "wan2.1/lora", "modelspec.title": name,
    }  # fmt: skip


def onetrainer(destination: str | None, base: str = _OWN_BASE) -> dict[str, str]:
    """SDXL, with a template's title and author; `destination` is in the configuration, if that is included."""
    config = {
        "training_method": "LORA", "model_type": "STABLE_DIFFUSION_XL_10_BASE", "base_model_name": base,
        "output_model_destination": destination, "workspace_dir": "workspace/run", "epochs": 40, "batch_size": 4,
        "learning_rate": 0.0003, "optimizer": {"optimizer": "ADAMW_8BIT"}, "lora_rank": 4, "lora_alpha": 2.0,
        "unet": {"learning_rate": None}, "concepts": None, "samples": None,
    }  # fmt: skip
    return {
        "modelspec.sai_model_spec": "1.0.0", "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
        "modelspec.title": "Stable Diffusion XL 1.0 Base LoRA", "modelspec.author": "StabilityAI",
        "modelspec.license": "CreativeML Open RAIL++-M License", "modelspec.date": "2025-02-03",
        "modelspec.hash_sha256": "0x" + "cd" * 32, "ss_base_model_version": "sdxl_", "ot_branch": "master",
        "ot_revision": "3f2a9c1", **({} if destination is None else {"ot_config": json.dumps(config)}),
    }  # fmt: skip


def ai_toolkit(name: str, step: int, epoch: int, trigger: str | None) -> dict[str, str]:
    """Flux; the trigger word stands where web interfaces look for tags."""
    tags = {} if trigger is None else {"ss_tag_frequency": json.dumps({f"1_{trigger}": {trigger: 1}})}
    software = {"name": "ai-toolkit", "repo": "https://github.com/ostris/ai-toolkit", "version": "0.12.26"}
    return {
        "training_info": json.dumps({"step": step, "epoch": epoch}), "ss_base_model_version": "flux1",
        "ss_output_name": name, **tags, "name": name, "version": "1.0", "software": json.dumps(software),
        "format": "pt",
    }  # fmt: skip


def simpletuner(folder: str, step: int) -> dict[str, str]:
    """Flux; the folder that it is saved in is the title."""
    return {
        "format": "pt", "modelspec.sai_model_spec": "1.0.1", "global_step": str(step),
        "modelspec.architecture": "flux-1-dev/lora", "modelspec.implementation": "diffusers",
        "modelspec.title": folder, "trained_words": "a photo of jlxy",
        "ss_tag_frequency": json.dumps({"jlxy-1024": {"a photo of jlxy": 24, "man": 20}}),
        "lora_adapter_metadata": json.dumps({"transformer.r": 4, "transformer.lora_alpha": 4.0}),
    }  # fmt: skip
