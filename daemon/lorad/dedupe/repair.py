"""At start: every action and undo that was cut short is brought to an end, and what nobody needs is removed."""

from __future__ import annotations

import logging
import os
import sqlite3
from contextlib import suppress

from loracore.errors import FileError
from lorad.dedupe import recipe
from lorad.dedupe.journal import RECIPES, Entry
from lorad.dedupe.orders import Result, spoken
from lorad.dedupe.reach import reach
from lorad.dedupe.settle import Pending, settle
from lorad.dedupe.site import Site

_LOG = logging.getLogger(__name__)
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
    except Exception as error:
        # Whatever it is, it must not keep the others from being brought to an end.
        if not isinstance(error, FileError | Pending | OSError | EOFError | sqlite3.Error):
            _LOG.exception("repair of action %d", entry.id)
        reason = f"it was interrupted and waits: {error}"
        now = site.journal.get(entry.id) or entry
        if spoken(reason) != now.text:
            with suppress(OSError, sqlite3.Error):
                now = site.journal.update(now, text=reason)
        return now.result(reason)


def _sweep(site: Site) -> None:
    """Remove recipes of actions that failed or were undone."""
    folder = os.path.join(site.state_dir, RECIPES)
    with suppress(FileNotFoundError):
        for name in os.listdir(folder):
            if name.isdecimal() and not site.journal.needs_recipe(int(name)):
                recipe.drop(os.path.join(folder, name))
