"""Taking a file away: into quarantine, or for good where it can be brought back from the kept one."""

from __future__ import annotations

import os

from lorad.dedupe import quarantine, sidecars, syscalls
from lorad.dedupe.attributes import rehearse
from lorad.dedupe.guard import Held
from lorad.dedupe.journal import Entry
from lorad.dedupe.orders import Refused
from lorad.dedupe.site import Site
from lorad.dedupe.trouble import doing


def delete(site: Site, entry: Entry, kept: Held, gone: Held) -> Entry:
    """Carry out `delete`. Raises Refused and OSError; then `settle` takes back what was begun.

    The file is set aside under a temporary name first, so that it can be looked at again when nobody can open it
    by its own name any more. The kept file is on the disk before the last name of this one goes (fsync).
    """
    temp = site.temp(entry)
    rehearse(entry.attributes, gone.folder, temp)
    site.at("attributes rehearsed")
    os.fsync(kept.fd)
    os.fsync(kept.folder)
    kept.look_in_place()
    gone.look_in_place()
    site.at("checked")
    with doing("set it aside (rename)"):
        syscalls.rename_new(gone.folder, gone.name, gone.folder, temp)
    site.at("set aside")
    if entry.sidecars:
        with quarantine.place(site, entry, make=True) as place:
            assert place is not None
            sidecars.put_aside(entry, gone.reached, place, site.at)
    os.fsync(gone.folder)
    site.at("folder synced")
    _look_again(kept, gone, temp)
    entry = site.journal.update(entry, state="removing")
    site.at("removing")
    _look_again(kept, gone, temp)
    with doing("remove it (unlink)"):
        os.unlink(temp, dir_fd=gone.folder)
    site.at("removed")
    os.fsync(gone.folder)
    site.at("removal synced")
    entry = site.journal.update(entry, state="done")
    site.at("done")
    return entry


def put_aside(site: Site, entry: Entry, kept: Held, gone: Held) -> Entry:
    """Carry out `quarantine`: a rename, so that nothing of the file changes but its ctime.

    Raises Refused and OSError; then `settle` takes back what was begun.
    """
    with quarantine.place(site, entry, make=True) as place:
        assert place is not None
        site.at("place made")
        kept.look_in_place()
        gone.look_in_place()
        site.at("checked")
        with doing("move it into quarantine (rename)"):
            syscalls.rename_new(gone.folder, gone.name, place, gone.name)
        site.at("moved")
        sidecars.put_aside(entry, gone.reached, place, site.at)
        site.at("folders synced")
        kept.look_in_place()
        gone.look(renamed=True)
        moved = os.stat(gone.name, dir_fd=place, follow_symlinks=False)
        if not os.path.samestat(moved, gone.before) or not gone.reached.in_place():
            raise Refused.about(gone.path, "it was moved or replaced meanwhile; scan again")
    entry = site.journal.update(entry, state="done")
    site.at("done")
    return entry


def _look_again(kept: Held, gone: Held, temp: bytes) -> None:
    """After it was set aside: nobody came meanwhile, and what was set aside is the file that was compared."""
    kept.look_in_place()
    gone.look(renamed=True)
    aside = gone.reached.status(temp)
    if aside is None or not os.path.samestat(aside, gone.before) or not gone.reached.in_place():
        raise Refused.about(gone.path, "it was moved or replaced meanwhile; scan again")
