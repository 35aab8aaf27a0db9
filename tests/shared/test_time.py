"""Moments in messages and files."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loracore.time import rfc3339


@given(st.floats(allow_nan=False))
def test_any_time_of_a_file_can_be_written(seconds: float) -> None:
    """RFC 3339, and as near to what it is as a year of four digits allows."""
    moment = datetime.datetime.fromisoformat(rfc3339(seconds))
    if 0 <= seconds <= 2**32:
        assert moment.timestamp() == pytest.approx(seconds, abs=0.002)


def test_it_ends_with_z() -> None:
    assert rfc3339(0, "seconds") == "1970-01-01T00:00:00Z"
