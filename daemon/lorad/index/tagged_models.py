"""The models of which users say something, by all that they are known by: inode, digest of the data, layout."""

from __future__ import annotations

import logging
import os
import secrets
import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Mapping

from loracore.causes import explained
from loracore.control import AllTags
from loracore.paths import shown
from loracore.tags import Tags
from lorad.catalog.tags import DIGEST, FILE, UNSURE, Inode, Model, TagsDatabase

_LOG = logging.getLogger(__name__)

#: Models of which something may be said, and digests that one may have.
MOST, _DIGESTS = 200_000, 16
#: Seconds until what could not be written down is tried again.
_AGAIN = 30.0


class TaggedModels:
    """Without a state folder, and where its database is damaged, there are none, and there is `trouble`."""

    def __init__(self, state_dir: str | None) -> None:
        self.by_id: dict[int, Model] = {}
        self._by_inode: dict[Inode, Model] = {}
        self._by_digest: dict[tuple[bytes, bytes], Model] = {}
        self._by_layout: defaultdict[bytes, set[Model]] = defaultdict(set)
        #: Models that are known by something else than is written down.
        self._unsaved: set[Model] = set()
        self._database: TagsDatabase | None = None
        self._path, self._again_at = "", 0.0
        #: Why nothing can be said, if so.
        self.trouble = "this daemon keeps no tags"
        if state_dir is not None:
            self._open(state_dir)

    def at_inode(self, inode: Inode) -> Model | None:
        return self._by_inode.get(inode)

    def say(self, said: Mapping[Model, Tags]) -> None:
        """The same as `write`, written down with the next `save`."""
        for model, tags in said.items():
            model.said = tags
            if not tags:
                self.remove(model)
        self._unsaved.update(said)

    def with_digest(self, layout: bytes, digest: bytes) -> Model | None:
        return self._by_digest.get((layout, digest))

    def may_come(self, layout: bytes) -> bool:
        """Whether some model of this layout has no file in view, and is known by its data."""
        return any(model.digests and not model.files for model in self._by_layout.get(layout, ()))

    def begin(self, layout: bytes, digest: bytes, inode: Inode) -> Model:
        """A model of which nothing is said yet. No other database, and no older one, has its number."""
        model = Model(secrets.randbits(62) + UNSURE + 1, Tags(), layout, digest, inode)
        self._add(model)
        return model

    def write(self, said: Mapping[Model, Tags]) -> None:
        """Write down, at once, what is said of these. Raises sqlite3.Error where all is as before."""
        assert self._database is not None
        before = {model: model.said for model in said}
        try:
            for model, tags in said.items():
                model.said = tags
            self._database.save(said)
        except sqlite3.Error:
            for model, tags in before.items():
                model.said = tags
            raise
        finally:
            for model in said:
                if not model.said:
                    self.remove(model)

    def change(
        self,
        model: Model,
        *,
        layout: bytes | None = None,
        digests: bytes | None = None,
        inode: Inode | None = None,
    ) -> None:
        """Keep by what a model is known."""
        self.remove(model)
        model.layout = model.layout if layout is None else layout
        model.digests = (model.digests if digests is None else digests)[: DIGEST * _DIGESTS]
        model.inode = inode or model.inode
        self._add(model)
        self._unsaved.add(model)

    def remove(self, model: Model) -> None:
        self.by_id.pop(model.id, None)
        self._by_layout[model.layout].discard(model)
        self._unsaved.discard(model)
        if self._by_inode.get(model.inode) is model:
            del self._by_inode[model.inode]
        for digest in model.each_digest:
            if self._by_digest.get((model.layout, digest)) is model:
                del self._by_digest[model.layout, digest]

    def save(self) -> None:
        """Write down by what models are known; where that is not to be now, in a while."""
        if not self._unsaved or self._database is None or time.monotonic() < self._again_at:
            return
        try:
            self._database.save(self._unsaved)
        except sqlite3.Error as error:
            _LOG.warning("%s; tried again in %.0f s", self.explained(error), _AGAIN)
            self._again_at = time.monotonic() + _AGAIN
            return
        self._unsaved.clear()

    def all_tags(self) -> AllTags:
        counts = Counter(tag for model in self.by_id.values() for tag in model.said.tags)
        return AllTags(dict(sorted(counts.items())), sum(not model.files for model in self.by_id.values()))

    def explained(self, error: sqlite3.Error) -> str:
        """What is wrong with the database, and the remedy."""
        return f"{shown(self._path)}: {explained(error, self._path)}"

    def close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _open(self, state_dir: str) -> None:
        self._path = os.path.join(state_dir, FILE)
        try:
            self._database = TagsDatabase(state_dir)
            for model in self._database.models():
                self._add(model)
            self.trouble = ""
        except sqlite3.Error as error:
            self.close()
            self.by_id.clear()
            self.trouble = f"no tags are kept: {self.explained(error)}"
            _LOG.error("%s", self.trouble)

    def _add(self, model: Model) -> None:
        self.by_id[model.id] = model
        self._by_inode[model.inode] = model
        self._by_layout[model.layout].add(model)
        for digest in model.each_digest:
            self._by_digest[model.layout, digest] = model
