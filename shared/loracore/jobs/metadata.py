"""What the job `metadata` takes and gives: all that a file tells without its weights (SPEC section 7).

None: it is not stated. Texts are the file's own; a reader escapes them for where they are shown.
"""

from __future__ import annotations

from typing import Any

import msgspec

from loracore.jobs.job import Spec

#: As a trainer states it: a number where it is one, else its text.
Stated = int | float | str | None


class MetadataParameters(msgspec.Struct, frozen=True):
    """`path`: a file, or a PEFT adapter folder. `values`: look for NaN and Inf too, which reads all of it."""

    path: bytes
    values: bool = False


class FileInfo(msgspec.Struct, frozen=True):
    """`file_size_mb` in millions of bytes; `modified_time` by RFC 3339, in UTC."""

    path: bytes
    filename: bytes
    file_size: int
    file_size_mb: float
    file_extension: str
    modified_time: str


class ModelInfo(msgspec.Struct, frozen=True):
    """`network_rank` and `network_alpha`: what most modules have, by their shapes and alphas, not as it is stated.

    `base_model`: as it is stated, else the family; `family`: by names and shapes. `all_metadata`: every entry of
    the file's, JSON inside of strings parsed.
    """

    format: str
    model_name: str | None
    base_model: str | None
    base_model_file: str | None
    base_model_hash: str | None
    family: str | None
    network_rank: int | None
    network_alpha: float | None
    network_module: str | None
    network_args: dict[str, Any]
    author: str | None
    license: str | None
    description: str | None
    all_metadata: dict[str, Any]


class Dataset(msgspec.Struct, frozen=True):
    """A folder of training data: how many images (or other items), how often each is repeated in an epoch."""

    name: str
    images: int | None = None
    repeats: int | None = None
    resolution: str | None = None
    batch_size: int | None = None


class TrainingInfo(msgspec.Struct, frozen=True):
    """What the trainer states. `steps` and `epochs` are those done.

    `trigger_words_from` says what they were read from: metadata that name them, the datasets' folders, or the tags
    that every image has. `tag_frequencies`: over all datasets, the most frequent first, at most 1000 of
    `different_tags`.
    """

    trainer: str | None
    training_method: str | None
    learning_rate: Stated
    unet_learning_rate: Stated
    text_encoder_learning_rate: Stated
    scheduler: str | None
    warmup_steps: Stated
    batch_size: Stated
    gradient_accumulation_steps: Stated
    epochs: Stated
    steps: Stated
    max_steps: Stated
    optimizer: str | None
    optimizer_args: str | None
    resolution: str | None
    clip_skip: Stated
    seed: Stated
    mixed_precision: str | None
    dropout: Stated
    noise_offset: Stated
    min_snr_gamma: Stated
    date: str | None
    comment: str | None
    session_id: str | None
    trigger_words: tuple[str, ...]
    trigger_words_from: str | None
    tag_frequencies: dict[str, int]
    different_tags: int
    num_train_images: Stated
    num_reg_images: Stated
    datasets: tuple[Dataset, ...]


class ArchitectureInfo(msgspec.Struct, frozen=True):
    """By names and shapes.

    `algorithm`: LoRA, LoCon, LoHa, LoKr …; several are joined by ` + `. `rank` and `alpha` are those of most
    modules; `ranks` and `alphas` are given by module where they differ. `target_modules`: last parts of the names
    of modules. `parameters`: elements of all layers. `dtypes`: layers of each.
    """

    convention: str | None
    algorithm: str | None
    modules: int
    target_modules: tuple[str, ...]
    rank: int | None
    alpha: float | None
    ranks: dict[str, int]
    alphas: dict[str, float]
    components: dict[str, int]
    blocks: int
    layers: int
    parameters: int
    dtypes: dict[str, int]


class ValidationInfo(msgspec.Struct, frozen=True):
    """`is_valid`: there are no errors, and so the adapter can be used. Each line names what is wrong."""

    is_valid: bool
    warnings: tuple[str, ...]
    errors: tuple[str, ...]


class MetadataResult(msgspec.Struct, frozen=True):
    """`extraction_time` is when this was read: RFC 3339, in UTC."""

    file_info: FileInfo
    model_info: ModelInfo
    training_info: TrainingInfo
    architecture_info: ArchitectureInfo
    validation_info: ValidationInfo
    extraction_time: str


SPEC = Spec(
    "metadata",
    MetadataParameters,
    MetadataResult,
    help="What a file says about itself.",
    short=True,
    place="lorakit.jobs.metadata.job:JOB",
)
