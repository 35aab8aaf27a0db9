"""What holds for all tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

#: Fixtures of all tests.
pytest_plugins = ["tests.disks", "tests.unions"]

# No deadline is asserted: machines differ.
settings.register_profile("lorad", deadline=None)
settings.load_profile("lorad")
# A shell ignores it for what it runs in the background, and so would all that is started here.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def back_where_we_were() -> Iterator[None]:
    """A pipeline in this process makes its runtime folder the current one."""
    before = os.getcwd()
    yield
    os.chdir(before)
