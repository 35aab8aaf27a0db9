"""What installed packages offer by entry points: jobs, statistics, and what computes facts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints


def offered(group: str, name: str | None = None) -> EntryPoints:
    """The entry points of a group, of all packages; those of one name, if given."""
    from importlib.metadata import entry_points  # noqa: PLC0415 - slow to import, and not always needed

    return entry_points(group=group) if name is None else entry_points(group=group, name=name)
