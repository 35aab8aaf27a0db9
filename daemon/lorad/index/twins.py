"""Which files in view hold the same weights, and which files may still hold the weights that they held before."""

from __future__ import annotations

from collections.abc import Callable

from lorad.index.held import Weights
from lorad.index.records import File, Store


class Twins:
    """By the layout and the weights of files, and by what is still to be read anew."""

    def __init__(self, store: Store, signature_of_layout: Callable[[int], bytes]) -> None:
        self._store = store
        self._signature_of_layout = signature_of_layout
        #: Files in view of the same weights, by layout and weights, then by number.
        self.by_weights: dict[tuple[int, bytes], dict[int, File]] = {}
        #: Files in `by_weights` that are new there, or have got company or lost the last, until they are shown as
        #: what they are now.
        self.companions: list[File] = []
        #: Numbers of files that may hold these weights still, as their inode or name did; see `File.was`.
        self.unread: dict[Weights, set[int]] = {}
        #: Weights of which a name was lost, gained or changed since they were taken: by the number of the layout,
        #: and by its signature.
        self._moved: set[tuple[int, bytes]] = set()
        self._stirred: set[Weights] = set()

    def load(self, file: File) -> None:
        """Take up a file as it was left."""
        if file.names and (key := file.twin_key) is not None:
            self.by_weights.setdefault(key, {})[file.id] = file
        if file.was is not None:
            self.unread.setdefault(file.was, set()).add(file.id)

    def told_apart(self, file: File, weights: bytes | None = None) -> None:
        """It is known what a file is, as it never was or as it is again. `weights`: of all its layers."""
        self.may_be(file, None)
        if file.fresh:
            file.fresh = 2
        if weights is not None and file.weights is None:
            file.weights = weights
            self.join(file)

    def lost_hold(self, file: File) -> None:
        """A file that was told apart cannot be read any more."""
        if file.weights is not None:
            self.part(file)
            self.may_be(file, self.weights_of(file))
            file.weights = None

    def weights_of(self, file: File) -> Weights | None:
        """The weights of a file, or those that it may have as it had them."""
        if (key := file.twin_key) is None:
            return file.was
        return Weights(self._signature_of_layout(key[0]), key[1])

    def may_be(self, file: File, was: Weights | None) -> None:
        """Say what a file may still be, as its inode or its name was it."""
        if file.was == was:
            return
        self.forget(file)
        if was is not None:
            self._stirred.add(was)
            self.unread.setdefault(was, set()).add(file.id)
        file.was = was
        self._store.changed(file)

    def forget(self, file: File) -> None:
        """It is not asked any more what a file may still be."""
        if file.was is None:
            return
        self._stirred.add(file.was)
        numbers = self.unread[file.was]
        numbers.discard(file.id)
        if not numbers:
            del self.unread[file.was]

    def join(self, file: File) -> None:
        """A file whose weights are known is in view, or its weights are known now."""
        if (key := file.twin_key) is not None and file.names:
            twins = self.by_weights.setdefault(key, {})
            twins[file.id] = file
            self._moved.add(key)
            if len(twins) == 2:
                # The one that was met first is the first, whichever was told apart before the other.
                self.by_weights[key] = twins = dict(sorted(twins.items()))
            self.companions += twins.values() if len(twins) == 2 else [file]

    def part(self, file: File) -> None:
        """A file is not in view any more, or nothing certain is known of it."""
        twins = self.of(file)
        if twins.pop(file.id, None) is None:
            return
        assert file.twin_key is not None
        self._moved.add(file.twin_key)
        if len(twins) == 1:
            self.companions += twins.values()
        elif not twins:
            del self.by_weights[file.twin_key]

    def of(self, file: File) -> dict[int, File]:
        """All files in view of the same weights, by number; none where they are not known."""
        return self.by_weights.get(file.twin_key, {}) if file.twin_key is not None else {}

    def stir(self, file: File) -> None:
        """A name of the file was gained, lost or changed."""
        if (key := file.twin_key) is not None:
            self._moved.add(key)

    def take_moved(self, signature: Callable[[int], bytes]) -> set[Weights]:
        """Weights of which a name was lost, gained or changed since the last time."""
        moved = {Weights(signature(layout), digests) for layout, digests in self._moved} | self._stirred
        self._moved, self._stirred = set(), set()
        return moved
