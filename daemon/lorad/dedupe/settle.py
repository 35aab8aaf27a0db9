"""Bringing what was interrupted to all before or all after, by what lies on the disk.

The same code takes back an action that was refused halfway and repairs one whose process died. It goes by names
and inode numbers: device numbers may be others after the system was started again, and times may be others too if
somebody found the file meanwhile, which makes it no less his. What is not there proves nothing before the folder
proves to be the one that was acted in: a disk may not be mounted, a folder may have been moved and made anew.
"""

from __future__ import annotations

import os
import stat

from lorad.dedupe import quarantine, recipe, reflink, sidecars, syscalls
from lorad.dedupe.aside import TAKEN, keep_aside
from lorad.dedupe.journal import Entry
from lorad.dedupe.reach import Folder, Reached
from lorad.dedupe.replace import is_new
from lorad.dedupe.site import Site


class Pending(Exception):
    """It cannot be settled now; the message says what it waits for."""


def settle(site: Site, entry: Entry, reached: Reached, text: str) -> Entry:
    """Bring an action or an undo to an end; returns the entry in its final state, with `text` as the reason.

    Raises Pending, Refused and OSError where it cannot be done yet.
    """
    if not entry.folder.may_be(Folder.of(reached.folder)):
        folder = os.fsdecode(os.path.dirname(entry.gone.path))
        raise Pending(
            f"{folder} is not the folder that it was begun in; mount its disk, or bring that folder back"
        )
    if entry.state == "undoing":
        return _settle_undo(site, entry, reached, text)
    if entry.action == "reflink":
        return site.journal.update(entry, state="failed", bytes=0, text=text)
    if entry.action == "quarantine":
        return _take_back_moved(site, entry, reached, text)
    return _take_back(site, entry, reached, text)


def finish_undo(site: Site, entry: Entry, reached: Reached, text: str) -> Entry:
    """The file is back: bring its sidecars back too, write that down, and clear away what is not needed."""
    taken: list[bytes] = []
    with quarantine.place(site, entry) as place:
        if place is not None:
            taken = sidecars.put_back(entry, reached, place, site.at)
    entry = site.journal.update(entry, state="undone", text=_with_taken(text, taken))
    site.at("undone")
    recipe.drop(site.recipe(entry))
    quarantine.clear(site, entry)
    site.at("cleaned")
    return entry


def _take_back(site: Site, entry: Entry, reached: Reached, text: str) -> Entry:
    """`hardlink`, `symlink` and `delete`: the file stands at its name, at the temporary one, or is removed."""
    temp = site.temp(entry)
    aside, there = reached.status(temp), reached.status()
    if aside is None:
        _refuse_unsure(entry, reached, there)
        if entry.state == "removing" and not _is_twin(entry, there):
            return site.journal.update(entry, state="done")
    if aside is not None and not _is_rehearsal(entry, aside) and not is_new(entry, reached, temp, aside):
        if entry.state != "planned":
            # From here on "removing" without a temporary name would be taken for done. Where it is planned, the
            # names come back also if the journal's disk is full.
            entry = site.journal.update(entry, state="planned")
        if there is None:
            syscalls.rename_new(reached.folder, temp, reached.folder, reached.name)
        elif is_new(entry, reached, reached.name, there):
            syscalls.exchange(reached.folder, temp, reached.name)
        else:
            return keep_aside(site, entry, reached, TAKEN)
        os.fsync(reached.folder)
        site.at("taken back")
        aside = reached.status(temp)
    if aside is not None:
        _drop(site, entry, reached, aside)
    return _failed(site, entry, reached, text)


def _take_back_moved(site: Site, entry: Entry, reached: Reached, text: str) -> Entry:
    temp = site.temp(entry)
    aside, there = reached.status(temp), reached.status()
    if aside is not None and aside.st_ino == entry.gone.identity.ino:
        # Another action that was interrupted while it kept the file aside.
        if there is not None:
            return keep_aside(site, entry, reached, entry.text)
        syscalls.rename_new(reached.folder, temp, reached.folder, reached.name)
        os.fsync(reached.folder)
        there = aside
    with quarantine.place(site, entry) as place:
        waits = place is not None and _in(place, reached.name)
        if place is None:
            _refuse_unsure(entry, reached, there, "its folder in quarantine")
        elif not waits:
            _refuse_unsure(entry, reached, there)
        if place is not None and waits and not quarantine.put_back(entry, place, reached.folder):
            text = entry.text or "another file has its name now, so it stays in quarantine"
            return site.journal.update(entry, state="done", text=text)
    return _failed(site, entry, reached, text)


