"""Counted, bounded reads of one open file. `pread` only: a mapped file that shrinks would be a SIGBUS."""

from __future__ import annotations

import os
from collections.abc import Callable

from loracore.errors import MalformedFile


class Source:
    """An open descriptor, its size, and how many bytes were read from it. `stepped` is called after each read."""

    def __init__(self, fd: int, size: int) -> None:
        self.fd = fd
        self.size = size
        self.bytes_read = 0
        self.stepped: Callable[[], None] | None = None

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes at `offset`. Raises MalformedFile where the file ends before."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise MalformedFile(f"truncated: bytes {offset} to {offset + length} lie past its end at {self.size}")
        parts = []
        while length:
            part = os.pread(self.fd, length, offset)
            if not part:
                raise MalformedFile("it became shorter while it was read")
            self.bytes_read += len(part)
            parts.append(part)
            offset += len(part)
            length -= len(part)
            if self.stepped is not None:
                self.stepped()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` from `offset`. Raises MalformedFile where the file ends before."""
        done = 0
        while done < len(buffer):
            count = os.preadv(self.fd, [buffer[done:]], offset + done)
            if not count:
                raise MalformedFile("it became shorter while it was read")
            done += count
        self.bytes_read += done
