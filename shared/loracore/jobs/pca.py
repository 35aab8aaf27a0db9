"""What the job `pca` takes and gives: each layer's principal components, columns standardised (SPEC section 7)."""

from __future__ import annotations

import msgspec

from loracore.jobs.job import Spec
from loracore.jobs.results import Array, Fault


class PcaParameters(msgspec.Struct, frozen=True):
    """`path`: a file, or a PEFT adapter folder.

    `n_components`: at most so many of each layer. `vectors`: also give components and transformed data, which are
    as large as the file.
    """

    path: bytes
    n_components: int = 10
    vectors: bool = True


class LayerPca(msgspec.Struct, frozen=True):
    """A layer's rows are samples, its columns features. `components`: n × columns; `transformed_data`: rows × n.

    Signs are scikit-learn's: of each component, the entry of greatest magnitude is positive.
    """

    explained_variance_ratio: tuple[float, ...]
    singular_values: tuple[float, ...]
    components: Array | None
    transformed_data: Array | None
    n_components: int
    total_variance: float
    cumulative_variance: tuple[float, ...]


class PcaResult(msgspec.Struct, frozen=True):
    """`n_components`: as asked for; a layer has no more than it has rows or columns."""

    path: bytes
    success: bool
    pca_results: dict[str, LayerPca]
    n_components: int
    total_layers: int
    faults: tuple[Fault, ...] = ()
    warnings: tuple[str, ...] = ()


SPEC = Spec("pca", PcaParameters, PcaResult, help="Principal components of each layer.", short=True)