def _is_rehearsal(entry: Entry, aside: os.stat_result) -> bool:
    """Whether it is the empty file that attributes were tried on: no file that is acted on is empty."""
    return stat.S_ISREG(aside.st_mode) and not aside.st_size and aside.st_ino != entry.gone.identity.ino


def _refuse_unsure(entry: Entry, reached: Reached, there: os.stat_result | None, missing: str = "") -> None:
    """Raises Pending where what is missing may as well lie in another folder of the same name.

    The file in its place or its new link proves that nothing does; so does the folder, if nothing else is
    `missing`.
    """
    found = there is not None and (
        there.st_ino == entry.gone.identity.ino or is_new(entry, reached, reached.name, there)
    )
    if found or (not missing and entry.folder.is_surely(Folder.of(reached.folder))):
        return
    path = os.fsdecode(entry.gone.path)
    wanted = f", nor is {missing}" if missing else "; the folder may be another one of the same name"
    raise Pending(f"{path} is not there as it was{wanted}; mount its disk or bring it back")


def _failed(site: Site, entry: Entry, reached: Reached, text: str) -> Entry:
    taken: list[bytes] = []
    with quarantine.place(site, entry) as place:
        if place is not None:
            taken = sidecars.put_back(entry, reached, place, lambda _: None)
    quarantine.clear(site, entry)
    entry = site.journal.update(entry, state="failed", bytes=0, text=_with_taken(text, taken))
    recipe.drop(site.recipe(entry))
    return entry


def _settle_undo(site: Site, entry: Entry, reached: Reached, text: str) -> Entry:
    if entry.action == "reflink":
        reflink.restore_times(entry, reached)
        return site.journal.update(entry, state="done", text=text)
    if entry.action == "quarantine":
        return _settle_return(site, entry, reached, text)
    temp = site.temp(entry)
    aside, there = reached.status(temp), reached.status()
    if entry.restored and there is not None and there.st_ino == entry.restored:
        if aside is not None and not is_new(entry, reached, temp, aside):
            # Another file had come to stand there before the two names changed places.
            syscalls.exchange(reached.folder, temp, reached.name)
        else:
            if aside is not None:
                os.unlink(temp, dir_fd=reached.folder)
            os.fsync(reached.folder)
            return finish_undo(site, entry, reached, "")
    if reached.status(temp) is not None:
        # The copy, which is nobody's only one: what it was made from is still there.
        os.unlink(temp, dir_fd=reached.folder)
        os.fsync(reached.folder)
    return site.journal.update(entry, state="done", restored=0, text=text)


def _settle_return(site: Site, entry: Entry, reached: Reached, text: str) -> Entry:
    there = reached.status()
    with quarantine.place(site, entry) as place:
        waits = place is not None and _in(place, reached.name)
    if not waits and there is not None and there.st_ino == entry.gone.identity.ino:
        return finish_undo(site, entry, reached, "")
    return site.journal.update(entry, state="done", text=text)


def _drop(site: Site, entry: Entry, reached: Reached, aside: os.stat_result) -> None:
    """Remove a temporary name that is ours and not the only one of what it leads to, or beside its twin."""
    twin = _is_twin(entry, reached.status())
    only = stat.S_ISREG(aside.st_mode) and aside.st_size and aside.st_nlink == 1
    if entry.action == "hardlink" and only and not twin:
        temp = os.fsdecode(os.path.join(os.path.dirname(entry.gone.path), site.temp(entry)))
        raise Pending(
            f"{temp} is the only name of what was {os.fsdecode(entry.kept.path)}; give it one or remove it"
        )
    os.unlink(site.temp(entry), dir_fd=reached.folder)
    os.fsync(reached.folder)


def _is_twin(entry: Entry, there: os.stat_result | None) -> bool:
    """Whether the file that should go stands at its name."""
    was = entry.gone.identity
    return there is not None and (there.st_ino, there.st_size, there.st_mtime_ns) == (
        was.ino,
        was.size,
        was.mtime_ns,
    )


def _in(folder: int, name: bytes) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _with_taken(text: str, taken: list[bytes]) -> str:
    if not taken:
        return text
    names = ", ".join(map(os.fsdecode, taken))
    return f"{text}; " * bool(text) + f"other files have the names {names} now, so these stay in quarantine"
