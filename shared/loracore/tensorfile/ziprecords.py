"""The directory of a zip archive as torch writes it: named records, stored without compression.

Format: PKWARE's APPNOTE 6.3, sections 4.3.7 (local header), 4.3.12 (central directory), 4.3.14 to 4.3.16
(end records, zip64), 4.5.3 (zip64 extra field). Only the end of the file is read; where a record's bytes
begin is told by its local header alone, which `record_start` reads when the bytes are wanted.
"""

from __future__ import annotations

import struct
from itertools import pairwise

import msgspec

from loracore.errors import MalformedFile
from loracore.tensorfile.container import MAX_HEADER
from loracore.tensorfile.source import Source

_END = struct.Struct("<4s4H2IH")
_END64_LOCATOR = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQ2H2I4Q")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")

#: More records than a checkpoint of the most layers has.
_MAX_RECORDS = 262_144
_REMEDY = "download it again"


class Record(msgspec.Struct, frozen=True):
    """A record's bytes: `header` is the offset of its local header, `size` the length of its data."""

    header: int
    size: int
    plain: bool


def read_directory(source: Source) -> dict[bytes, Record]:
    """Every record by name, in the directory's order.

    Raises:
        MalformedFile: the directory is truncated, contradicts itself, or names a record twice.
    """
    count, length, start = _read_end(source)
    if count > _MAX_RECORDS or length > MAX_HEADER:
        raise MalformedFile(
            f"its zip directory claims {count} records in {length} bytes, more than any checkpoint"
        )
    directory = source.read(start, length)
    records: dict[bytes, Record] = {}
    position = 0
    for _ in range(count):
        name, record, position = _read_entry(directory, position)
        if name in records:
            raise MalformedFile(f"its zip directory names {name[:80]!r} twice")
        records[name] = record
    _check_places(records, start)
    return records


def record_start(source: Source, header: int) -> int:
    """The offset of the first data byte of the record whose local header begins at `header`.

    Raises:
        MalformedFile: there is no local header, or the file ends in it.
    """
    signature, *_, name_length, extra_length = _LOCAL.unpack(source.read(header, _LOCAL.size))
    if signature != b"PK\x03\x04":
        raise MalformedFile(f"its zip directory points to {header}, where no record begins; {_REMEDY}")
    return header + _LOCAL.size + int(name_length) + int(extra_length)


def read_record(source: Source, record: Record, limit: int) -> bytes:
    """A whole small record. Raises MalformedFile where it is longer than `limit` or not stored plainly."""
    if not record.plain:
        raise MalformedFile("its zip records are compressed or encrypted; load it with torch and save it again")
    if record.size > limit:
        raise MalformedFile(f"a zip record of {record.size} bytes is longer than the {limit} that it may have")
    return source.read(record_start(source, record.header), record.size)


def _read_end(source: Source) -> tuple[int, int, int]:
    """Number of records, and length and offset of the central directory."""
    for tail in (_END.size, _END.size + 0xFFFF):
        base = max(0, source.size - tail)
        text = source.read(base, source.size - base)
        at = text.rfind(b"PK\x05\x06", 0, len(text) - _END.size + 4)
        if at >= 0:
            break
    else:
        raise MalformedFile(f"truncated: it begins as a zip archive and has no directory at its end; {_REMEDY}")
    _, disk, first_disk, _, count, length, start, _ = _END.unpack_from(text, at)
    end = base + at
    if 0xFFFF in (disk, first_disk, count) or 0xFFFFFFFF in (length, start):
        disk, first_disk, count, length, start, end = _read_end64(source, end)
    if disk or first_disk or start + length > end:
        raise MalformedFile(f"its zip directory does not lie inside the file; {_REMEDY}")
    return count, length, start


def _read_end64(source: Source, end: int) -> tuple[int, int, int, int, int, int]:
    locator = source.read(end - _END64_LOCATOR.size, _END64_LOCATOR.size)
    signature, _, at, _ = _END64_LOCATOR.unpack(locator)
    if signature != b"PK\x06\x07" or at + _END64.size > end:
        raise MalformedFile(f"its zip64 directory is damaged; {_REMEDY}")
    signature, _, _, _, disk, first_disk, _, count, length, start = _END64.unpack(source.read(at, _END64.size))
    if signature != b"PK\x06\x06":
        raise MalformedFile(f"its zip64 directory is damaged; {_REMEDY}")
    return disk, first_disk, count, length, start, at


def _read_entry(directory: bytes, position: int) -> tuple[bytes, Record, int]:
    """Name and record of the directory's entry at `position`, and where the next one begins."""
    if position + _ENTRY.size > len(directory):
        raise MalformedFile(f"its zip directory is shorter than it claims; {_REMEDY}")
    fields = _ENTRY.unpack_from(directory, position)
    signature, flags, method = fields[0], fields[3], fields[4]
    packed, size, name_length, extra_length, comment_length = fields[8:13]
    header = fields[16]
    name_end = position + _ENTRY.size + name_length
    extra_end = name_end + extra_length
    end = extra_end + comment_length
    if signature != b"PK\x01\x02" or end > len(directory):
        raise MalformedFile(f"its zip directory is damaged; {_REMEDY}")
    name = directory[name_end - name_length : name_end]
    if 0xFFFFFFFF in (packed, size, header):
        size, packed, header = _widen(directory[name_end:extra_end], size, packed, header)
    plain = method == 0 and not flags & 1 and packed == size
    return name, Record(header, packed, plain), end


def _widen(extra: bytes, size: int, packed: int, header: int) -> tuple[int, int, int]:
    """The numbers that need eight bytes each, from the zip64 extra field."""
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        if kind == 1:
            body = extra[position + 4 : position + 4 + length]
            wide = iter(struct.unpack(f"<{len(body) // 8}Q", body[: len(body) // 8 * 8]))
            numbers = [next(wide, -1) if number == 0xFFFFFFFF else number for number in (size, packed, header)]
            if -1 in numbers:
                break
            return numbers[0], numbers[1], numbers[2]
        position += 4 + length
    raise MalformedFile(f"its zip64 directory lacks a number; {_REMEDY}")


def _check_places(records: dict[bytes, Record], limit: int) -> None:
    """Records lie one after the other before the directory; gaps between them are the writer's padding."""
    places = [(each.header, each.header + _LOCAL.size + len(name) + each.size) for name, each in records.items()]
    places.sort()
    for (_, end), (start, _) in pairwise(places):
        if end > start:
            raise MalformedFile("two of its zip records overlap")
    if places and places[-1][1] > limit:
        raise MalformedFile(f"a zip record lies past the place where records end; {_REMEDY}")
