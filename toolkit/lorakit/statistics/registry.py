"""The registry: a decorated function becomes a column.

    from lorakit.statistics import Matrix, statistic

    @statistic("dW.norm_per_entry")
    def norm_per_entry(matrix: Matrix) -> float:
        return matrix.frobenius / matrix.size**0.5

A name that begins with `dW.`, `A.` or `B.` is for that matrix alone; another one is for all three. The function
gives one number, None where it is not defined, or a mapping of names to numbers, which become a column each. An
installed package adds its own by an entry point of the group `lorad.statistics` that leads to their module.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, TypeVar

import numpy as np

from loracore.entrypoints import offered
from loracore.errors import UsageError
from lorakit.statistics.matrix import Matrix

GROUP = "lorad.statistics"
#: ΔW, the factor on the input's side, and that on the output's.
PARTS = ("dW", "A", "B")

Value = float | int | None
Function = Callable[[Matrix], Value | Mapping[str, Value]]
F = TypeVar("F", bound=Function)


class _Statistic(NamedTuple):
    name: str
    parts: tuple[str, ...]
    function: Function


_statistics: dict[str, _Statistic] = {}


def statistic(name: str) -> Callable[[F], F]:
    """Have the decorated function appear as a column. Raises UsageError for a name that is taken."""
    part, dot, rest = name.partition(".")
    parts, own = ((part,), rest) if dot and part in PARTS else (PARTS, name)

    def register(function: F) -> F:
        if name in _statistics:
            raise UsageError(f"there is a statistic {name!r} already; give yours another name")
        _statistics[name] = _Statistic(own, parts, function)
        return function

    return register


def forget(name: str) -> None:
    """Undo `statistic`."""
    del _statistics[name]


def evaluate(part: str, matrix: Matrix) -> Iterator[tuple[str, Value]]:
    """The columns of one matrix, in the order of registration."""
    for one in list(_statistics.values()):
        if part in one.parts:
            value = one.function(matrix)
            if type(value) is dict or isinstance(value, Mapping):
                yield from ((f"{part}.{key}", _plain(each)) for key, each in value.items())
            else:
                yield f"{part}.{one.name}", _plain(value)


def _plain(value: Value) -> Value:
    """A number of Python's; None for one that is not finite, which no export could hold."""
    # Nearly all are: asking a type is three times quicker than `isinstance`, and there are 130 columns a module.
    if type(value) is float:
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, np.integer):
        return int(value)
    return float(value) if math.isfinite(value) else None


def load_installed() -> None:
    """Register what installed packages bring. Raises UsageError where one cannot be loaded."""
    for point in offered(GROUP):
        try:
            point.load()
        except Exception as error:
            # A package of another project may raise anything when it is imported.
            raise UsageError(f"{GROUP}: {point.value} cannot be loaded ({error}); install it anew") from error
