"""What trainers write about a training, brought to the same names.

Keys: kohya-ss/sd-scripts `train_network.py` and musubi-tuner `training/trainer_base.py` (`ss_*`); OneTrainer
`modules/util/config/TrainConfig.py` (in `ot_config`, asked for as `ot.*`); ai-toolkit `toolkit/metadata.py`
(`software`, `training_info`); SimpleTuner `helpers/training/save_hooks.py` (`global_step`, `trained_words`); the
webui's extension additional-networks (`ssmd_*`); Stability's ModelSpec (`modelspec.*`); training checkpoints
(`epoch`, `global_step`).
"""

from __future__ import annotations

import datetime
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from loracore.jobs.metadata import Dataset, TrainingInfo
from lorakit.facts.stated import Statements, as_count, as_number

_TAGS = 1000
#: Beyond, a count is none of images.
_MOST_IMAGES = 1 << 40
_WORDS = 50
_WORD = 300
_DATASETS = 200
#: kohya's folders: how often the images are repeated, then what they show.
_FOLDER = re.compile(r"(\d{1,6})_(.+)", re.DOTALL)
_TRIGGERS = (
    "modelspec.trigger_phrase", "modelspec.trigger_phrases", "modelspec.trigger_words", "ss_trigger_words",
    "ssmd_keywords", "trained_words", "trigger_words", "trigger_word", "trigger_phrase",
    "activation text", "instance_prompt", "card.instance_prompt",
)  # fmt: skip
#: What trainers tag a model card with, those first that build on others.
_TAGGED = {
    "unsloth": "Unsloth", "axolotl": "axolotl", "llama-factory": "LLaMA-Factory", "autotrain": "AutoTrain",
    "simpletuner": "SimpleTuner", "ai-toolkit": "ai-toolkit", "trl": "TRL", "diffusers-training": "diffusers",
}  # fmt: skip
#: Network modules of musubi-tuner, which writes kohya's keys.
_MUSUBI = frozenset(
    f"networks.lora_{name}"
    for name in (
        "flux_2", "framepack", "hidream_o1", "hv_1_5", "ideogram4", "kandinsky", "krea2", "qwen_image", "wan",
        "zimage",
    )
)  # fmt: skip


def saved_after(stated: Statements) -> tuple[int | None, int | None]:
    """After which epoch and step it was saved; how many were planned, which others state, is not that."""
    epoch = stated.number("ss_epoch", "toolkit.epoch", "epoch")
    steps = stated.number("ss_steps", "toolkit.step", "global_step", "step", "steps")
    return as_count(epoch), as_count(steps)


def training_info(stated: Statements, algorithm: str | None) -> TrainingInfo:
    """`algorithm` is what the shapes show, where nothing else says how it was trained."""
    datasets = list(_datasets(stated))
    frequencies = _frequencies(stated)
    words, source = _trigger_words(stated, datasets, frequencies)
    return TrainingInfo(
        trainer=_trainer(stated),
        training_method=_method(stated) or algorithm,
        learning_rate=stated.number("ss_learning_rate", "ot.learning_rate", "learning_rate"),
        unet_learning_rate=stated.number("ss_unet_lr", "ot.unet.learning_rate"),
        text_encoder_learning_rate=stated.number("ss_text_encoder_lr", "ot.text_encoder.learning_rate"),
        scheduler=stated.text("ss_lr_scheduler", "ot.learning_rate_scheduler", "lr_scheduler"),
        warmup_steps=stated.number("ss_lr_warmup_steps", "ot.learning_rate_warmup_steps"),
        batch_size=_batch_size(stated, datasets),
        gradient_accumulation_steps=stated.number(
            "ss_gradient_accumulation_steps", "ot.gradient_accumulation_steps"
        ),
        epochs=stated.number("ss_epoch", "toolkit.epoch", "epoch", "ss_num_epochs", "ot.epochs"),
        steps=stated.number("ss_steps", "toolkit.step", "global_step", "step", "steps"),
        max_steps=stated.number("ss_max_train_steps", "max_train_steps"),
        optimizer=_optimizer(stated),
        optimizer_args=_arguments(stated),
        resolution=_resolution(stated, datasets),
        clip_skip=stated.number("ss_clip_skip", "ot.clip_skip"),
        seed=stated.number("ss_seed", "ot.seed", "seed"),
        mixed_precision=stated.text("ss_mixed_precision", "ot.train_dtype"),
        dropout=stated.number("ss_network_dropout", "peft.lora_dropout", "ot.dropout_probability"),
        noise_offset=stated.number("ss_noise_offset", "ot.offset_noise_weight"),
        min_snr_gamma=stated.number("ss_min_snr_gamma"),
        date=_date(stated),
        comment=stated.text("ss_training_comment", "ss_comment", "ssmd_description"),
        session_id=stated.text("ss_session_id"),
        trigger_words=tuple(words),
        trigger_words_from=source,
        tag_frequencies=dict(frequencies.most_common(_TAGS)),
        different_tags=len(frequencies),
        num_train_images=_images(stated, datasets),
        num_reg_images=stated.number("ss_num_reg_images"),
        datasets=tuple(datasets),
    )


