"""One adapted module: its names, its factors, and ΔW on demand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import DTypeLike

from loracore.adapter.algorithms import Form, difference, low_rank
from loracore.adapter.reading import Array, TensorReader
from loracore.errors import NeedsBase
from loracore.tensorfile import Layer

#: A tensor of a module: its name in the file, dtype and shape.
LayerRef = Layer


@dataclass(frozen=True, slots=True, eq=False)
class Module:
    """A module of the base model and what the adapter does to it.

    `shape` is ΔW's: (out, in, kh, kw), as the base weight lies. LoHa and LoKr keep convolutions flat, so theirs is
    (out, in·kh·kw); OFT and IA3 know one side of the weight alone. `layers` maps roles to what the file has.
    """

    name: str
    key: str
    algorithm: str
    block: str
    component: str
    rank: int | None
    alpha: float | None
    scale: float
    shape: tuple[int, ...]
    dtypes: frozenset[str]
    layers: Mapping[str, LayerRef]
    #: ΔW cannot be told, or not all of it, without the base weight.
    needs_base: bool
    #: PEFT's `fan_in_fan_out`: the base weight lies as (in, out), and so do `shape`, `pair` and `delta`.
    transposed: bool
    convention: str
    _reader: TensorReader = field(repr=False)

    def tensor(self, role: str, dtype: DTypeLike = np.float32) -> Array:
        """The tensor of a role, unscaled. Raises KeyError where there is none, FileError as the reader does."""
        return self._reader.read(self.layers[role].name, dtype)

    def pair(self, dtype: DTypeLike = np.float32) -> tuple[Array, Array, float] | None:
        """(B, A, s) with ΔW.reshape(d, -1) = s · B·A; B is d×r and A is r×k; None where there is no such form.

        A `mid` is contracted into A. Of DoRA it is the direction before normalisation.
        """
        pair = low_rank(self.layers, lambda role: self.tensor(role, dtype), self.transposed)
        return None if pair is None else (*pair, self.scale)

    def delta(self, dtype: DTypeLike = np.float32) -> Array:
        """ΔW, scaled, in `shape`; of DoRA the direction's part (`needs_base` is true then).

        Raises:
            NeedsBase: there is no ΔW without the base weight: OFT, IA3, GLoRA, whole weights.
        """
        form = Form(self.algorithm, self.rank, self.shape, self.needs_base)
        delta = difference(form, self.layers, lambda role: self.tensor(role, dtype), self.transposed)
        if delta is None:
            raise NeedsBase(
                f"module {self.name!r} ({self.algorithm}) has no ΔW without the base model's weight",
                self._reader.shown,
            )
        if self.scale != 1:
            delta = np.multiply(delta, np.asarray(self.scale, dtype), out=delta)
        return delta
