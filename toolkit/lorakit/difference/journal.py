"""Finished layers, kept in the output folder until the reports are written, so that a killed run goes on.

The first line says what is compared; each other one is a finished layer, with all that reports are made of.
Factors lie in a file beside it, and are there before the line that speaks of them. A line that is torn, or whose
factors are not what they were, ends it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from typing import NamedTuple
from zlib import crc32

import msgspec
import numpy as np

from loracore.errors import ChangedFile, UsageError
from loracore.whole import regular
from lorakit.difference.rows import Singles
from lorakit.difference.verdict import Spectrum
from lorakit.output.draft import cannot


class FactorPlace(msgspec.Struct, frozen=True):
    """Where a layer's factors lie in the journal's data: B and A in float32, one behind the other.

    `error`: ‖X - BA‖ / ‖X‖, B and A as stored. `energy`: share of ‖X‖² that they capture.
    `exact`: no others of this rank are better.
    """

    offset: int
    rank: int
    error: float
    energy: float
    exact: bool
    crc32: int = 0


class Record(msgspec.Struct, frozen=True):
    """A finished layer. `fault` says why it could not be compared; then the numbers are zeros.

    `relative_diff` is ‖fine-tuned - base‖ / ‖base‖, infinite numbers being None. `seconds` is all of its time;
    those of the engines are without reading. `left_out`: why it has no factors, where they were asked for.
    """

    name: str
    shape: tuple[int, ...]
    mean_abs_diff: float = 0.0
    max_abs_diff: float = 0.0
    relative_diff: float | None = 0.0
    changed_ratio: float = 0.0
    seconds: float = 0.0
    numpy_seconds: float | None = None
    torch_seconds: float | None = None
    disagreement: float | None = None
    spectrum_seconds: float | None = None
    spectrum: Spectrum | None = None
    factors: FactorPlace | None = None
    left_out: str = ""
    fault: str = ""

    @property
    def modified(self) -> bool:
        """Whether any entry changed by more than the threshold."""
        return self.changed_ratio > 0


NAME, DATA = b".comparison-journal", b".comparison-factors"
_RECORDS = msgspec.json.Decoder(Record)


class Key(msgspec.Struct, frozen=True):
    """What a run is for. `question`: the models and the parameters. `identity`: the files, as they are now."""

    question: dict[str, str]
    identity: list[tuple[str, int, int, int, int, int]]
    format: int = 1


_KEYS = msgspec.json.Decoder(Key)


class Factors(NamedTuple):
    """B (d × rank) and A (rank × n)."""

    outer: Singles
    inner: Singles


class Journal:
    """Open for appending, by one thread at a time of several. `records`: what was finished before."""

    def __init__(self, folder: bytes, key: Key) -> None:
        """Go on with the journal in `folder`, if it is for `key`; else begin it anew. Raises FileError."""
        self.folder = folder
        self._path, self._data_path = os.path.join(folder, NAME), os.path.join(folder, DATA)
        self._lock = threading.Lock()
        line = msgspec.json.encode(key) + b"\n"
        fresh = _first_line(self._path) != line
        try:
            self._data = os.open(self._data_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            self._lines = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            self._claim()
            if fresh:
                os.ftruncate(self._lines, 0)
                os.ftruncate(self._data, 0)
                os.pwrite(self._lines, line, 0)
            self.records, self._end, self._data_end = self._read(len(line))
            os.ftruncate(self._lines, self._end)
        except OSError as error:
            raise cannot(self._path, error) from error

    def _claim(self) -> None:
        try:
            fcntl.flock(self._lines, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            folder = os.fsdecode(os.path.dirname(self._path))
            raise UsageError(f"{folder}: another run writes there; wait for it, or give another -o") from error

    def keep(self, record: Record, factors: Factors | None) -> Record:
        """Add a finished layer; where its factors lie is filled in. Raises FileError."""
        with self._lock:
            try:
                if factors is not None and record.factors is not None:
                    record = msgspec.structs.replace(record, factors=self._put(record.factors, factors))
                line = msgspec.json.encode(record) + b"\n"
                _write(self._lines, line, self._end)
                self._end += len(line)
            except OSError as error:
                raise cannot(self._path, error) from error
        return record

    def factors(self, record: Record) -> Factors:
        """A kept layer's factors. Raises ChangedFile where they are not what they were."""
        place = record.factors
        assert place is not None
        data = self._get(record, place)
        if data is None:
            raise ChangedFile("it is not what was written; do it again with --force", os.fsdecode(self._data_path))
        rows = record.shape[0]
        values = np.frombuffer(data, "<f4")
        return Factors(
            values[: rows * place.rank].reshape(rows, place.rank),
            values[rows * place.rank :].reshape(place.rank, -1),
        )

    def remove(self) -> None:
        """The reports are written: it is not needed any more."""
        for path in (self._path, self._data_path):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def close(self) -> None:
        os.close(self._lines)
        os.close(self._data)

    def _put(self, place: FactorPlace, factors: Factors) -> FactorPlace:
        data = factors.outer.astype("<f4").tobytes() + factors.inner.astype("<f4").tobytes()
        _write(self._data, data, self._data_end)
        offset, self._data_end = self._data_end, self._data_end + len(data)
        return msgspec.structs.replace(place, offset=offset, crc32=crc32(data))

    def _get(self, record: Record, place: FactorPlace) -> bytes | None:
        columns = int(np.prod(record.shape[1:], dtype=np.int64))
        length = 4 * place.rank * (record.shape[0] + columns)
        data = os.pread(self._data, length, place.offset)
        while len(data) < length and (more := os.pread(self._data, length - len(data), place.offset + len(data))):
            data += more
        return data if len(data) == length and crc32(data) == place.crc32 else None

    def _read(self, start: int) -> tuple[dict[str, Record], int, int]:
        """The finished layers, and where the journal's lines and data go on."""
        records: dict[str, Record] = {}
        end, data_end = start, 0
        with os.fdopen(os.dup(self._lines), "rb") as file:
            file.seek(start)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                try:
                    record = _RECORDS.decode(line)
                except msgspec.MsgspecError:
                    break
                if record.factors is not None:
                    data = self._get(record, record.factors)
                    if data is None:
                        break
                    data_end = max(data_end, record.factors.offset + len(data))
                records[record.name] = record
                end += len(line)
        return records, end, data_end


def read_key(folder: bytes) -> Key | None:
    """What the journal in a folder is for; None without one."""
    try:
        return _KEYS.decode(_first_line(os.path.join(folder, NAME)))
    except msgspec.MsgspecError:
        return None


def _first_line(path: bytes) -> bytes:
    try:
        with open(path, "rb", opener=regular) as file:
            return file.readline(16 << 20)
    except OSError:
        return b""


def _write(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, offset)
        view, offset = view[count:], offset + count
