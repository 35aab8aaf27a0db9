"""How long to wait before what failed is tried again."""

from __future__ import annotations


class Backoff:
    """The delays after one, two, three … failures in a row, in seconds; the last one holds from then on."""

    def __init__(self, *delays: float) -> None:
        self._delays = delays

    @classmethod
    def doubling(cls, first: float, longest: float, *, at_once: int) -> Backoff:
        """No delay for so many failures, then `first` seconds, and each time twice as many up to `longest`."""
        delays = [0.0] * at_once
        while first < longest:
            delays.append(first)
            first *= 2
        return cls(*delays, longest)

    def after(self, failures: int) -> float:
        """Seconds to wait after so many failures, at least one."""
        return self._delays[min(failures, len(self._delays)) - 1]
