"""What a file is known by fits wherever it is kept."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from loracore.identity import Identity, bounded

#: As a file system may have them, and worse.
ANY = st.integers(-(2**80), 2**80)


def status(dev: int, ino: int, size: int, mtime_ns: int, ctime_ns: int) -> os.stat_result:
    fields = [0] * 10
    fields[1:3], fields[6] = [ino, dev], size
    return os.stat_result(fields, {"st_mtime_ns": mtime_ns, "st_ctime_ns": ctime_ns})


@given(ANY, ANY, ANY, ANY, ANY)
def test_any_file_has_an_identity_that_can_be_kept(dev: int, ino: int, size: int, mtime: int, ctime: int) -> None:
    """SQLite and MessagePack take what any stat gives, and give it back."""
    identity = Identity.of(status(dev, ino, size, mtime, ctime))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(identity), type=Identity) == identity
    with closing(sqlite3.connect(":memory:")) as db:
        row = db.execute("SELECT ?, ?, ?, ?, ?", identity.stored()).fetchone()
    assert Identity.of_stored(*row) == identity


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1))
def test_ordinary_numbers_are_kept_as_they_are(one: int, other: int) -> None:
    """Only what does not fit is changed, and its order never."""
    assert bounded(one) == one
    assert bounded(one + 2**64) >= bounded(other)
