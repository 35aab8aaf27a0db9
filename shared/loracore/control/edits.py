"""Edits of headers that the daemon is to know of, so that it reads no data of the edited files again."""

from __future__ import annotations

from loracore.control.frame import Struct
from loracore.identity import Edited

#: Files of one request.
MOST_EDITED = 256


class NoteEdits(Struct, frozen=True, tag="note-edits"):
    """These files were replaced by others of the same layers; answered by `Noted`, at once.

    What the daemon knows of the layers of a file that was as `before` says is taken over by the one that is as
    `after` says, at the same name, where its header promises the same layout. All else is read as without it. It
    may come before or after the daemon sees the new files; those outside of its roots are passed over.
    """

    files: list[Edited]


class Noted(Struct, frozen=True, tag="noted"):
    pass


EditRequest = NoteEdits
EditAnswer = Noted
