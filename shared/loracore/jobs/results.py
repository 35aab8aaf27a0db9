"""What results are made of: tables, arrays and faults, and all of it as plain dicts and lists."""

from __future__ import annotations

import os
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import msgspec

from loracore.errors import UsageError

#: None: not defined, or not computed.
Cell = str | int | float | None


class Column(msgspec.Struct, frozen=True, array_like=True):
    """A column, of as many cells as the others."""

    name: str
    cells: Sequence[Cell]


class Table(msgspec.Struct, frozen=True):
    """Columns of the same length, their names all different."""

    columns: tuple[Column, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    def __len__(self) -> int:
        return len(self.columns[0].cells) if self.columns else 0

    def column(self, name: str) -> Sequence[Cell]:
        """The cells of a column. Raises UsageError where there is none of this name."""
        for column in self.columns:
            if column.name == name:
                return column.cells
        near = get_close_matches(name, self.names, 3, 0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(self.names)}"
        raise UsageError(f"there is no column {name[:80]!r}; {hint}")

    def rows(self) -> list[tuple[Cell, ...]]:
        return list(zip(*(column.cells for column in self.columns), strict=True))

    def plain(self) -> list[dict[str, Cell]]:
        """The rows by name, as they are exported."""
        return [dict(zip(self.names, row, strict=True)) for row in self.rows()]

    def sorted(self, name: str) -> Table:
        """By a column: numbers with the greatest first, texts by alphabet, what is not known last."""
        cells = self.column(name)
        known = [index for index, cell in enumerate(cells) if cell is not None]
        if any(isinstance(cells[index], str) for index in known):
            known.sort(key=lambda index: str(cells[index]))
        else:
            known.sort(key=lambda index: -float(cells[index] or 0))
        order = known + [index for index, cell in enumerate(cells) if cell is None]
        return self._picked(order)

    def head(self, count: int) -> Table:
        """The first rows."""
        return self._picked(range(min(count, len(self))))

    def _picked(self, order: Sequence[int]) -> Table:
        return Table(
            tuple(Column(column.name, [column.cells[index] for index in order]) for column in self.columns)
        )


def from_rows(rows: Sequence[dict[str, Cell]]) -> Table:
    """A table of rows by name; a cell that a row lacks is None."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return Table(tuple(Column(name, [row.get(name) for row in rows]) for name in names))


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


class Fault(msgspec.Struct, frozen=True):
    """A module (or layer) that was left out, and why."""

    module: str
    reason: str


def plain(value: Any) -> Any:
    """Structs become dicts; paths (the only bytes of a result) become texts, with surrogate escapes if need be."""
    match value:
        case Table() | Array():
            return value.plain()
        case msgspec.Struct():
            return {name: plain(getattr(value, name)) for name in value.__struct_fields__}
        case bytes():
            return os.fsdecode(value)
        case list() | tuple():
            return [plain(item) for item in value]
        case dict():
            return {key: plain(item) for key, item in value.items()}
    return value
