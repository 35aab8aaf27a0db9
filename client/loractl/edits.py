"""Reports to a running daemon which files this process has edited: it reads no data of them again then.

An edit is as good without it: no daemon, an older one and one that does not answer are passed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from loracore.errors import NoDaemonError
from loracore.identity import Edited
from loractl.address import find_daemon

if TYPE_CHECKING:
    from loractl.client import Client

#: Seconds that a daemon has to take a connection, and to answer. One that does not is asked no more.
_PATIENCE = 1.0


class EditNotes:
    """Connects with the first file."""

    def __init__(self) -> None:
        self._client: Client | None = None
        self._is_over = False

    def __enter__(self) -> EditNotes:
        return self

    def __exit__(self, *exc: object) -> None:
        self._end()

    def note(self, files: Sequence[Edited]) -> None:
        """Tell of these files. Never raises."""
        if self._is_over:
            return
        try:
            if self._client is None:
                self._client = _connected()
            self._client.note_edits(files)
        except Exception:
            # The files are edited, and are to be read once more at the worst: nothing here may end the job.
            self._end()

    def _end(self) -> None:
        self._is_over = True
        client, self._client = self._client, None
        if client is not None:
            client.close()


def _connected() -> Client:
    """Whether anybody is there is found out before all that it takes to talk is loaded. Raises LoraError."""
    address = find_daemon(None, _PATIENCE)
    address.close()
    if address.remote:
        raise NoDaemonError("the files of this machine are none of the daemon's")
    from loractl.client import Client  # noqa: PLC0415 - brings ZeroMQ

    return Client(timeout=_PATIENCE)
