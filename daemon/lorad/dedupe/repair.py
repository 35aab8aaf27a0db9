"""At start: every action and undo that was cut short is brought to an end, and what nobody needs is removed."""

from __future__ import annotations

import os
from contextlib import suppress

from loracore.errors import FileError
from lorad.dedupe import recipe
from lorad.dedupe.journal import RECIPES, Entry
from lorad.dedupe.orders import Result
from lorad.dedupe.reach import reach
from lorad.dedupe.settle import Pending, settle
from lorad.dedupe.site import Site

_INTERRUPTED = "it was interrupted; nothing was changed"
_UNDO_INTERRUPTED = "its undo was interrupted; undo it again"


def repair(site: Site) -> list[Result]:
    """Settle what was interrupted, oldest first; tells what became of each.

    Safe to be interrupted itself, and to be run again. What cannot be settled yet, as its disk is not mounted or
    its folder was moved, keeps its state and says what it waits for.
    """
    results = [_repair(site, entry) for entry in site.journal.unfinished()]
    _sweep(site)
    return results


def _repair(site: Site, entry: Entry) -> Result:
    text = _UNDO_INTERRUPTED if entry.state == "undoing" else _INTERRUPTED
    try:
        with reach(entry.gone.root, entry.gone.path) as reached:
            return settle(site, entry, reached, text).result()
    except (FileError, Pending, OSError, EOFError) as error:
        reason = f"it was interrupted and waits: {error}"
        with suppress(OSError):
            return site.journal.update(entry, text=reason).result()
        return entry.result(reason)


def _sweep(site: Site) -> None:
    """Remove recipes of actions that failed or were undone."""
    folder = os.path.join(site.state_dir, RECIPES)
    with suppress(FileNotFoundError):
        for name in os.listdir(folder):
            if name.isdecimal() and not site.journal.needs_recipe(int(name)):
                recipe.drop(os.path.join(folder, name))
