"""The private daemon of one scan: a process of ours that ends with us, however we end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING, BinaryIO, cast

from loracore.extras import need

if TYPE_CHECKING:
    from loracore.messages import Report

#: Seconds that the process has to end by itself once its pipes are closed.
_PATIENCE = 10


class EmbeddedScan:
    """`python -m lorad.scan`, started at once. Use as a context; iterate for its reports."""

    def __init__(
        self, folders: Sequence[str], *, state_dir: str, loaders: int | None, hasher: str, follow: bool
    ) -> None:
        """Raises MissingPackage where the daemon's packages are not installed."""
        need("daemon", "scan")
        order = (state_dir, str(loaders or 0), hasher, str(int(follow)), *folders)
        # -P: a module in the folder we happen to be in must not be taken for one of ours.
        # In a session of its own, Ctrl-C reaches us alone; the closed pipe then tells it.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "lorad.scan", *order],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def __enter__(self) -> EmbeddedScan:
        return self

    def __iter__(self) -> Iterator[Report]:
        from loracore.wire import read_reports  # noqa: PLC0415 - imported while the process starts

        return read_reports(_open(self._process.stdout))

    def __exit__(self, *exc: object) -> None:
        _open(self._process.stdin).close()
        _open(self._process.stdout).close()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def status(self) -> int | None:
        """The exit status, once it has ended."""
        return self._process.poll()


def _open(pipe: IO[bytes] | None) -> BinaryIO:
    assert pipe is not None
    return cast(BinaryIO, pipe)
