"""What may be done with duplicates, and which of them is kept: `[dedupe]`, ready for use. No I/O."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from loracore.config import Dedupe
from loracore.settings import PATH_PREFIX

#: Actions that need equal bytes on one file system.
LINKING = ("reflink", "hardlink")


class Rule(msgspec.Struct, frozen=True):
    """A keep rule: its kind as in the configuration, and the folder of a `path-prefix`."""

    kind: str
    folder: bytes = b""


class Policy(msgspec.Struct, frozen=True):
    """`scope`: folders in which files may be changed; all where it is empty."""

    action: str = "report"
    levels: tuple[str, ...] = ("file", "tensors")
    keep: tuple[Rule, ...] = ()
    scope: tuple[bytes, ...] = ()
    min_age_ns: int = 0

    @classmethod
    def of(cls, settings: Dedupe, resolve: Callable[[str], bytes]) -> Policy:
        """`settings` with its folders as they stand in the catalogue's paths, which `resolve` tells."""
        return cls(
            action=settings.action,
            levels=settings.levels,
            keep=tuple(_rule(text, resolve) for text in settings.keep),
            scope=tuple(map(resolve, settings.scope)),
            min_age_ns=int(settings.min_age * 1e9),
        )

    def covers(self, path: bytes) -> bool:
        """Whether a file of this name may be changed."""
        return not self.scope or any(is_inside(path, folder) for folder in self.scope)


def is_inside(path: bytes, folder: bytes) -> bool:
    """Whether a path is the folder, or lies below it."""
    return path == folder or path.startswith(folder.rstrip(b"/") + b"/")


def _rule(text: str, resolve: Callable[[str], bytes]) -> Rule:
    if text.startswith(PATH_PREFIX):
        return Rule("path-prefix", resolve(text.removeprefix(PATH_PREFIX)))
    return Rule(text)
