"""What of a file could not be analysed."""

from __future__ import annotations

import msgspec


class Fault(msgspec.Struct, frozen=True):
    """A module (or layer) that was left out, and why."""

    module: str
    reason: str
