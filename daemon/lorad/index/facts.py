"""Which files have facts, and which are read anew for them: those that came before facts did, or another version.

Facts come with a file's header. They go by the `adapter_config.json` and the model card beside it as well, so they
are computed anew when those are other ones.
"""

from __future__ import annotations

from collections.abc import Callable

from blake3 import blake3

from loracore.adapter.card import has_card
from lorad.catalog import Catalog
from lorad.index.known_files import Files
from lorad.index.records import File
from lorad.library import Status
from lorad.pipeline.facts import is_installed

_DIGEST = 16


class FactsOfFiles:
    """`want_header(number)` has the header of a file read."""

    def __init__(self, catalog: Catalog, files: Files, want_header: Callable[[int], None]) -> None:
        self._lists = catalog.facts.lists
        self._files = files
        self._want_header = want_header
        #: Files that have facts, each with the digest of the configuration that they go by.
        self._known: dict[int, bytes | None] = dict(catalog.facts.known())
        #: The digest of the configuration that was last seen beside a weight file of PEFT's.
        self._beside: dict[int, bytes | None] = {}

    def want_missing(self) -> None:
        """Have the headers read of files that are known and have no facts."""
        told = (Status.GROUPED, Status.UNIQUE, Status.DUPLICATE)
        missing = [file for file in self._files if file.status in told and file.id not in self._known]
        if self._lists and missing and is_installed():
            for file in missing:
                # Where the function is not known either, its header is read for that.
                if file.function != b"":
                    self._want_header(file.id)

    def learnt(self, file: File, facts: bytes | None) -> None:
        """The header of a file was read, with these facts."""
        if facts is not None:
            config = self._known[file.id] = self._beside.get(file.id)
            self._files.store.described(file, facts, config)

    def configured(self, file: File, path: bytes, text: bytes | None) -> None:
        """This is stated beside a name; facts that go by something else are computed anew."""
        if path != file.path or not has_card(path):
            return
        digest = self._beside[file.id] = None if text is None else blake3(text).digest(_DIGEST)
        if self._known.get(file.id, digest) != digest:
            self._known[file.id] = digest
            self._want_header(file.id)

    def forget(self, file: int) -> None:
        self._known.pop(file, None)
        self._beside.pop(file, None)
