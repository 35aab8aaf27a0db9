"""What computes the facts of a header: found by its entry point, so that the daemon is free of it."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable

from loracore import facts
from loracore.entrypoints import offered
from loracore.facts import Facts
from loracore.tensorfile import Container

#: What is kept of a file that it failed at, so that it is not tried at each start.
_FAILED = Facts(sound=False, problem="lorad failed at its facts, which is a mistake in lorad: please report that")


def is_installed() -> bool:
    """Whether there is anything that computes facts."""
    return bool(offered(facts.GROUP))


class FactsReader:
    """Gives encoded facts; None where nothing that computes them can be loaded, which is tried when it is used."""

    def __init__(self) -> None:
        self._loaded = False
        self._read: Callable[[Container, bytes], Facts] | None = None

    def __call__(self, container: Container, path: bytes) -> bytes | None:
        if not self._loaded:
            self._loaded = True
            self._load()
        if self._read is None:
            return None
        try:
            return facts.encode(self._read(container, path))
        except Exception:
            # Of whatever is installed: the file can be told apart without it.
            print(f"facts of {path!r}:", traceback.format_exc(), file=sys.stderr)
            return facts.encode(_FAILED)

    def _load(self) -> None:
        for point in offered(facts.GROUP):
            try:
                self._read = point.load()
            except Exception:
                # The same: what it needs may be missing.
                print(f"{point.value} cannot be loaded:", traceback.format_exc(), file=sys.stderr)
