"""What holds for all tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

#: Fixtures of all tests.
pytest_plugins = ["tests.disks", "tests.unions"]

# No deadline is asserted: machines differ. What is tried is the same in each run; `make soak` tries
# what is new, and more of it.
_RANDOM = "LORAD_RANDOM" in os.environ
settings.register_profile("lorad", deadline=None, derandomize=not _RANDOM, max_examples=100 if _RANDOM else 50)
settings.load_profile("lorad")
# A shell ignores the one for what it runs in the background, nohup the other; so would all that is started here.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def back_where_we_were() -> Iterator[None]:
    """A pipeline in this process makes its runtime folder the current one."""
    before = os.getcwd()
    yield
    os.chdir(before)