def _trainer(stated: Statements) -> str | None:
    """Which program wrote it, by the keys that it alone writes, or its tag in the model card."""
    software = stated.first("software")
    if isinstance(software, dict) and isinstance(software.get("name"), str):
        return " ".join(str(software[key]) for key in ("name", "version") if key in software)
    if isinstance(software, str):
        return software
    keys = stated.values
    if any(key.startswith("ot_") for key in keys):
        return " ".join(filter(None, ("OneTrainer", stated.text("ot_branch"), stated.text("ot_revision"))))
    if "ss_num_train_items" in keys or stated.first("ss_network_module") in _MUSUBI:
        return "musubi-tuner"
    revision = stated.text("ss_sd_scripts_commit_hash")
    if revision or str(stated.first("ss_network_module")).startswith(("networks.", "lycoris.")):
        return f"kohya sd-scripts {(revision or '')[:12]}".strip()
    if "global_step" in keys and stated.first("modelspec.implementation") == "diffusers":
        return "SimpleTuner"
    tags = stated.first("card.tags")
    for tag, trainer in _TAGGED.items():
        if isinstance(tags, list) and tag in tags:
            return trainer
    if "lora_adapter_metadata" in keys:
        return "diffusers"
    return "PEFT" if "peft.peft_type" in keys else None


def _method(stated: Statements) -> str | None:
    """As the trainer calls it."""
    arguments = stated.first("ss_network_args")
    if isinstance(arguments, dict) and isinstance(arguments.get("algo"), str):
        return str(arguments["algo"])
    return stated.text("ss_training_method", "ot.training_method", "ss_network_algo", "peft.peft_type")


def _optimizer(stated: Statements) -> str | None:
    """The class's name; kohya writes its module, and arguments in parentheses, too."""
    found = stated.first("ss_optimizer", "ot.optimizer", "optimizer")
    if isinstance(found, dict):
        found = found.get("optimizer")
    return found.split("(")[0].rsplit(".", 1)[-1].strip() if isinstance(found, str) else None


def _arguments(stated: Statements) -> str | None:
    found = stated.text("ss_optimizer_args")
    whole = stated.text("ss_optimizer") or ""
    if found is None and whole.endswith(")") and "(" in whole:
        found = whole[whole.index("(") + 1 : -1]
    return found or None


def _resolution(stated: Statements, datasets: list[Dataset]) -> str | None:
    """Width × height: kohya writes `(512, 768)`, OneTrainer `512` or `512x768`."""
    found = stated.first("ss_resolution", "ot.resolution", "modelspec.resolution", "resolution")
    if isinstance(found, list):
        found = ", ".join(str(part) for part in found)
    if found is None:
        return next((dataset.resolution for dataset in datasets if dataset.resolution), None)
    numbers = re.findall(r"\d+", str(found)[:200])
    pairs = re.fullmatch(r"[\s(\[]*\d+\s*[,x×]\s*\d+[\s)\]]*", str(found)[:200])
    return "x".join(numbers) if pairs else str(found).strip()[:200]


def _batch_size(stated: Statements, datasets: list[Dataset]) -> Any:
    """Several datasets may have different ones; one that all share is the answer."""
    found = stated.number("ss_batch_size_per_device", "ss_total_batch_size", "ot.batch_size", "batch_size")
    if found is None:
        sizes = {dataset.batch_size for dataset in datasets} - {None}
        return sizes.pop() if len(sizes) == 1 else None
    return found


def _images(stated: Statements, datasets: list[Dataset]) -> Any:
    found = stated.number("ss_num_train_images", "ss_num_train_items")
    if found is None and datasets and all(dataset.images is not None for dataset in datasets):
        return sum((dataset.images or 0) * (dataset.repeats or 1) for dataset in datasets)
    return found


