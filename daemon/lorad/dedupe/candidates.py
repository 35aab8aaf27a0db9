"""Which files may keep what an action has hidden, the best first: what is freed is compared with them."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing

from loracore.causes import explained
from loracore.errors import LoraError
from loracore.identity import Identity
from lorad.catalog.views import connect, holding, of_layout
from lorad.dedupe.action.entry import Entry
from lorad.dedupe.action.hidden import path_of
from lorad.dedupe.action.order import HELD, Side
from lorad.dedupe.aliases import Aliases
from lorad.dedupe.history import ActionHistory
from lorad.dedupe.places import Places
from lorad.library.keepers import is_marked
from lorad.watch.mounts import Mounted

#: Files that a freed one is tried to be made from.
_MOST = 32

#: Files that may keep what an action has hidden; whether it is freed by itself. Asked in the service's thread.
Keepers = Callable[[Entry, bool], Sequence[Side]]


def kept_for(keepers: Keepers, entry: Entry, *, by_itself: bool) -> tuple[list[Side], str]:
    """Files that may keep what an action has hidden; and why they are not known, where they are not."""
    try:
        return list(keepers(entry, by_itself)), ""
    except LoraError as error:
        return [], str(error)
    except sqlite3.Error as error:
        return [], f"the catalogue cannot be read, which says what may keep it: {explained(error)}"
    except OSError as error:
        return [], f"what may keep it cannot be looked at: {explained(error)}"


class Candidates:
    """For the service's thread, which looks at the disks. `side`: a file as an order names it."""

    def __init__(self, state_dir: str, places: Places, side: Callable[[bytes, Identity], Side]) -> None:
        self._state_dir = state_dir
        self._places = places
        self._side = side
        self._aliases: Aliases | None = None

    def close(self) -> None:
        if self._aliases is not None:
            self._aliases.close()

    def __call__(self, entry: Entry, by_itself: bool) -> Sequence[Side]:
        """Raises LoraError, OSError and sqlite3.Error."""
        with closing(connect(self._state_dir)) as db:
            rows = holding(db, entry.layout, entry.weights) if entry.weights else []
            if not rows and entry.rebuild:
                # The one that is left may have been moved, so that its weights were not read again.
                rows = of_layout(db, entry.layout, _MOST)
        gone = entry.gone.path
        marked = by_itself and not is_marked(gone)
        paths = [
            (path, identity)
            for path, identity in rows
            if self._places.may_keep(path, gone) and not os.path.islink(path) and not (marked and is_marked(path))
        ]
        if self._aliases is None:
            self._aliases = Aliases(Mounted())
        aliases = self._aliases
        # At its name there may be a link of ours to the very file that is kept.
        at = gone
        if entry.state in HELD:
            at = path_of(self._state_dir, ActionHistory(self._state_dir).token(), entry)
        paths = [row for row in paths if not aliases.refusal(at, row[0], by_itself=by_itself, fresh=True)]
        paths.sort(key=lambda row: (row[0] != entry.kept.path, is_marked(row[0]), len(row[0]), row[0]))
        sides = [self._side(path, identity) for path, identity in paths[:_MOST]]
        return sides if rows or entry.weights else [entry.kept]
