"""Bringing back what an action took: bytes, mode, owner, times and extended attributes.

Nothing is brought back that is not the file that went, down to its BLAKE3-256, and nothing that came to stand in
its place since is overwritten. Not brought back: ctime, the inode's number, and being one of several hard links.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack

import msgspec
from blake3 import blake3

from lorad.dedupe import quarantine, recipe, reflink, sidecars, syscalls
from lorad.dedupe.compare import digest, pieces
from lorad.dedupe.guard import Held, hold
from lorad.dedupe.journal import Entry
from lorad.dedupe.orders import Progress, Refused
from lorad.dedupe.reach import Folder, Reached, open_file, reach
from lorad.dedupe.replace import is_new
from lorad.dedupe.settle import finish_undo
from lorad.dedupe.site import Site
from lorad.dedupe.trouble import doing

_TAKEN = "another file stands there now; move it away, or undo what put it there, and undo again"


def undo(site: Site, entry: Entry, reached: Reached, progress: Progress) -> Entry:
    """Undo an action that is done. Raises Refused and OSError; then `settle` takes back what was begun."""
    if entry.action == "reflink":
        entry = _begin(site, entry, reached)
        text = reflink.undo(site, entry, reached)
        return finish_undo(site, entry, reached, text)
    with quarantine.place(site, entry) as place:
        if place is not None:
            sidecars.refuse_taken(entry, reached, place)
        if entry.action == "quarantine":
            return _return(site, entry, reached, place, progress)
    if entry.action == "hardlink":
        entry = _with_standing(site, entry, reached)
    return _bring_back(site, entry, reached, progress)


def _with_standing(site: Site, entry: Entry, reached: Reached) -> Entry:
    """Undoing a later action on the name has put a new inode where the link stood: that is the link's as well.

    Only what the journal says was put there is taken for it, and what is brought back is verified by its digest.
    Numbers of inodes are given again: what a later action that stands has put there may have that of our link. So
    that one goes first. Raises Refused.
    """
    number = site.journal.standing_at(entry.gone.path, entry.id)
    if number is not None:
        raise Refused.about(entry.gone.path, f"action {number} has replaced it since; undo that first")
    status = reached.status()
    later = site.journal.restored_at(entry.gone.path, entry.id)
    stands = status.st_ino if status is not None and status.st_ino in later else 0
    return msgspec.structs.replace(entry, stands=stands)


def _begin(site: Site, entry: Entry, reached: Reached) -> Entry:
    entry = site.journal.update(entry, state="undoing", restored=0, folder=Folder.of(reached.folder))
    site.at("undoing")
    return entry


def _return(site: Site, entry: Entry, reached: Reached, place: int | None, progress: Progress) -> Entry:
    """Out of quarantine: a rename, once it is certain that it is still the file that was put there."""
    if place is None or not _is_in(place, reached.name):
        raise _emptied(site, entry, reached, place)
    if reached.status() is not None:
        raise Refused.about(entry.gone.path, _TAKEN)
    aside = Reached(entry.gone.root, entry.gone.path, place, reached.name)
    with hold(aside, None) as held:
        entry = _begin(site, entry, reached)
        if digest(held.fd, held.before.st_size, progress) != entry.digest:
            raise Refused.about(
                entry.gone.path, "it was changed in quarantine, where it stays; take it from there"
            )
        held.look()
        site.at("verified")
        if not reached.in_place():
            raise Refused.about(entry.gone.path, "its folder was moved meanwhile; undo again")
        if not quarantine.put_back(entry, place, reached.folder):
            raise Refused.about(entry.gone.path, _TAKEN)
        site.at("renamed")
    return finish_undo(site, entry, reached, "")


def _is_in(folder: int, name: bytes) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _emptied(site: Site, entry: Entry, reached: Reached, place: int | None) -> Refused:
    """Nothing to bring back; the action is `emptied` from now on where its quarantine is surely the one it was."""
    where = os.fsdecode(quarantine.path(site, entry))
    sure = place is not None or entry.place == "state" or entry.folder.is_surely(Folder.of(reached.folder))
    if not sure:
        return Refused.about(
            entry.gone.path, f"its quarantine {where} is not there; mount its disk and undo again"
        )
    text = f"it is in its quarantine {where} no more; put it back there and undo it by its number"
    site.journal.update(entry, state="emptied", text=text)
    return Refused.about(entry.gone.path, text)


def _bring_back(site: Site, entry: Entry, reached: Reached, progress: Progress) -> Entry:
    """From the kept file: a copy or a rebuilt one, made under a temporary name and verified."""
    temp = site.temp(entry)
    with ExitStack() as stack:
        _refuse_taken(entry, reached)
        held, source = _source(site, entry, reached, stack)
        entry = _begin(site, entry, reached)
        entry = _copy(site, entry, reached, _content(site, entry, source), progress)
        copy = stack.enter_context(hold(Reached(reached.root, reached.path, reached.folder, temp), None))
        _refuse_taken(entry, reached)
        if held is not None:
            held.look_in_place()
        if not reached.in_place():
            raise Refused.about(entry.gone.path, "its folder was moved meanwhile; undo again")
        site.at("checked")
        if entry.action == "delete" or reached.status() is None:
            # It was the action, or somebody since, that left nothing at the name.
            _rename(entry, reached, temp)
            site.at("renamed")
            os.fsync(reached.folder)
            site.at("folder synced")
        else:
            with doing("put it back in its place (rename)"):
                syscalls.exchange(reached.folder, temp, reached.name)
            site.at("exchanged")
            os.fsync(reached.folder)
            site.at("folder synced")
            _look_again(entry, reached, held, copy, temp)
            os.unlink(temp, dir_fd=reached.folder)
            site.at("removed")
            os.fsync(reached.folder)
            site.at("removal synced")
    return finish_undo(site, entry, reached, "")


def _refuse_taken(entry: Entry, reached: Reached) -> None:
    """Raises Refused when something stands at the path that is not what the action left there."""
    status = reached.status()
    if status is not None and not is_new(entry, reached, reached.name, status):
        raise Refused.about(entry.gone.path, _TAKEN)


def _source(site: Site, entry: Entry, reached: Reached, stack: ExitStack) -> tuple[Held | None, int]:
    """What it is made from: the kept file; for a hard link what stands in its place, held against writers."""
    if entry.action == "hardlink" and reached.status() is not None:
        held = stack.enter_context(hold(reached, None))
        return held, held.fd
    try:
        fd = _open_kept(site, entry)
    except Refused as error:
        raise Refused(
            f"{error.reason}; it is what {os.fsdecode(entry.gone.path)} would be made from, so undo first what "
            "was done to it",
            error.path,
        ) from error
    stack.callback(os.close, fd)
    return None, fd


def _open_kept(site: Site, entry: Entry) -> int:
    """The kept file; where that has gone for another of the same bytes, that one, and so on. Raises Refused."""
    trouble: Refused | None = None
    link: Entry | None = entry
    while link is not None:
        try:
            with reach(link.kept.root, link.kept.path) as kept:
                return open_file(kept)
        except Refused as error:
            # What is said is of the file that everybody knows as the kept one.
            trouble = trouble or error
        # Ids only grow on the way, so it ends.
        link = site.journal.gone_for(link.kept.path, link.id)
    assert trouble is not None
    raise trouble


def _content(site: Site, entry: Entry, source: int) -> Iterator[bytes]:
    return (
        recipe.rebuild(site.recipe(entry), source) if entry.recipe else pieces(source, 0, entry.gone.identity.size)
    )


def _copy(site: Site, entry: Entry, reached: Reached, content: Iterator[bytes], progress: Progress) -> Entry:
    """Write the file under its temporary name, with all its attributes, durably; its inode is noted."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with doing("make a file in its folder (open)"):
        fd = os.open(site.temp(entry), flags, 0o600, dir_fd=reached.folder)
    try:
        site.at("temp made")
        hasher = blake3()
        done = 0
        try:
            for piece in content:
                _write(fd, piece)
                hasher.update(piece)
                done += len(piece)
                progress(done, entry.gone.identity.size)
        except (EOFError, ValueError) as error:
            raise _changed(entry, reached) from error
        site.at("copied")
        if hasher.digest() != entry.digest:
            raise _changed(entry, reached)
        entry.attributes.give(fd)
        os.fsync(fd)
        site.at("attributes set")
        entry = site.journal.update(entry, restored=os.fstat(fd).st_ino)
        site.at("copy noted")
    finally:
        os.close(fd)
    return entry


