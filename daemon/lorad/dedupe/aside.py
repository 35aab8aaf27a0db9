"""Keeping a file that should have gone, where its name is somebody else's by now: it goes into quarantine."""

from __future__ import annotations

import os

from lorad.dedupe import quarantine, recipe, syscalls
from lorad.dedupe.journal import Entry
from lorad.dedupe.reach import Reached
from lorad.dedupe.site import Site

TAKEN = "another file has its name now, so it was put into quarantine"
VISITED = "somebody wants to write through the link in its place, so it was put into quarantine and not removed"


def keep_aside(site: Site, entry: Entry, reached: Reached, text: str) -> Entry:
    """Move what stands at the temporary name into quarantine; the action becomes `quarantine`, and is done.

    Raises Refused and OSError where there can be no quarantine; the temporary name stays then.
    """
    entry = site.journal.update(
        entry,
        action="quarantine",
        state="planned",
        place=entry.place or quarantine.choose(site, reached),
        bytes=entry.gone.identity.size,
        text=text,
    )
    site.at("aside noted")
    with quarantine.place(site, entry, make=True) as place:
        assert place is not None
        syscalls.rename_new(reached.folder, site.temp(entry), place, reached.name)
        os.fsync(place)
        os.fsync(reached.folder)
    site.at("aside moved")
    entry = site.journal.update(entry, state="done")
    recipe.drop(site.recipe(entry))
    return entry
