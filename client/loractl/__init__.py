"""The thin client: the command line, `Client` and `AsyncClient` for scripts, and `resolve` for model servers.

It knows `loracore`, and the daemon only as a process to talk to. They are loaded when they are first asked
for, so that the command line does not wait for what it does not use. What jobs compute is in `lorakit`, which is
loaded where a job runs in this process.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

import loracore  # noqa: F401 - old import paths of this package are found by it
from loracore.errors import LoraError

if TYPE_CHECKING:
    from loractl.aioclient import AsyncClient
    from loractl.client import Client, resolve

__all__ = ["AsyncClient", "Client", "resolve"]

_PLACES = {"Client": "loractl.client", "AsyncClient": "loractl.aioclient", "resolve": "loractl.client"}


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_PLACES[name]), name)
    except ModuleNotFoundError as error:
        raise LoraError(f"talking to the daemon needs {error.name}: pip install 'lorad'") from error
