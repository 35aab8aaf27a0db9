"""Numbers about matrices: ΔW, which is not formed as a whole, and its two factors.

`registry` holds what becomes a column, `builtin` those of SPEC section 7. A `Matrix` is what a statistic is
given; `scan` and `percentiles` are what needs to see the entries, `devices` does that on a GPU, `shares` is what
is told of modules and blocks among others. Files and jobs are none of its business: see `lorakit.modules` and
`lorakit.jobs`.
"""

from lorakit.statistics import builtin
from lorakit.statistics.matrix import Matrix
from lorakit.statistics.registry import statistic

__all__ = ["Matrix", "builtin", "statistic"]
