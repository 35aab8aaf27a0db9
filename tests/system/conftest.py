"""One machine for all tests, and what was measured in it, at the end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.system import machine as machines
from tests.system.machine import Machine

_figures = pytest.StashKey[dict[str, str]]()


@pytest.fixture(scope="session")
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    with machines.machine() as found:
        request.config.stash[_figures] = found.figures
        yield found


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    figures = config.stash.get(_figures, {})
    if figures:
        terminalreporter.section("measured")
    for name, figure in figures.items():
        terminalreporter.write_line(f"{name:60} {figure}")
