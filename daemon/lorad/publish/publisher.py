"""Keeps the JSON files up with the catalogue: one request after the other, each file whole at every moment.

A thread for each file writes and syncs it while the next one is rendered, so that they share the disk's time
and the file system's commits. None is renamed before all are on the disk; then each rename is on the disk
before the next. A reader, a kill or a power cut finds each file in the old or the new version, and never a
later one of the order newer than an earlier one.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress

from lorad.catalog.views import Snapshot, connect, read_snapshot
from lorad.pipeline.protocol import Publish
from lorad.publish.model import Model
from lorad.publish.render import render

#: Bytes and parts (at most IOV_MAX) that are written at once: page by page would take twice as long.
_BATCH_BYTES, _BATCH_PARTS = 1 << 20, 512


class _Writing(threading.Thread):
    """One file on its way to the disk. It is there if `trouble` is None after `join`."""

    def __init__(self, path: str, parts: Sequence[bytes]) -> None:
        super().__init__(daemon=True)
        self._path = path
        self._parts = parts
        self.trouble: BaseException | None = None

    def run(self) -> None:
        try:
            # Whatever stands there, of one that was killed or a pipe, is not written to.
            with suppress(FileNotFoundError):
                os.unlink(self._path)
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            try:
                for batch in _batches(self._parts):
                    _write(descriptor, batch)
                # A file's size and blocks come with its data, its times may be lost. See fdatasync(2).
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)
        except BaseException as trouble:
            # It is raised again in the thread that waits for this one.
            self.trouble = trouble


def replace_together(folder: str, files: Iterable[tuple[str, Sequence[bytes]]]) -> None:
    """Replace files in `folder`, given as name and content in parts, in this order. Raises OSError.

    The temporary file of one that was killed is replaced by the next; after an error there is none.
    """
    writings: dict[str, _Writing] = {}
    try:
        for name, parts in files:
            path = os.path.join(folder, name)
            writings[path] = _Writing(f"{path}.new", parts)
            writings[path].start()
    finally:
        for writing in writings.values():
            writing.join()
    trouble = next((writing.trouble for writing in writings.values() if writing.trouble is not None), None)
    if trouble is not None:
        for path in writings:
            with suppress(OSError):
                os.unlink(f"{path}.new")
        raise trouble
    _rename(folder, list(writings))


def _rename(folder: str, paths: Sequence[str]) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    before: list[int] = []
    try:
        for path in paths:
            with suppress(OSError):
                before.append(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
            os.rename(f"{path}.new", path)
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
        # Giving back the blocks of large files takes a third of all the time. Nobody has to wait for that.
        threading.Thread(target=_close, args=(before,), daemon=True).start()


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _batches(parts: Iterable[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for part in parts:
        batch.append(part)
        size += len(part)
        if size >= _BATCH_BYTES or len(batch) >= _BATCH_PARTS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _write(descriptor: int, batch: Sequence[bytes]) -> None:
    written = os.writev(descriptor, batch)
    if written < sum(map(len, batch)):
        # The disk is nearly full, or it is very large; going on says which.
        rest = memoryview(b"".join(batch))[written:]
        while rest:
            rest = rest[os.write(descriptor, rest) :]


class Publisher:
    """The views of the catalogue in `state_dir`, and the model they were rendered from."""

    def __init__(self, state_dir: str) -> None:
        self._state_dir = state_dir
        self._model: Model | None = None

    def publish(self, asked: Publish) -> int:
        """Bring the files up to the newest generation; the generation that they are of now.

        That is an earlier one than the one asked for if the catalogue went on before it could be read: other
        names changed with that, which the next request tells. Raises OSError or sqlite3.Error; then, and at
        first, all is read and rendered anew.
        """
        model = self._model if asked.touched is not None else None
        # Until all is well; and no two models at a time, they are large.
        self._model = None
        if model is None or asked.touched is None:
            model = Model()
            model.update(self._read(None), ())
        else:
            snapshot = self._read(asked.touched)
            if snapshot.generation != asked.generation:
                self._model = model
                return model.generation
            model.update(snapshot, asked.touched)
        replace_together(self._state_dir, render(model))
        self._model = model
        return model.generation

    def _read(self, paths: Collection[bytes] | None) -> Snapshot:
        connection = connect(self._state_dir)
        try:
            return read_snapshot(connection, paths)
        finally:
            connection.close()
