"""The files beside a model file that are about it: its preview, description, hashes, under the same stem."""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from loracore.tensorfile import has_reader
from lorad.dedupe.action.entry import Entry, Sidecar, hidden_name
from lorad.dedupe.action.journal import Context
from lorad.dedupe.action.place import Reached, rename_new

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


def put_aside(context: Context, entry: Entry, reached: Reached, place: int | None) -> None:
    """Hide the action's sidecars beside themselves, or move them into its `place` in quarantine.

    One that is gone, another file by now, or has no name to go to stays as it is.
    """
    for sidecar in entry.sidecars:
        status = reached.status(sidecar.name)
        if status is not None and status.st_ino == sidecar.ino:
            folder, name = _aside(context, entry, reached, place, sidecar)
            # Long names may be cut to the same one.
            with suppress(FileExistsError):
                rename_new(reached.folder, sidecar.name, folder, name)
                context.at("sidecar moved")


def put_back(context: Context, entry: Entry, reached: Reached, place: int | None) -> list[bytes]:
    """Give them their names back; returns the names that are taken by others, whose files stay aside."""
    taken = []
    for sidecar in entry.sidecars:
        folder, name = _aside(context, entry, reached, place, sidecar)
        try:
            rename_new(folder, name, reached.folder, sidecar.name)
            context.at("sidecar returned")
        except FileNotFoundError:
            continue
        except FileExistsError:
            taken.append(sidecar.name)
    return taken


def _aside(
    context: Context, entry: Entry, reached: Reached, place: int | None, sidecar: Sidecar
) -> tuple[int, bytes]:
    if place is not None:
        return place, sidecar.name
    return reached.folder, hidden_name(sidecar.name, context.journal.token, entry.id)


def _belongs(name: bytes, stem: bytes) -> bool:
    return name.startswith(stem) and name[len(stem) :].lower() in SUFFIXES
