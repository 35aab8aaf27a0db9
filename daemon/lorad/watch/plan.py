"""What the watch over one root has to know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loracore.config import Watch
from lorad.watch.canary import Canary
from lorad.watch.exclude import Exclude
from lorad.watch.memory import Memory


@dataclass(frozen=True)
class Plan:
    """It is the same for a watch that is made anew. `failed` is told why one ended, when nobody stopped it."""

    root: bytes
    #: Paths that lead to the root now: symbolic links, and its own.
    links: Callable[[], Sequence[bytes]]
    #: Whether links are looked through.
    follow: bool
    exclude: Exclude
    #: Folders that are left out.
    without: tuple[bytes, ...]
    settings: Callable[[], Watch]
    canary: Canary
    memory: Memory
    failed: Callable[[str], None]
