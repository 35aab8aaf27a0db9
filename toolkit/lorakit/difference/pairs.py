"""Which layers of two models belong together, what cannot be compared, and which of them a LoRA can adapt."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from loracore.errors import UsageError
from loracore.jobs.results import Fault
from loracore.paths import shown
from lorakit.difference import widening
from lorakit.models.weights import Tensor, Weights
from lorakit.modules.survey import Unfit

#: What wrappers put before the names of one and the same model: the class with a head, PEFT, DDP, torch.compile.
_WRAPPERS = ("model.", "transformer.", "base_model.model.", "module.", "_orig_mod.", "language_model.")


@dataclass(frozen=True)
class Pair:
    """A layer of both models, of one shape. Its name is that in the base."""

    name: str
    base: Tensor
    finetuned: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return self.base.shape

    @property
    def entries(self) -> int:
        count = 1
        for side in self.shape:
            count *= side
        return count

    @property
    def nbytes(self) -> int:
        """Of both."""
        return self.base.nbytes + self.finetuned.nbytes


@dataclass(frozen=True)
class Paired:
    """`pairs`: in the order of the base's files. `mismatched`: layers of one name and two shapes."""

    pairs: tuple[Pair, ...]
    only_base: tuple[str, ...]
    only_finetuned: tuple[str, ...]
    mismatched: tuple[Pair, ...]
    faults: tuple[Fault, ...]
    warnings: tuple[str, ...]


def pair(base: Weights, finetuned: Weights) -> Paired:
    """Pair the layers by name. Raises UsageError where the models have no layer in common."""
    names, warning = _names(base.tensors, finetuned.tensors)
    both = [Pair(name, base.tensors[name], finetuned.tensors[other]) for name, other in names.items()]
    both.sort(key=lambda one: (one.base.file, one.base.index))
    mismatched = [one for one in both if one.base.shape != one.finetuned.shape]
    faults = [Fault(one.name, _shapes(one)) for one in mismatched]
    pairs = []
    for one in both:
        if one.base.shape != one.finetuned.shape:
            continue
        try:
            _check(one, base, finetuned)
        except Unfit as error:
            faults.append(Fault(one.name, str(error)))
        else:
            pairs.append(one)
    if not pairs:
        raise UsageError(
            f"{shown(base.path)} and {shown(finetuned.path)} have no layer of one name and shape in common; "
            "they are different architectures, so give the model that the second was trained from"
        )
    known = set(names.values())
    return Paired(
        pairs=tuple(pairs),
        only_base=tuple(sorted(base.tensors.keys() - names.keys())),
        only_finetuned=tuple(sorted(finetuned.tensors.keys() - known)),
        mismatched=tuple(mismatched),
        faults=(*base.faults, *finetuned.faults, *faults),
        warnings=(*base.warnings, *finetuned.warnings, *([warning] if warning else [])),
    )


def _names(base: Iterable[str], finetuned: Iterable[str]) -> tuple[dict[str, str], str]:
    """Names in the base to those in the fine-tuned model; and what was taken off or put before these."""
    ours, theirs = set(base), set(finetuned)
    best = {name: name for name in ours & theirs}
    told = ""
    for wrapper in _WRAPPERS:
        for found, how in (
            ({name: wrapper + name for name in ours if wrapper + name in theirs}, "has"),
            ({wrapper + name: name for name in theirs if wrapper + name in ours}, "lacks"),
        ):
            if len(found) > 2 * len(best):
                best, told = (
                    found,
                    f"the fine-tuned model {how} {wrapper!r} before its layers' names; they are paired without",
                )
    return best, told


def _check(one: Pair, base: Weights, finetuned: Weights) -> None:
    for weights, tensor in ((base, one.base), (finetuned, one.finetuned)):
        widening.check(tensor.dtype)
        weights.check_view(tensor)
    if not one.entries:
        raise Unfit(f"it has no entries (shape {list(one.shape)})")


def _shapes(one: Pair) -> str:
    base, finetuned = list(one.base.shape), list(one.finetuned.shape)
    return f"its shapes differ: {base} in the base, {finetuned} in the fine-tuned model"


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
