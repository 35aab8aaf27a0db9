"""Where an action works: the state folder, the journal, and the names that it gives on the way."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from lorad.dedupe.journal import RECIPES, Entry, Journal


@dataclass(frozen=True)
class Site:
    """`at` is called with the name of each step of a protocol, after it: see `steps`."""

    state_dir: str
    journal: Journal
    at: Callable[[str], None]

    def temp(self, entry: Entry) -> bytes:
        """The name that a file of this action has on the way. The scanner passes over all that ends so."""
        return b".lorad-%s-%d.tmp" % (self.journal.token.encode(), entry.id)

    def place(self, entry: Entry) -> bytes:
        """The name of this action's folder in quarantine."""
        return b"%s-%d" % (self.journal.token.encode(), entry.id)

    def recipe(self, entry: Entry) -> str:
        return os.path.join(self.state_dir, RECIPES, str(entry.id))
