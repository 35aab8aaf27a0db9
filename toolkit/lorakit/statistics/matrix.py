"""What a statistic is given: a matrix that is only ever formed a block of rows at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lorakit.lowrank import svd as spectra
from lorakit.lowrank.svd import Doubles
from lorakit.statistics.devices import Device
from lorakit.statistics.percentiles import exact_percentiles
from lorakit.statistics.scan import Grid, Scan, Workspace, scan

Floats = NDArray[np.floating[Any]]
PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
#: Entries of a block: with all that is made of it, it stays in a core's cache.
_BLOCK = 1 << 17
#: Rows and columns of a piece of a product. Of few long rows, BLAS would spend as long on arranging the right
#: factor as on multiplying: 0.68 ns an entry instead of 0.31, of 5120 columns at rank 32.
_PIECE = (512, 256)
#: Of so many entries, percentiles are exact always: a single one may matter, wherever it lies.
_FEW = 1 << 14


@dataclass(frozen=True)
class Bounds:
    """What may be spent. `svd_limit`: no spectrum where a core has more rows than that; None: of any size."""

    dtype: type[np.floating[Any]] = np.float32
    svd: bool = True
    svd_limit: int | None = None
    percentiles: bool = True
    exact: bool = False
    singular_values: int = 8
    device: Device | None = None


class Matrix(ABC):
    """A matrix and what is known of it, each computed when it is first asked for."""

    def __init__(self, shape: tuple[int, int], bounds: Bounds, workspace: Workspace) -> None:
        self.shape = shape
        self.size = shape[0] * shape[1]
        self.bounds = bounds
        self.workspace = workspace

    @abstractmethod
    def blocks(self) -> Iterator[Floats]:
        """All entries, some rows at a time. A block is overwritten by the next one: copy what you keep."""

    def pieces(self) -> Iterator[Floats]:
        """All entries once, in pieces of a shape that is quick, the same each time; overwritten as blocks are."""
        return self.blocks()

    @property
    @abstractmethod
    def sum(self) -> float: ...

    @property
    @abstractmethod
    def squares(self) -> float:
        """‖M‖²_F."""

    @property
    @abstractmethod
    def core(self) -> int:
        """Rows of the greatest square whose eigenvalues the spectrum needs."""

    @abstractmethod
    def _spectrum(self) -> Doubles: ...

    @abstractmethod
    def drawn(self, rows: int) -> Matrix:
        """Some of its rows, drawn without replacement, the same each time."""

    @cached_property
    def singular_values(self) -> Doubles | None:
        """The largest first; None where `bounds` rules it out."""
        limit = self.bounds.svd_limit
        if not self.bounds.svd or (limit is not None and self.core > limit):
            return None
        return self._spectrum()

    @property
    def mean(self) -> float:
        return self.sum / self.size

    @property
    def std(self) -> float:
        """Of all entries, as a population (ddof 0)."""
        variance = self.squares / self.size - self.mean**2
        # What is left of a constant matrix by rounding is none.
        return float(np.sqrt(variance)) if variance > 1e-14 * self.squares / self.size else 0.0

    @property
    def frobenius(self) -> float:
        return float(np.sqrt(self.squares))

    @cached_property
    def scan(self) -> Scan:
        """What one look at all entries tells; with a histogram where `bounds` asks for percentiles."""
        grid = Grid(self.mean, self.std) if self.bounds.percentiles and self.std > 0 else None
        return self._scan(grid)

    def _scan(self, grid: Grid | None) -> Scan:
        return scan(self.pieces(), grid, self.workspace)

    @cached_property
    def percentiles(self) -> dict[int, float] | None:
        """1, 5, 25, 50, 75, 95 and 99; None where `bounds` rules them out."""
        if not self.bounds.percentiles:
            return None
        if self.bounds.exact or self.size <= _FEW:
            return exact_percentiles(self.scan, self.pieces, PERCENTILES)
        return self.scan.percentiles(PERCENTILES)


class Entries(Matrix):
    """A matrix whose entries are there: a factor, or ΔW of an algorithm that has no factors."""

    def __init__(self, entries: Floats, bounds: Bounds, workspace: Workspace) -> None:
        super().__init__((entries.shape[0], entries.shape[1]), bounds, workspace)
        self._entries = entries

    @cached_property
    def entries(self) -> Doubles:
        """All entries in double precision; as large as the file's, or twice and four times so."""
        return self._entries.astype(np.float64, copy=False)

    def entries_as(self, dtype: type[np.floating[Any]]) -> Floats:
        return self._entries.astype(dtype, copy=False)

    def blocks(self) -> Iterator[Floats]:
        rows = _rows(self.shape[1])
        for start in range(0, self.shape[0], rows):
            yield self._entries[start : start + rows].astype(self.bounds.dtype, copy=False)

    @cached_property
    def gram(self) -> Doubles:
        """The smaller of M·Mᵀ and Mᵀ·M."""
        return spectra.gram(self.entries)

    @cached_property
    def sum(self) -> float:
        return float(self._entries.sum(dtype=np.float64))

    @cached_property
    def squares(self) -> float:
        if "gram" in self.__dict__:
            return float(np.trace(self.gram))
        flat = (block.astype(np.float64, copy=False).ravel() for block in self.blocks())
        return float(sum(np.dot(part, part) for part in flat))

    @property
    def core(self) -> int:
        return min(self.shape)

    def _spectrum(self) -> Doubles:
        return spectra.from_gram(self.gram)

    def drawn(self, rows: int) -> Entries:
        chosen = np.sort(np.random.default_rng(0).choice(self.shape[0], rows, replace=False))
        return Entries(self._entries[chosen], self.bounds, self.workspace)


