"""Results on disk, without a name: they are gone with the daemon, and take none of its memory."""

from __future__ import annotations

import os
import tempfile

from loracore.causes import explained
from loracore.errors import StateError


class KeptResult:
    """A file in the state folder that a worker process writes. Close it when it is not wanted any more."""

    def __init__(self, state_dir: str) -> None:
        """Raises StateError."""
        try:
            self._file = tempfile.TemporaryFile(dir=state_dir, buffering=0)  # noqa: SIM115 - kept
        except OSError as error:
            raise StateError(
                f"{state_dir}: the result of a job cannot be kept: {explained(error, state_dir)}"
            ) from error
        self.size = 0

    @property
    def fd(self) -> int:
        return self._file.fileno()

    def part(self, offset: int, length: int) -> bytes:
        return os.pread(self.fd, min(length, max(0, self.size - offset)), offset)

    def close(self) -> None:
        self._file.close()
