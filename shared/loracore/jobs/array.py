"""Numbers of one or two dimensions as they travel, without numpy."""

from __future__ import annotations

from typing import Any

import msgspec


class Array(msgspec.Struct, frozen=True, array_like=True):
    """Little-endian floats of four bytes in C order."""

    shape: tuple[int, ...]
    data: bytes

    def plain(self) -> list[Any]:
        """Nested lists of numbers."""
        if not self.data:
            return [[] for _ in range(self.shape[0])] if len(self.shape) > 1 else []
        values: list[Any] = memoryview(self.data).cast("f", self.shape).tolist()
        return values