class Product(Matrix):
    """ΔW = scale · B · A by its factors, which share what is computed of them."""

    def __init__(self, outer: Entries, inner: Entries, scale: float, bounds: Bounds, workspace: Workspace) -> None:
        super().__init__((outer.shape[0], inner.shape[1]), bounds, workspace)
        self.rank = outer.shape[1]
        self._outer = outer
        self._inner = inner
        self._scale = scale

    @cached_property
    def gram_b(self) -> Doubles:
        """BᵀB, r × r."""
        outer = self._outer
        return outer.gram if outer.shape[1] < outer.shape[0] else outer.entries.T @ outer.entries

    @cached_property
    def gram_a(self) -> Doubles:
        """A·Aᵀ, r × r."""
        inner = self._inner
        return inner.gram if inner.shape[0] <= inner.shape[1] else inner.entries @ inner.entries.T

    def blocks(self) -> Iterator[Floats]:
        columns, rows = self.shape[1], _rows(self.shape[1])
        outer, inner = self._scaled()
        dtype = outer.dtype.type
        for start in range(0, self.shape[0], rows):
            self.workspace.go_on()
            part = outer[start : start + rows]
            yield np.matmul(part, inner, out=self.workspace.array("product", (part.shape[0], columns), dtype))

    def pieces(self) -> Iterator[Floats]:
        outer, inner = self._scaled()
        dtype = outer.dtype.type
        height, width = _PIECE
        for left in range(0, self.shape[1], width):
            columns = inner[:, left : left + width]
            for top in range(0, self.shape[0], height):
                self.workspace.go_on()
                rows = outer[top : top + height]
                shape = (rows.shape[0], columns.shape[1])
                yield np.matmul(rows, columns, out=self.workspace.array("product", shape, dtype))

    def _scan(self, grid: Grid | None) -> Scan:
        device = self.bounds.device
        return super()._scan(grid) if device is None else device.scan(*self._scaled(), grid)

    def _scaled(self) -> tuple[Floats, Floats]:
        """Two factors whose product is ΔW, in the precision of its entries."""
        # Entries of this size have no room in single precision.
        dtype = self.bounds.dtype if self.frobenius < 1e38 else np.float64
        outer = (self._outer.entries * self._scale).astype(dtype, copy=False)
        return outer, self._inner.entries_as(dtype)

    @cached_property
    def sum(self) -> float:
        return float(self._scale * (self._outer.entries.sum(axis=0) @ self._inner.entries.sum(axis=1)))

    @cached_property
    def squares(self) -> float:
        # Both are positive semidefinite, so nothing but rounding makes this negative.
        return max(0.0, float(self._scale**2 * (self.gram_b * self.gram_a).sum()))

    def inner(self, other: Product) -> float:
        """⟨ΔW, other ΔW⟩, of the same shape."""
        outer = self._outer.entries.T @ other._outer.entries
        inner = self._inner.entries @ other._inner.entries.T
        return float(self._scale * other._scale * (outer * inner).sum())

    @property
    def core(self) -> int:
        return min(self.rank, *self.shape)

    def _spectrum(self) -> Doubles:
        values = spectra.of_product(self._outer.entries, self.gram_b, self.gram_a, self.shape[1])
        return values * abs(self._scale)

    def drawn(self, rows: int) -> Product:
        return Product(self._outer.drawn(rows), self._inner, self._scale, self.bounds, self.workspace)


def _rows(columns: int) -> int:
    return max(1, _BLOCK // max(1, columns))
