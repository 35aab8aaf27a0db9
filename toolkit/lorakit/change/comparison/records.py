"""What is known of a layer when it is finished: as it is kept in the journal, and as reports are made of it."""

from __future__ import annotations

import msgspec

from lorakit.change.comparison.verdict import Spectrum


class FactorPlace(msgspec.Struct, frozen=True):
    """Where a layer's factors lie in the journal's data: B and A in float32, one behind the other.

    `error`: ‖X - BA‖ / ‖X‖, B and A as stored. `energy`: share of ‖X‖² that they capture.
    `exact`: no others of this rank are better.
    """

    offset: int
    rank: int
    error: float
    energy: float
    exact: bool
    crc32: int = 0


class Record(msgspec.Struct, frozen=True):
    """A finished layer. `fault` says why it could not be compared; then the numbers are zeros.

    `relative_diff` is ‖fine-tuned - base‖ / ‖base‖, infinite numbers being None. `seconds` is all of its time;
    those of the engines are without reading. `left_out`: why it has no factors, where they were asked for.
    """

    name: str
    shape: tuple[int, ...]
    mean_abs_diff: float = 0.0
    max_abs_diff: float = 0.0
    relative_diff: float | None = 0.0
    changed_ratio: float = 0.0
    seconds: float = 0.0
    numpy_seconds: float | None = None
    torch_seconds: float | None = None
    disagreement: float | None = None
    spectrum_seconds: float | None = None
    spectrum: Spectrum | None = None
    factors: FactorPlace | None = None
    left_out: str = ""
    fault: str = ""

    @property
    def modified(self) -> bool:
        """Whether any entry changed by more than the threshold."""
        return self.changed_ratio > 0
