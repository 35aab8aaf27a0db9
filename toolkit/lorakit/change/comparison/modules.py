"""Which layers are modules that a LoRA can adapt, and what kind the others are."""

from __future__ import annotations

from lorakit.change.comparison.pairs import Pair

_WEIGHT = ".weight"
#: Last parts of embeddings' names in Transformers, CLIP, BERT, T5, GPT-2 and ChatGLM.
_EMBEDDINGS = frozenset({"wte", "wpe", "shared", "word_embeddings", "embed_tokens", "embed_positions", "embed_in"})
#: Where an image's latents are made, which LoRAs leave alone: in a checkpoint, and in a diffusers folder.
_AUTOENCODER = ("first_stage_model.", "vae.")


def stem(name: str) -> str:
    """The module whose weight a layer is."""
    return name.removesuffix(_WEIGHT)


def kind_of(name: str, shape: tuple[int, ...]) -> str:
    """`linear`, `conv`, `embedding`, `norm or scale`, `bias`, `stack` of matrices, or `parameter`."""
    if name.endswith("bias"):
        return "bias"
    if len(shape) < 2:
        return "norm or scale"
    if not name.endswith(_WEIGHT):
        return "stack" if len(shape) == 3 else "parameter"
    leaf = stem(name).rpartition(".")[2]
    if len(shape) == 2:
        return "embedding" if leaf in _EMBEDDINGS or leaf.endswith(("embedding", "embeddings")) else "linear"
    return "stack" if len(shape) == 3 and "expert" in name else "conv"


def unfit(pair: Pair) -> str:
    """Why a LoRA does not adapt this layer; nothing if it does."""
    if pair.name.startswith(_AUTOENCODER):
        return "autoencoder: no factors are made of it"
    kind = kind_of(pair.name, pair.shape)
    if kind in {"linear", "conv"}:
        return "" if min(pair.shape[0], pair.entries // pair.shape[0]) > 1 else "a single row or column"
    return f"{kind}: no factors are made of it"
