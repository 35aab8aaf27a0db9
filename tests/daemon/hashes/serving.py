"""A catalogue of real files and the service that has them hashed; the test's thread is the core."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from lorad.catalog import Catalog, Row
from lorad.hashes.service import HashingService, Waits
from lorad.hashes.turns import Hashed

SECONDS = 30.0


class Core:
    """`found` are all results, in their order; `complaints` what was said of failures."""

    def __init__(self, state: Path, waits: Waits) -> None:
        state.mkdir(exist_ok=True)
        self.catalog = Catalog(str(state))
        self.found: list[Hashed] = []
        self.complaints: list[str] = []
        self.busy, self.tagged = False, 0
        self._woken = threading.Event()
        self._number = max((row.id for row in self.catalog.files.rows()), default=0)
        self.service = HashingService(
            str(state), lambda text, _: self.complaints.append(text), self._woken.set, waits
        )

    def add(self, path: Path, content: bytes, *, status: str = "unique") -> int:
        """A file on the disk and in the catalogue, last changed long enough ago."""
        path.write_bytes(content)
        time.sleep(max(0.0, (path.stat().st_ctime_ns + 20_000_000 - time.time_ns()) / 1e9))
        found = path.stat()
        self._number += 1
        identity = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        rest = (1, status, None, None, None, None, None, None, 0.0, None, 0, 0)
        self.catalog.files.save([Row(self._number, *identity, *rest)])
        self.catalog.names.save([(os.fsencode(path), self._number, 1, None)])
        self.catalog.commit(new_generation=True)
        return self._number

    def remove(self, file: int) -> None:
        self.catalog.names.drop(path for path, number, *_ in list(self.catalog.names.rows()) if number == file)
        self.catalog.drop_files([file])
        self.catalog.commit(new_generation=True)

    def take_number(self, number: int) -> None:
        """The next file gets it, as when the catalogue was opened again."""
        self._number = number - 1

    def until(self, done: Callable[[], object]) -> None:
        """Be the core until something is so."""
        deadline = time.monotonic() + SECONDS
        while not done():
            assert time.monotonic() < deadline, (self.found, self.complaints, self.service.state)
            hashed = self.service.look(self.catalog.generation, busy=self.busy, tagged=self.tagged)
            if hashed is not None:
                self.found.append(hashed)
                self.catalog.hashes.save(hashed.file, hashed.found)
                self.catalog.commit(new_generation=False)
                self.service.taken()
            self._woken.wait(0.02)
            self._woken.clear()

    def workers(self) -> list[psutil.Process]:
        return [child for child in psutil.Process().children() if _is_worker(child)]

    def __enter__(self) -> Self:
        self.service.use(True)
        self.service.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.service.stop()
        self.catalog.close()


def _is_worker(process: psutil.Process) -> bool:
    try:
        return "lorad.workers.worker" in process.cmdline()
    except psutil.Error:
        # It has ended just now.
        return False
