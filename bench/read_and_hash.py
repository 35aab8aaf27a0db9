"""One process that reads every file and hashes it with BLAKE3: the least that hashing everything can cost.

`python bench/read_and_hash.py FOLDER [THREADS]` prints the number of bytes hashed. Reads go into one
buffer of 1 MiB, which stays in the processor's cache. THREADS other than 1 lets BLAKE3 use them on each.
"""

from __future__ import annotations

import os
import sys

from blake3 import blake3

BUFFER = 1 << 20


def main(folder: str, threads: int) -> None:
    buffer = bytearray(BUFFER)
    total = 0
    for parent, _, names in os.walk(folder):
        for name in sorted(names):
            total += read_and_hash(os.path.join(parent, name), buffer, threads)
    print(total)


def read_and_hash(path: str, buffer: bytearray, threads: int) -> int:
    digest = blake3(max_threads=threads)
    view = memoryview(buffer)
    descriptor = os.open(path, os.O_RDONLY)
    position = 0
    try:
        while count := os.preadv(descriptor, [buffer], position):
            digest.update(view[:count])
            position += count
    finally:
        os.close(descriptor)
    digest.digest()
    return position


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1)
