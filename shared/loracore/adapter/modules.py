"""One adapted module: its names, its factors, and ΔW on demand.

numpy, and the formulas, are loaded with the first value that is asked for: names and shapes come without.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

from loracore.adapter.algorithms import Form
from loracore.adapter.reading import TensorReader
from loracore.errors import MalformedFile, NeedsBase
from loracore.tensorfile import Layer

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from loracore.adapter.values import Array

#: More elements than any weight has: ΔW would need 16 GiB in float32.
MAX_ELEMENTS = 1 << 32
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

    def tensor(self, role: str, dtype: DTypeLike = "float32") -> Array:
        """The tensor of a role, unscaled. Raises KeyError where there is none, FileError as the reader does."""
        return self._reader.read(self.layers[role].name, dtype)

    @property
    def file(self) -> str:
        """The path of the file that it is in, as errors call it."""
        return self._reader.shown

    def stored(self, role: str) -> bytes:
        """The bytes of a role's tensor: little-endian, in C order. Raises KeyError and FileError as `tensor`."""
        return self._reader.stored(self.layers[role].name)

    def pair(self, dtype: DTypeLike = "float32") -> tuple[Array, Array, float] | None:
        """(B, A, s) with ΔW.reshape(d, -1) = s · B·A; B is d×r and A is r×k; None where there is no such form.

        A `mid` is contracted into A. Of DoRA it is the direction before normalisation.
        """
        from loracore.adapter.formulas import low_rank  # noqa: PLC0415 - loads numpy

        with self._computing():
            pair = low_rank(self.layers, lambda role: self.tensor(role, dtype), self.transposed)
        return None if pair is None else (*pair, self.scale)

    def delta(self, dtype: DTypeLike = "float32") -> Array:
        """ΔW, scaled, in `shape`; of DoRA the direction's part (`needs_base` is true then).

        Raises:
            NeedsBase: there is no ΔW without the base weight: OFT, IA3, GLoRA, whole weights.
        """
        delta = self._difference(dtype)
        if delta is None:
            raise NeedsBase(
                f"module {self.name!r} ({self.algorithm}) has no ΔW without the base model's weight",
                self._reader.shown,
            )
        return delta

    def applied(self, base: Array, strength: float = 1.0) -> Array:
        """The weight that `base` becomes, in float32 or float64 as `base` is; for every algorithm.

        `strength` is what tools call the LoRA's weight or multiplier, with LyCORIS's meaning for each algorithm.

        Raises:
            MalformedFile: `base` does not have the shape that the module was made for.
        """
        if base.dtype != "float64":
            base = base.astype("float32", copy=False)
        if not self.fits(base.shape):
            raise MalformedFile(
                f"module {self.name!r} is made for a weight of {list(self.shape)}, not of {list(base.shape)}",
                self._reader.shown,
            )

        with self._computing():
            return self._applied(base, strength)

    def _applied(self, base: Array, strength: float) -> Array:
        from loracore.adapter import formulas  # noqa: PLC0415 - loads numpy

        def read(role: str) -> Array:
            return self.tensor(role, base.dtype)

        if self.algorithm == "oft":
            return formulas.rotated(base, self.layers, read, strength, self.alpha or 0.0)
        if self.algorithm == "ia3":
            return formulas.rescaled(base, self.layers, read, strength)
        if self.algorithm == "glora":
            return base + strength * formulas.generalized(base, self.layers, read, self.scale)
        delta = self._difference(base.dtype)
        if delta is None:
            whole = read("weight" if "weight" in self.layers else "bias").reshape(base.shape)
            return base + strength * (whole - base)
        delta = delta.reshape(base.shape)
        if self.needs_base:
            transposed = self.transposed or "embedding_up" in self.layers
            return formulas.decomposed(base + delta, self.layers, read, strength, transposed)
        return base + strength * delta

    def bias_delta(self, dtype: DTypeLike = "float32") -> Array | None:
        """What is added to the module's bias (`diff_b`, `b_norm`, PEFT's `lora_bias`), scaled; or None."""
        if "up_bias" in self.layers:
            bias = self.tensor("up_bias", dtype)
            scaled: Array = bias * bias.dtype.type(self.scale)
            return scaled
        for role in ("diff_b", "b_norm"):
            if role in self.layers and len(self.layers) > 1:
                return self.tensor(role, dtype)
        return None

    def _difference(self, dtype: DTypeLike) -> Array | None:
        from loracore.adapter.formulas import difference  # noqa: PLC0415 - loads numpy

        form = Form(self.algorithm, self.rank, self.shape, self.needs_base)
        with self._computing():
            delta = difference(form, self.layers, lambda role: self.tensor(role, dtype), self.transposed)
            if delta is not None and self.scale != 1:
                delta *= delta.dtype.type(self.scale)
        return delta

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """NaN and Inf in factors become NaN and Inf in results, quietly: who asks for values looks at them.

        Raises:
            MalformedFile: small factors ask for a ΔW that no model has.
        """
        import numpy as np  # noqa: PLC0415 - see above

        kernel = prod(self.shape[1:]) * (self.rank or 1) if "mid" in self.layers else 0
        if max(prod(self.shape), kernel) > MAX_ELEMENTS:
            raise MalformedFile(
                f"module {self.name!r} has a ΔW of {list(self.shape)}, more than any model has", self._reader.shown
            )
        try:
            with np.errstate(all="ignore"):
                yield
        except np.linalg.LinAlgError as error:
            raise MalformedFile(
                f"module {self.name!r} has blocks that are no rotation", self._reader.shown
            ) from error

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether the module can be applied to a weight of this shape.

        OFT and IA3 know one dimension, and kernels may be flat on one of the two sides.
        """
        if self.algorithm == "oft":
            return shape[:1] == self.shape
        if self.algorithm == "ia3":
            return self.shape[0] in shape[:2]
        return shape[:1] == self.shape[:1] and prod(shape) == prod(self.shape)
