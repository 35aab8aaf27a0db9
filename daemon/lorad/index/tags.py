"""Which files are of the models that users have tagged, wherever those were moved.

A file is known to be a tagged model by the inode of before, which a rename leaves; by a twin that is one; or by
the digest of its data. That is computed in the background (`lorad.hashes`), for tagged files and for those that
come with the layout of a model that has no file in view.
"""

from __future__ import annotations

import os
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from loracore.causes import explained
from loracore.control import (
    MOST_TAGGED,
    AllTags,
    ListTags,
    Refusal,
    TagAnswer,
    TagFiles,
    TaggedFile,
    TaggedFiles,
    TagRequest,
)
from loracore.errors import UsageError
from loracore.paths import shown
from loracore.tags import Tags, check
from lorad.catalog import Catalog, Identified
from lorad.catalog.tags import DIGEST, FILE, UNSURE, Inode, Model, TagsDatabase
from lorad.index.known_files import Files
from lorad.index.records import File, is_adapter
from lorad.library import Status

#: Models of which something may be said, and digests that one may have.
MOST, _DIGESTS = 200_000, 16
_READ = (Status.GROUPED, Status.UNIQUE, Status.DUPLICATE)


class TagsOfFiles:
    """Without a state folder, nothing is known and nothing may be said."""

    def __init__(
        self, catalog: Catalog, files: Files, signature: Callable[[int], bytes], state_dir: str | None
    ) -> None:
        """`signature` gives that of a layout, by its number."""
        self._catalog = catalog
        self._files = files
        self._signature = signature
        self._models: dict[int, Model] = {}
        self._last = UNSURE
        #: Models that are known by something else than is written down.
        self._unsaved: set[Model] = set()
        self._by_inode: dict[Inode, Model] = {}
        self._by_digest: dict[tuple[bytes, bytes], Model] = {}
        self._by_layout: defaultdict[bytes, set[int]] = defaultdict(set)
        #: By the number of a file; None where it is to be hashed to see.
        self._of: dict[int, Model | None] = {}
        #: Those that are taken for a model by their inode alone, until they are hashed.
        self._guessed: set[int] = set()
        self._database: TagsDatabase | None = None
        #: Why nothing can be said, if so.
        self._trouble = "this daemon keeps no tags"
        if state_dir is not None:
            self._open(state_dir)
            self._find_files()

    @property
    def asked(self) -> int:
        """Another number whenever there are other files in the catalogue to be hashed for this; 0 for none."""
        return self._files.store.tags_saved if self._of else 0

    def answer(self, request: TagRequest) -> TagAnswer | Refusal:
        """Raises sqlite3.Error where it cannot be written down."""
        if self._database is None:
            return Refusal("failed", self._trouble)
        if isinstance(request, ListTags):
            return self._all()
        try:
            check(request.add, request.remove, request.note)
            return TaggedFiles(self._tag(request))
        except UsageError as error:
            return Refusal("malformed", str(error))

    def learnt(self, file: File) -> None:
        """The header of a file was read."""
        if not self._models or file.id in self._of or file.layout is None:
            return
        layout = self._signature(file.layout)
        model = self._by_inode.get(_inode(file))
        if model is not None and model.layout in (b"", layout):
            self._is(file, model)
            if model.digests:
                self._guessed.add(file.id)
        elif any(self._is_away(number) for number in self._by_layout.get(layout, ())):
            self._of[file.id] = None
            self._files.store.tagged(file, UNSURE, Tags())

    def met_twins(self, file: File) -> None:
        """A file has become a duplicate of others, of which something may have been said."""
        if not self._models:
            return
        twins = list(self._files.twins.of(file).values())
        certain = [twin.id for twin in twins if twin.id not in self._guessed]
        models = [model for number in certain if (model := self._of.get(number)) is not None]
        if models:
            model = self._merged(models)
            for twin in twins:
                self._is(twin, model)
                self._guessed.discard(twin.id)

    def inherits(self, before: int, file: File) -> None:
        """A file is what another one was that it has replaced."""
        if (model := self._of.get(before)) is not None:
            self._is(file, model)

    def identified(self, file: File, found: Identified) -> None:
        """A file was hashed: now it is certain what is said of it."""
        digest = found.model or found.sha256
        if file.id not in self._of or file.layout is None or digest is None:
            return
        layout = self._signature(file.layout)
        model, known = self._of[file.id], self._by_digest.get((layout, digest))
        if known is not None and model is not None and model is not known and self._may_be(file, model, digest):
            known = self._merged([known, model])
        if known is not None:
            self._is(file, known)
        elif model is not None and self._may_be(file, model, digest):
            self._change(model, layout=layout, digests=model.digests + digest)
        else:
            self._is_none(file)
        self._guessed.discard(file.id)

    def forget(self, number: int) -> None:
        """A file is not there any more, at least as it was. What is said of it is kept."""
        self._guessed.discard(number)
        model = self._of.pop(number, None)
        if model is None:
            return
        model.files.discard(number)
        if not model.files:
            self._change(model, inode=_inode(self._files.by_id[number]))

    def save(self) -> None:
        """Write down by what models are known. Raises sqlite3.Error."""
        if self._unsaved and self._database is not None:
            self._database.save(self._unsaved)
            self._unsaved.clear()

    def close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _open(self, state_dir: str) -> None:
        try:
            self._database = TagsDatabase(state_dir)
            for model in self._database.models():
                self._add(model)
        except sqlite3.Error as error:
            self.close()
            self._models.clear()
            path = os.path.join(state_dir, FILE)
            self._trouble = f"{shown(path)}: {explained(error, path)}; mend it, or move it away to start afresh"

    def _find_files(self) -> None:
        """Take up which files are of which model, as it was when the catalogue was written."""
        for number, at, is_hashed in self._catalog.tags.known():
            file, model = self._files.by_id.get(number), self._models.get(at)
            if file is None:
                continue
            if model is not None or at == UNSURE:
                self._of[number] = model
                if model is not None:
                    model.files.add(number)
                    if model.digests and not is_hashed:
                        self._guessed.add(number)
            elif self._database is not None:
                self._files.store.tagged(file, None, Tags())
        if any(not model.files for model in self._models.values()):
            # It was written down, and lorad killed before the catalogue was.
            for file in self._files:
                if file.status in _READ:
                    self.learnt(file)

    def _tag(self, request: TagFiles) -> list[TaggedFile]:
        if len(request.paths) > MOST_TAGGED:
            raise UsageError(f"{len(request.paths):,} files are more than {MOST_TAGGED:,} in one request")
        meant = {path: self._file_at(path) for path in request.paths}
        changes = {}
        for file in meant.values():
            if isinstance(file, File):
                before = self._said(file)
                said = before.changed(request.add, request.remove, request.note)
                if said != before:
                    changes[file] = said
        if len(self._models) + len(changes) > MOST:
            raise UsageError(f"{MOST:,} models may be tagged; take tags away first")
        changed = []
        for file, said in changes.items():
            model = self._of.get(file.id) or self._begin(file)
            model.said = said
            changed.append(model)
        self._keep(changed)
        return [
            TaggedFile(path, refused=file) if isinstance(file, str) else _told(path, self._said(file))
            for path, file in ((path, meant[path]) for path in request.paths)
        ]

    def _said(self, file: File) -> Tags:
        model = self._of.get(file.id)
        return model.said if model is not None else Tags()

    def _file_at(self, path: bytes) -> File | str:
        """The file that is meant, or why there is none."""
        files = self._files
        adapters = (name for name in files.folders.names_under(path) if is_adapter(name))
        inside = next((name for name in adapters if os.path.dirname(name) == path), path)
        file = files.by_path.get(inside)
        if file is None or file.status is Status.IGNORED:
            return "it is in no watched folder, or not seen yet"
        return file if file.status in _READ else file.error or "it is not read yet; try again in a moment"

    def _begin(self, file: File) -> Model:
        """A model of which nothing was said, with all files that hold its weights."""
        assert file.layout is not None
        layout = self._signature(file.layout)
        hashes = self._catalog.hashes.of(file.id)
        self._last += 1
        model = Model(self._last, Tags(), layout, hashes.model or hashes.sha256 or b"", _inode(file))
        self._add(model)
        for twin in self._files.twins.of(file).values() or [file]:
            self._is(twin, model)
        self._is(file, model)
        return model

    def _keep(self, models: Sequence[Model]) -> None:
        """Write models down, and what is said of them beside their files. Nothing is said where that fails."""
        assert self._database is not None
        self._database.save(models)
        for model in models:
            files = [self._files.by_id[number] for number in model.files]
            if not model.said:
                self._remove(model)
            for file in files:
                if model.said:
                    self._files.store.tagged(file, model.id, model.said)
                else:
                    self._is_none(file)

    def _is_away(self, number: int) -> bool:
        """Whether no file of a model is in view, and it is known by its data."""
        return not self._models[number].files and bool(self._models[number].digests)

    def _may_be(self, file: File, model: Model, digest: bytes) -> bool:
        """Whether a file that was taken for a model is one, as its data have this digest.

        Its weights may lie there in other bytes, where another file that holds them is one as well.
        """
        if not model.digests or digest in model.each_digest:
            return True
        twins = self._files.twins.of(file).keys() & model.files
        return bool(twins - {file.id} - self._guessed) and len(model.digests) < DIGEST * _DIGESTS

    def _is(self, file: File, model: Model) -> None:
        if (before := self._of.get(file.id)) is not model:
            if before is not None:
                before.files.discard(file.id)
            self._of[file.id] = model
            model.files.add(file.id)
        if model.said:
            self._files.store.tagged(file, model.id, model.said)

    def _is_none(self, file: File) -> None:
        model = self._of.pop(file.id, None)
        if model is not None:
            model.files.discard(file.id)
        self._files.store.tagged(file, None, Tags())

    def _merged(self, models: Sequence[Model]) -> Model:
        """One of these, with all that is said of them: they have turned out to be the same."""
        first, *others = sorted(set(models), key=lambda model: model.id)
        for other in others:
            first.said = first.said.joined(other.said)
            self._remove(other)
            new = [digest for digest in other.each_digest if digest not in first.each_digest]
            self._change(first, digests=(first.digests + b"".join(new))[: DIGEST * _DIGESTS])
            for number in list(other.files):
                self._is(self._files.by_id[number], first)
            other.said = Tags()
        if others:
            self._keep([first, *others])
        return first

    def _change(
        self,
        model: Model,
        *,
        layout: bytes | None = None,
        digests: bytes | None = None,
        inode: Inode | None = None,
    ) -> None:
        """Keep by what a model is known again."""
        before = model.layout, model.digests, model.inode
        now = (
            model.layout if layout is None else layout,
            model.digests if digests is None else digests,
            inode or model.inode,
        )
        if now == before:
            return
        self._remove(model)
        model.layout, model.digests, model.inode = now
        self._add(model)
        self._unsaved.add(model)

    def _add(self, model: Model) -> None:
        self._models[model.id] = model
        self._last = max(self._last, model.id)
        self._by_inode[model.inode] = model
        self._by_layout[model.layout].add(model.id)
        for digest in model.each_digest:
            self._by_digest[model.layout, digest] = model

    def _remove(self, model: Model) -> None:
        self._models.pop(model.id, None)
        self._by_layout[model.layout].discard(model.id)
        if self._by_inode.get(model.inode) is model:
            del self._by_inode[model.inode]
        for digest in model.each_digest:
            if self._by_digest.get((model.layout, digest)) is model:
                del self._by_digest[model.layout, digest]

    def _all(self) -> AllTags:
        counts = Counter(tag for model in self._models.values() for tag in model.said.tags)
        return AllTags(dict(sorted(counts.items())), sum(not model.files for model in self._models.values()))


def _told(path: bytes, said: Tags) -> TaggedFile:
    return TaggedFile(path, said.tags, said.note)


def _inode(file: File) -> Inode:
    return Inode(*file.identity.stored()[1:4])
