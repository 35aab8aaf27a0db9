"""What people see."""

from __future__ import annotations

import pytest

from loracore.paths import shown
from loractl.view.tables import size


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1_234_567, "1.2 MB"),
        (5e9, "5.0 GB"),
        (5e12, "5000.0 GB"),
    ],
)
def test_sizes_are_decimal(count: float, text: str) -> None:
    """Bytes in the units that file managers use."""
    assert size(count) == text


def test_paths_cannot_write_to_the_terminal() -> None:
    """Escape sequences and bytes that are not UTF-8 become visible."""
    assert shown(b"a\x1b[31m\n\xffb\xc3\xa9") == r"a\x1b[31m\n\xffb" + "é"
