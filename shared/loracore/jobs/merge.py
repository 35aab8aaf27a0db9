"""What the job `merge` takes and gives: several LoRAs as one (SPEC section 8)."""

from __future__ import annotations

from typing import Literal

import msgspec

from loracore.jobs.change import Changed, Writing
from loracore.jobs.job import Spec

#: How ΔW of several becomes one. `linear`, `svd`: their weighted sum. `pca`: that sum within the principal
#: components of all. `ties`, `dare_ties`, `dare_linear`: entry by entry. `knots`: TIES where they are aligned.
Method = Literal["linear", "svd", "pca", "ties", "dare_ties", "dare_linear", "knots"]
METHODS: tuple[Method, ...] = ("linear", "svd", "pca", "ties", "dare_ties", "dare_linear", "knots")


class MergeParameters(msgspec.Struct, frozen=True):
    """`paths`: files, or PEFT adapter folders; the first one's names, dtypes and metadata are those of the result.

    `weights`: one for each, or none for 1 each; `normalize`: divided by their sum. `rank`: None is exact for
    `linear`, and the greatest of the inputs for the others. `include`, `exclude`: patterns (`*`, `?`) of modules'
    names, or of their keys in a file. `density`: the share of entries that `ties`, `dare_…` and `knots` keep;
    `seed`: what `dare_…` draws by.
    """

    paths: tuple[bytes, ...]
    writing: Writing
    weights: tuple[float, ...] = ()
    rank: int | None = None
    method: Method = "linear"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    normalize: bool = False
    density: float = 0.5
    seed: int = 0


SPEC = Spec("merge", MergeParameters, Changed, help="Several LoRAs as one, with a weight each.")
