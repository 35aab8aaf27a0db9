"""Which files hold given weights, and how certain that is; which of them are new. What de-duplication asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from lorad.catalog import Catalog
from lorad.index.away import Away
from lorad.index.held import Weights
from lorad.index.known_files import Files
from lorad.index.records import File
from lorad.index.sweeps import Sweeps
from lorad.library import Status
from lorad.pipeline.protocol import Identity

_UNTOLD = (Status.PENDING, Status.GROUPED)


class Keeper(NamedTuple):
    """A name in view that leads to given weights, and what its header and the configuration beside it say."""

    path: bytes
    identity: Identity
    function: bytes | None
    config: bytes | None


class Holders:
    """For the one thread that has the catalogue. Weights are named as in `Weights`."""

    def __init__(
        self,
        catalog: Catalog,
        files: Files,
        away: Away,
        sweeps: Sweeps,
        signature_of_layout: Callable[[int], bytes],
    ) -> None:
        self._catalog = catalog
        self._files = files
        self._away = away
        self._sweeps = sweeps
        self._signature_of_layout = signature_of_layout
        self._dirty: set[Weights] = set()

    def is_newcomer(self, path: bytes) -> bool:
        """Whether the file of this name is a duplicate that is new (SPEC section 5).

        It was met as new, and neither its names nor its inode led to these weights before. That never changes for
        a file and its name. While folders are looked through, it may not be known yet: ask when that is done.
        """
        file = self._files.by_path.get(path)
        if file is None or not file.fresh or file.status is not Status.DUPLICATE or file.twin_key is None:
            return False
        layout, digests = file.twin_key
        weights = Weights(self._signature_of_layout(layout), digests)
        return not self._files.held.knows(file.names, file.identity, file.born, weights)

    def keepers(self, layout: bytes, weights: bytes) -> list[Keeper]:
        """Names in view that lead to these weights, as far as it is known; hidden files are none."""
        number = self._catalog.layouts.number(layout)
        twins = self._files.twins.by_weights.get((number, weights), {}) if number is not None else {}
        return [
            Keeper(name, file.identity, file.function, self._files.configs.get(name))
            for file in twins.values()
            for name in file.names
        ]

    def weights_hidden_at(self, hidden_path: bytes, *, unit: bool) -> set[Weights]:
        """The weights of a hidden file, or of all in a hidden folder; none as long as one is not told apart."""
        files = self._hidden_at(hidden_path, unit)
        if any(file.status in _UNTOLD and self._files.twins.weights_of(file) is None for file in files):
            return set()
        return {weights for file in files if (weights := self._files.twins.weights_of(file)) is not None}

    def is_hidden_alone(self, hidden_path: bytes, *, unit: bool) -> bool:
        """Whether a hidden file, or one in a hidden folder, is like no other: its weights are not known."""
        files = self._hidden_at(hidden_path, unit)
        return any(file.status is Status.UNIQUE and file.weights is None for file in files)

    def _hidden_at(self, path: bytes, unit: bool) -> list[File]:
        if not unit:
            return [self._files.hidden[path]] if path in self._files.hidden else []
        return [file for name, file in self._files.hidden.items() if name.startswith(path + b"/")]

    def unresolved(self, layout: bytes, weights: bytes, paths: Iterable[bytes]) -> str:
        """Why it is not certain that `keepers` are all; empty where it is.

        `away`: a name that led to them, such as one of `paths`, is out of view (excluded, or its root taken out),
        cannot be read or looked at, or lies on what is not there. `reading`: a file that was of these weights is
        read anew. `settling`: something else is looked through or read that may be of these weights. Of names that
        wait for a quiet moment to be looked at, the caller knows.
        """
        number = self._catalog.layouts.number(layout)
        numbers = self._files.twins.unread.get(Weights(layout, weights), ())
        unread = [file for each in numbers if (file := self._files.by_id[each]).names]
        if any(file.status is Status.FAILED and not file.read_ns for file in unread):
            return "away"
        sleeping = self._catalog.names.sleeping(layout, weights)
        lost = {path: sleeping.get(path) for path in (*sleeping, *paths) if path not in self._files.by_path}
        if any(self._away.is_away(path, device) for path, device in lost.items()):
            return "away"
        if any(file.status in _UNTOLD and file.layout in (None, number) for file in unread):
            return "reading"
        if self._sweeps.active or self._files.tally.untold[None] or self._files.tally.untold[number]:
            return "settling"
        return ""

    def dirty_weights(self) -> set[tuple[bytes, bytes]]:
        """Weights of which a name was lost, gained or changed since this was asked the last time."""
        self.note_dirty()
        dirty: set[tuple[bytes, bytes]] = set(self._dirty)
        self._dirty.clear()
        return dirty

    def note_dirty(self) -> None:
        """Keep what `dirty_weights` will say, before numbers of layouts get another meaning."""
        self._dirty |= self._files.twins.take_moved(self._signature_of_layout)
