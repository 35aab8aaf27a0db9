"""What the name of an adapter may be, and the files that have it, as the daemon knows them.

A name is, in this order: the path of an adapter folder or file, or the end of one; the name of a folder, or of a
file with or without its suffix (case is ignored); a title, or what its trainer called it; a trigger word; the
beginning of a hash, 8 hex digits or more.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

from loracore import control
from loracore.errors import NoAdapterError, UsageError
from loracore.facts import Facts
from loracore.paths import shown
from loractl.adapter_config import weight_file
from loractl.steps import Steps, all_pages, ask, next_page

Kind = Literal["path", "name", "title", "trigger", "hash"]

#: Characters of a name, and of a base model's.
_LONGEST = 1024
#: Characters that the daemon is asked to look for; what it finds is compared as a whole.
_NEEDLE = 300
_ASCII = re.compile(r"[\x20-\x7e]+")
_HASH = re.compile(r"(?:0x)?[0-9a-f]{8,64}", re.IGNORECASE)
#: Hashes that files of different functions may have in common.
_SHARED_HASHES = ("layout", "layer")
#: Files that a hash may find.
_MOST_HASHED = 64


class Hit(NamedTuple):
    """A file that a name may mean, as the daemon knows it."""

    path: bytes
    size: int
    mtime_ns: int
    state: str
    facts: Facts

    @property
    def folder(self) -> bytes:
        """The PEFT folder that it is the weight file of; empty for another file."""
        folder, name = os.path.split(self.path)
        return folder if name.startswith(b"adapter_model.") else b""

    @property
    def place(self) -> str:
        """What it is called by: its folder, or itself."""
        return os.fsdecode(self.folder or self.path)


def checked(text: str, what: str) -> str:
    """A name that may be looked for. Raises NoAdapterError."""
    shape = "" if len(text) <= _LONGEST else f"{len(text):,} characters, more than {_LONGEST:,}"
    if not text.strip().strip("/"):
        shape = "nothing in it"
    elif not shape and not text.isprintable():
        shape = "characters in it that cannot be printed"
    if shape:
        raise NoAdapterError(f"{shown(text[:60].encode('utf-8', 'backslashreplace'))}: {what} has not {shape}")
    return text.rstrip("/")


def kinds(wanted: str) -> Iterator[Kind]:
    """What it may be, in the order in which that is looked for."""
    yield "path" if "/" in wanted else "name"
    yield "title"
    yield "trigger"
    if _HASH.fullmatch(wanted):
        yield "hash"


def hits_of(kind: Kind, wanted: str, timeout: float | None) -> Steps[list[Hit]]:
    """The files that have this name. The daemon finds those that contain it; they are compared here."""
    match kind:
        case "path":
            return _listed([f"path={_quoted(_ending(wanted))}"], lambda hit: _is_path(hit, wanted), timeout)
        case "name":
            found = [f"path~{_quoted(_ascii(f'/{wanted}/adapter_model.'))}"]
            found += [f"name~{_quoted(f'{wanted}{dot}'[:_NEEDLE])}" for dot in (".", "")[: 1 + ("." in wanted)]]
            return _listed(found, lambda hit: wanted.casefold() in _names(hit), timeout)
        case "title":
            found = [f"{field}~{_quoted(wanted[:_NEEDLE])}" for field in ("title", "output")]
            return _listed(found, lambda hit: wanted in (hit.facts.title, hit.facts.output), timeout)
        case "trigger":
            found = [f"trigger~{_quoted(wanted[:_NEEDLE])}"]
            return _listed(found, lambda hit: wanted in hit.facts.triggers, timeout)
    return _hashed(wanted, timeout)


def _ascii(text: str) -> str:
    """The longest part that is ASCII: SQLite knows no case of other characters."""
    parts: list[str] = _ASCII.findall(text)
    return max(parts, key=len)[-_NEEDLE:]


def _ending(path: str) -> str:
    """A glob for a path that ends so, or whose folder does."""
    return "*" + re.sub(r"([*?[])", r"[\1]", path[-_NEEDLE:]) + "*"


def _quoted(text: str) -> str:
    """A value in an expression, whatever quotes are in it."""
    return '"' + text.replace('"', '"\'"\'"') + '"'


def _is_path(hit: Hit, wanted: str) -> bool:
    known = {os.fsdecode(hit.path), hit.place}
    if wanted.startswith("/"):
        return wanted in known
    return any(path.endswith(f"/{wanted}") for path in known)


def _names(hit: Hit) -> set[str]:
    name = os.path.basename(hit.place)
    return {name.casefold()} if hit.folder else {name.casefold(), os.path.splitext(name)[0].casefold()}


def _listed(expressions: Sequence[str], means: Callable[[Hit], bool], timeout: float | None) -> Steps[list[Hit]]:
    found: dict[bytes, Hit] = {}
    for expression in expressions:
        following: control.Request | None = control.ListFiles(expression, most=control.MOST_LISTED)
        while following is not None:
            page = yield from ask(following, control.Files, timeout)
            for file in page.files:
                hit = Hit(file.path, file.size, file.mtime_ns, file.state, file.facts or Facts())
                if means(hit):
                    found[hit.path] = hit
            following = next_page(following, page)
    return _loaded(found.values())


def _hashed(prefix: str, timeout: float | None) -> Steps[list[Hit]]:
    """Files with a hash that begins so, of those that tell functions apart. Raises UsageError for very many."""
    paths: set[bytes] = set()
    for page in (yield from all_pages(control.Find(prefix), control.Found, timeout)):
        paths |= {match.path for match in page.matches if match.kind not in _SHARED_HASHES}
    if len(paths) > _MOST_HASHED:
        raise UsageError(f"{prefix}: {len(paths):,} files have a hash that begins so; give more digits")
    hits = []
    for path in sorted(paths):
        file = yield from ask(control.Show(path), control.Shown, timeout)
        hits.append(Hit(file.path, file.size, file.mtime_ns, file.status, file.facts or Facts()))
    return _loaded(hits)


def _loaded(hits: Iterable[Hit]) -> list[Hit]:
    """Without weight files of a folder that has another one which is loaded in their place."""
    return [hit for hit in hits if not hit.folder or weight_file(hit.folder) in (None, hit.path)]
