"""Expressions that people saved under a name, in `searches.json` of the state folder; `@NAME` stands for one."""

from __future__ import annotations

import os
import re

import msgspec

from loracore.causes import explained
from loracore.expressions import BadExpression, parse
from loracore.paths import shown
from loracore.whole import regular, write_whole

_FILE = "searches.json"
_NAME = re.compile(r"[\w.-]{1,64}")
_USED = re.compile(r"(?<!\S)@(\S+)")
#: Searches that may be kept.
_MOST = 1000


class _Saved(msgspec.Struct, frozen=True):
    format: int
    searches: dict[str, str]


_DECODER = msgspec.json.Decoder(_Saved)


class CannotSave(Exception):
    """The disk would not take it; the text says why."""


class SavedSearches:
    """For use in one thread."""

    def __init__(self, state_dir: str) -> None:
        self._path = os.path.join(state_dir, _FILE)

    def all(self) -> dict[str, str]:
        """By name. Raises CannotSave where it cannot be read, BadExpression where it is not as it was written."""
        try:
            with open(self._path, "rb", opener=regular) as file:
                return _DECODER.decode(file.read()).searches
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise CannotSave(f"{shown(self._path)}: {explained(error)}") from error
        except msgspec.MsgspecError as error:
            raise BadExpression(
                f"{shown(self._path)}: it cannot be read: {error}; mend it or remove it"
            ) from error

    def save(self, name: str, expression: str) -> dict[str, str]:
        """Save or, where it is empty, forget; all there are then. Raises BadExpression and CannotSave."""
        if _NAME.fullmatch(name) is None:
            raise BadExpression(f"the name {name[:40]!r}: take up to 64 letters, digits, _ . and -")
        searches = self.all()
        if expression:
            if _USED.search(expression):
                raise BadExpression("a saved search cannot name another one")
            parse(expression)
            searches[name] = expression
        elif searches.pop(name, None) is None:
            raise self._missing(name, searches)
        if len(searches) > _MOST:
            raise BadExpression(f"{_MOST:,} searches are saved; forget some first")
        searches = dict(sorted(searches.items()))
        try:
            write_whole(self._path, msgspec.json.format(msgspec.json.encode(_Saved(1, searches))) + b"\n")
        except OSError as error:
            raise CannotSave(f"{shown(self._path)}: {explained(error)}; nothing was saved") from error
        return searches

    def expanded(self, expression: str) -> str:
        """An expression with what each `@NAME` stands for. Raises BadExpression and CannotSave."""
        if not _USED.search(expression):
            return expression
        searches = self.all()

        def saved(found: re.Match[str]) -> str:
            if found[1] not in searches:
                raise self._missing(found[1], searches)
            return searches[found[1]]

        return _USED.sub(saved, expression)

    @staticmethod
    def _missing(name: str, searches: dict[str, str]) -> BadExpression:
        there = f"there are {', '.join(searches)}" if searches else "none is saved"
        return BadExpression(f"no search {name[:64]!r} is saved; {there}")
