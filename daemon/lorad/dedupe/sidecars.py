"""The files beside a model file that are about it: its preview, description, hashes, under the same stem."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from loracore.tensorfile import has_reader
from lorad.dedupe import syscalls
from lorad.dedupe.journal import Entry, Sidecar
from lorad.dedupe.orders import Refused
from lorad.dedupe.reach import Reached

#: What follows the stem, as A1111, Forge, ComfyUI's managers, Civitai Helper, InvokeAI and downloaders write it.
SUFFIXES = (
    b".json", b".civitai.info", b".civitai.json", b".metadata.json", b".cm-info.json", b".info", b".txt", b".md",
    b".yaml", b".yml", b".html", b".sha256", b".preview.png", b".preview.jpg", b".preview.jpeg", b".preview.webp",
    b".preview.mp4", b".png", b".jpg", b".jpeg", b".webp", b".gif", b".mp4",
)  # fmt: skip


def beside(reached: Reached) -> tuple[Sidecar, ...]:
    """The sidecars of a file: regular files, by name. None that belongs to another model file too."""
    names = [os.fsencode(name) for name in os.listdir(reached.folder)]
    stem = os.path.splitext(reached.name)[0]
    others = {os.path.splitext(name)[0] for name in names if has_reader(name) and name != reached.name}
    found = []
    for name in sorted(names):
        if not _belongs(name, stem) or any(_belongs(name, other) for other in others):
            continue
        status = reached.status(name)
        if status is not None and stat.S_ISREG(status.st_mode):
            found.append(Sidecar(name, status.st_ino))
    return tuple(found)


def put_aside(entry: Entry, reached: Reached, place: int, at: Callable[[str], None]) -> None:
    """Move the action's sidecars into quarantine. One that is gone or another file by now stays where it is."""
    for sidecar in entry.sidecars:
        status = reached.status(sidecar.name)
        if status is not None and status.st_ino == sidecar.ino:
            syscalls.rename_new(reached.folder, sidecar.name, place, sidecar.name)
            at("sidecar moved")
    os.fsync(place)
    os.fsync(reached.folder)


def put_back(entry: Entry, reached: Reached, place: int, at: Callable[[str], None]) -> list[bytes]:
    """Move them back, durably; returns the names that were taken by others, whose files stay in quarantine."""
    taken = []
    for sidecar in entry.sidecars:
        try:
            syscalls.rename_new(place, sidecar.name, reached.folder, sidecar.name)
            at("sidecar returned")
        except FileNotFoundError:
            continue
        except FileExistsError:
            taken.append(sidecar.name)
    os.fsync(reached.folder)
    os.fsync(place)
    return taken


def refuse_taken(entry: Entry, reached: Reached, place: int) -> None:
    """Raises Refused when a name that a sidecar would get back is taken."""
    waiting = {os.fsencode(name) for name in os.listdir(place)}
    for sidecar in entry.sidecars:
        if sidecar.name in waiting and reached.status(sidecar.name) is not None:
            path = os.path.join(os.path.dirname(entry.gone.path), sidecar.name)
            raise Refused.about(path, "another file has its name now; move that one away and undo again")


def _belongs(name: bytes, stem: bytes) -> bool:
    return name.startswith(stem) and name[len(stem) :].lower() in SUFFIXES
