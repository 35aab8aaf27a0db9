"""What is wrong with an adapter, told without end only in number."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

#: Problems of one kind that are told one by one; a hostile file has a hundred thousand.
_TOLD = 100
_LENGTH = 300


@dataclass(frozen=True)
class Problem:
    """Something that is wrong. `level` is "warning" or "error"; of an error's module nothing can be computed."""

    level: str
    module: str
    text: str

    @property
    def line(self) -> str:
        """With the module, if it is of one."""
        return f"{self.module}: {self.text}" if self.module else self.text


class Problems:
    """Collects problems; of each kind the first hundred, and how many more."""

    def __init__(self) -> None:
        self._found: list[Problem] = []
        self._told: Counter[str] = Counter()

    def warn(self, module: str, text: str, kind: str = "") -> None:
        self._tell("warning", module, text, kind)

    def error(self, module: str, text: str, kind: str = "") -> None:
        self._tell("error", module, text, kind)

    def all(self) -> tuple[Problem, ...]:
        """All that was told, errors first, and a line for each kind that was cut short."""
        more = [
            Problem("warning", "", f"{count - _TOLD} more: {kind}")
            for kind, count in self._told.items()
            if count > _TOLD
        ]
        return tuple(sorted(self._found, key=lambda problem: problem.level)) + tuple(more)

    def _tell(self, level: str, module: str, text: str, kind: str) -> None:
        if kind:
            self._told[kind] += 1
        if not kind or self._told[kind] <= _TOLD:
            self._found.append(Problem(level, module[:_LENGTH], text[: 2 * _LENGTH]))
