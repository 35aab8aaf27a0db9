"""What the actions `hardlink` and `symlink` have in common: a link to the kept file stands in a file's place.

The link is made under the hidden name, and the two names change places at once: the path leads to one of the two
files at every moment, and the file that went has its hidden name.
"""

from __future__ import annotations

import os

from loracore import causes
from loracore.attributes import Attributes
from loracore.causes import doing
from lorad.dedupe.action.entry import Entry
from lorad.dedupe.action.hold import Held
from lorad.dedupe.action.journal import Context
from lorad.dedupe.action.order import Progress, Refused
from lorad.dedupe.action.place import Reached, exchange
from lorad.dedupe.action.registry import Action, Proven


class Linking(Action):
    """An action that puts a link in the place of the file that it hides."""

    links = True

    def make_link(self, entry: Entry, kept: Held, folder: int) -> None:
        """Make the link under the hidden name. Raises OSError."""
        raise NotImplementedError

    def refuse(self, kept: Held, gone: Held, attributes: Attributes) -> None:
        """A link has the owner, mode and ACL of what it leads to, which may give no other rights than before."""
        if not attributes.same_access(Attributes.of(kept.fd, kept.before)):
            raise Refused.about(gone.path, causes.OTHER_ACCESS)

    def perform(self, context: Context, act: Proven, places: dict[int, int], progress: Progress) -> None:
        entry, kept, gone = act.entry, act.kept, act.gone
        self.make_link(entry, kept, gone.folder)
        context.at("link made")
        if not os.path.samestat(os.stat(entry.aside, dir_fd=gone.folder), kept.before):
            raise Refused.about(
                gone.path, f"a link in its place would not lead to {os.fsdecode(kept.path)}; scan again"
            )
        with doing(causes.EXCHANGE):
            exchange(gone.folder, entry.aside, gone.name)


def is_ours(entry: Entry, reached: Reached, name: bytes, status: os.stat_result | None) -> bool:
    """Whether what stands at a name is the link that this action has made."""
    return status is not None and entry.kind.is_ours(entry, reached, name, status)
