"""A table as it travels: by columns, with the names that exports have."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

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
