"""Whether a file may be kept for another one, asked of the disks now; plans ask for many at once."""

from __future__ import annotations

import os

from lorad.dedupe.orders import Refused
from lorad.library.keepers import Rules, may_keep_there
from lorad.watch.storage import Finder, look

_IN_MEMORY = "its twin lies in memory (tmpfs) and is lost at a restart; keep the one on the disk"
_READ_ONLY = (
    "its twin is on a read-only file system; mount that writable, or name it in a path-prefix of [dedupe] keep"
)


def why_not_kept(kept: bytes, device: int, gone: bytes, rules: Rules) -> str:
    """Why the file `kept`, on this device, may not be kept for the one at `gone`; empty where it may."""
    finder = Finder(look({device: os.path.dirname(kept)}))
    if finder.volatile(kept) and not finder.volatile(gone):
        return _IN_MEMORY
    place = finder.read_only(kept, device)
    return "" if place is None or may_keep_there(kept, place, rules) else _READ_ONLY


def refuse_volatile(kept: bytes, gone: bytes) -> None:
    """Raises Refused where the kept file would be lost with the power, and the one that goes not."""
    finder = Finder(look({}))
    if finder.volatile(kept) and not finder.volatile(gone):
        raise Refused.about(gone, _IN_MEMORY)
