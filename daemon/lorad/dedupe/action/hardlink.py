"""The action `hardlink`: the file's name becomes one more name of the kept file."""

from __future__ import annotations

import os
import stat

from loracore import causes
from loracore.causes import doing
from lorad.dedupe.action.entry import Entry
from lorad.dedupe.action.hold import Held
from lorad.dedupe.action.links import Linking
from lorad.dedupe.action.place import Reached
from lorad.dedupe.action.registry import register


@register
class HardLink(Linking):
    name = "hardlink"
    levels = ("file",)
    final = "linked"
    calls = (causes.LINK, causes.EXCHANGE)

    def make_link(self, entry: Entry, kept: Held, folder: int) -> None:
        # By the descriptor, not by the name: the link is to the file that was compared, and to no other.
        with doing(causes.LINK):
            os.link(b"/proc/self/fd/%d" % kept.fd, entry.aside, dst_dir_fd=folder, follow_symlinks=True)

    def is_ours(self, entry: Entry, reached: Reached, name: bytes, status: os.stat_result) -> bool:
        ino = status.st_ino
        return stat.S_ISREG(status.st_mode) and ino == entry.kept.identity.ino != entry.gone.identity.ino
