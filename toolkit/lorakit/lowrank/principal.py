"""Principal components of a matrix, as scikit-learn's StandardScaler and PCA give them.

By the eigenvectors of the smaller Gram matrix, in double precision: a LoRA's layers are far longer than wide, or
wider than long, so this square is small.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
#: Below this part of the greatest singular value, a direction is rounding.
_NOTHING = 1e-7


class Components(NamedTuple):
    """`components`: n × columns, orthonormal. `transformed`: rows × n."""

    explained_variance_ratio: Doubles
    singular_values: Doubles
    components: Doubles
    transformed: Doubles
    total_variance: float


def standardised(samples: NDArray[np.floating[Any]]) -> Doubles:
    """Columns of mean 0 and variance 1 (ddof 0); one that is constant, up to rounding, keeps its scale."""
    values = samples.astype(np.float64)
    means = values.mean(axis=0)
    values -= means
    variances = np.einsum("ij,ij->j", values, values) / len(values)
    # As sklearn.preprocessing._data._is_constant_feature.
    noise = np.finfo(np.float64).eps * len(values)
    constant = variances <= noise * variances + (noise * means) ** 2
    values /= np.where(constant, 1.0, np.sqrt(variances))
    # What rounding has left of the mean, which PCA takes away once more.
    values -= values.mean(axis=0)
    return values


def principal(samples: NDArray[np.floating[Any]], count: int) -> Components:
    """The first `count` components, or as many as there are rows or columns; of at least two rows."""
    values = standardised(samples)
    rows, columns = values.shape
    count = min(count, rows, columns)
    wide = rows <= columns
    weights, vectors = np.linalg.eigh(values @ values.T if wide else values.T @ values)
    singular = np.sqrt(np.maximum(weights[::-1][:count], 0))
    leading = vectors[:, ::-1][:, :count]
    directions = _directions(values, leading, singular) if wide else leading.T.copy()
    directions *= _signs(directions)[:, None]
    total = float(np.maximum(weights, 0).sum())
    return Components(
        explained_variance_ratio=singular**2 / total if total else np.zeros(count),
        singular_values=singular,
        components=directions,
        transformed=values @ directions.T,
        total_variance=total / (rows - 1),
    )


def _directions(values: Doubles, leading: Doubles, singular: Doubles) -> Doubles:
    """Right singular vectors by the left ones; without variance, any that are orthogonal to the others."""
    real = int(np.count_nonzero(singular > _NOTHING * max(singular[0], np.finfo(np.float64).tiny)))
    directions = (leading.T @ values) / np.maximum(singular, np.finfo(np.float64).tiny)[:, None]
    if real < len(singular):
        rest = np.random.default_rng(0).standard_normal((values.shape[1], len(singular) - real))
        directions[real:] = np.linalg.qr(np.hstack([directions[:real].T, rest]))[0].T[real:]
    return directions


def _signs(directions: Doubles) -> Doubles:
    """As sklearn.utils.extmath.svd_flip (1.5 and later): the entry of greatest magnitude becomes positive."""
    greatest = np.argmax(np.abs(directions), axis=1)
    signs = np.sign(directions[np.arange(len(directions)), greatest])
    return np.where(signs == 0, 1.0, signs)
