"""What an installation lacks, and the command that installs it."""

from __future__ import annotations

from importlib.util import find_spec

from loracore.errors import MissingPackage

#: By the extra that brings them, packages without which nothing of it works.
_NEEDS = {"daemon": ("blake3", "prometheus_client", "psutil", "structlog", "watchdog")}


def need(extra: str, what: str) -> None:
    """Raises MissingPackage where `what` cannot be done, since an extra is not installed."""
    missing = [name for name in _NEEDS[extra] if find_spec(name) is None]
    if missing:
        raise MissingPackage(f"{what} needs {', '.join(missing)}: pip install 'lorad[{extra}]'", what)
