"""What installed packages offer by entry points: jobs, statistics, and what computes facts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints


def offered(group: str) -> EntryPoints:
    """The entry points of a group, of all packages."""
    from importlib.metadata import entry_points  # noqa: PLC0415 - slow to import, and not always needed

    return entry_points(group=group)