def _write(fd: int, piece: bytes) -> None:
    view = memoryview(piece)
    with doing("write a copy of it (write)"):
        while view:
            view = view[os.write(fd, view) :]


def _rename(entry: Entry, reached: Reached, temp: bytes) -> None:
    try:
        syscalls.rename_new(reached.folder, temp, reached.folder, reached.name)
    except FileExistsError as error:
        raise Refused.about(entry.gone.path, _TAKEN) from error


def _look_again(entry: Entry, reached: Reached, held: Held | None, copy: Held, temp: bytes) -> None:
    """After the exchange: what was in the file's place is our link, and nobody came to write through it."""
    ours = is_new(entry, reached, temp, reached.status(temp))
    if ours and (held is None or not held.visited or copy.visited):
        # Who came to write to the file that is back already is not to lose it either.
        return
    # Here, since repair would take the file for restored: it knows of no one who waits.
    syscalls.exchange(reached.folder, temp, reached.name)
    reason = "somebody wants to write to it; undo again when it is closed" if ours else _TAKEN
    raise Refused.about(entry.gone.path, reason)


def _changed(entry: Entry, reached: Reached) -> Refused:
    linked = entry.action == "hardlink" and reached.status() is not None
    kept = entry.gone.path if linked else entry.kept.path
    return Refused.about(
        entry.gone.path,
        f"it cannot be brought back, as {os.fsdecode(kept)} was changed since; nothing was "
        "touched, so bring that back first",
    )