def _date(stated: Statements) -> str | None:
    for key in ("ss_training_finished_at", "ss_training_started_at"):
        seconds = as_number(stated.first(key))
        if seconds is not None and 0 < seconds < 1 << 35:
            return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds")
    return stated.text("modelspec.date")


def _datasets(stated: Statements) -> Iterator[Dataset]:
    """From `ss_datasets`, which has more, or `ss_dataset_dirs`."""
    found: list[Dataset] = []
    described = stated.first("ss_datasets")
    for dataset in described if isinstance(described, list) else ():
        if isinstance(dataset, dict):
            found += _subsets(dataset)
    if not found:
        found = [
            Dataset(name, as_count(folder.get("img_count")), as_count(folder.get("n_repeats")))
            for name, folder in stated.mapping("ss_dataset_dirs").items()
            if isinstance(folder, dict)
        ]
    yield from found[:_DATASETS]


def _subsets(dataset: dict[str, Any]) -> Iterator[Dataset]:
    subsets = dataset.get("subsets")
    size = dataset.get("resolution")
    resolution = "x".join(str(part) for part in size) if isinstance(size, list) and len(size) <= 3 else None
    batch = as_count(dataset.get("batch_size_per_device"))
    parts = [part for part in subsets if isinstance(part, dict)] if isinstance(subsets, list) else []
    for part in parts or [dataset]:
        if part.get("is_reg") is True:
            # Images of the class, which it is not to learn.
            continue
        name = next((part[key] for key in ("image_dir", "video_directory", "image_directory", "metadata_file")
                     if isinstance(part.get(key), str)), "")  # fmt: skip
        images = as_count(part.get("img_count", part.get("num_train_images")))
        yield Dataset(name, images, as_count(part.get("num_repeats")), resolution, batch)


def _frequencies(stated: Statements) -> Counter[str]:
    """Tags over all datasets."""
    counts: Counter[str] = Counter()
    for folder, tags in stated.mapping("ss_tag_frequency").items():
        # Older trainers wrote the tags themselves, without folders.
        for tag, number in tags.items() if isinstance(tags, dict) else [(folder, tags)]:
            count, name = as_count(number), tag.strip()
            if count is not None and name:
                counts[name] = min(counts.get(name, 0) + count, _MOST_IMAGES)
    return counts


def _trigger_words(
    stated: Statements, datasets: list[Dataset], frequencies: Counter[str]
) -> tuple[list[str], str | None]:
    for key in _TRIGGERS:
        words = _words(stated.first(key))
        if words:
            return words, key
    words = _class_tokens(stated)
    if words:
        return words, "class tokens"
    folders = [dataset.name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1] for dataset in datasets]
    # ai-toolkit writes the trigger word as kohya's folder, and no datasets.
    folders = folders or list(stated.mapping("ss_tag_frequency"))
    shown = [match[2].strip() for match in map(_FOLDER.fullmatch, folders) if match]
    if any(shown):
        return list(dict.fromkeys(word[:_WORD] for word in shown if word))[:_WORDS], "dataset folders"
    images = sum(dataset.images or 0 for dataset in datasets)
    everywhere = [tag[:_WORD] for tag, count in frequencies.most_common(_WORDS) if images and count >= images]
    return everywhere, "tags of every image" if everywhere else None


def _class_tokens(stated: Statements) -> list[str]:
    """What kohya's configuration file says that the images show, where their folders do not."""
    described = stated.first("ss_datasets")
    datasets = described if isinstance(described, list) else []
    datasets = [dataset.get("subsets") for dataset in datasets if isinstance(dataset, dict)]
    subsets = [part for parts in datasets if isinstance(parts, list) for part in parts if isinstance(part, dict)]
    tokens = [part.get("class_tokens") for part in subsets if part.get("is_reg") is not True]
    words = [token.strip()[:_WORD] for token in tokens if isinstance(token, str)]
    return list(dict.fromkeys(word for word in words if word))[:_WORDS]


def _words(value: Any) -> list[str]:
    parts = value if isinstance(value, list) else re.split(r"[,\n]", value) if isinstance(value, str) else []
    words = [part.strip()[:_WORD] for part in parts[:10_000] if isinstance(part, str) and part.strip()]
    return list(dict.fromkeys(words))[:_WORDS]
