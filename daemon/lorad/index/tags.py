"""Which files are of the models that users have tagged, wherever those were moved.

A file is known to be a tagged model by the inode of before, which a rename leaves; by a twin that is one; or by
the digest of its data. That is computed in the background (`lorad.hashes`), for tagged files and for those that
come with the layout of a model that has no file in view.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from loracore.tags import Tags
from lorad.catalog import Catalog, Identified
from lorad.catalog.tags import UNSURE, Inode, Model, said_of
from lorad.index.known_files import Files
from lorad.index.records import File
from lorad.index.tagged_models import TaggedModels
from lorad.library import Status

READ = (Status.GROUPED, Status.UNIQUE, Status.DUPLICATE)


class TagsOfFiles:
    """`signature` gives that of a layout, by its number; for `state_dir` see `TaggedModels`."""

    def __init__(
        self, catalog: Catalog, files: Files, signature: Callable[[int], bytes], state_dir: str | None
    ) -> None:
        self._catalog = catalog
        self._files = files
        self._signature = signature
        self.models = TaggedModels(state_dir)
        #: By the number of a file; None where it is to be hashed to see.
        self._of: dict[int, Model | None] = {}
        #: Those that are taken for a model by their inode alone, until they are hashed.
        self._guessed: set[int] = set()
        if not self.models.trouble:
            self._find_files()

    @property
    def asked(self) -> int:
        """Another number whenever there are other files in the catalogue to be hashed for this; 0 for none."""
        return self._files.store.tags_saved if self._of else 0

    def of(self, file: File) -> Model | None:
        return self._of.get(file.id)

    def learnt(self, file: File) -> None:
        """The header of a file was read."""
        if not self.models.by_id or file.id in self._of or file.layout is None:
            return
        layout = self._signature(file.layout)
        model = self.models.at_inode(_inode(file))
        if model is not None and model.layout != layout:
            model = None
        if model is None and not self.models.may_come(layout):
            return
        if (digest := self._digest(file)) is not None:
            if model is None or model.digests:
                model = self.models.with_digest(layout, digest)
            else:
                self.models.change(model, digests=digest)
            if model is not None:
                self._is(file, model)
        elif model is not None:
            self._is(file, model)
            if model.digests:
                self._guessed.add(file.id)
        else:
            self._of[file.id] = None
            self._files.store.tagged(file, UNSURE, Tags())

    def met_twins(self, file: File) -> None:
        """A file has become a duplicate of others, of which something may have been said."""
        if not self.models.by_id:
            return
        twins = list(self._files.twins.of(file).values())
        certain = [twin.id for twin in twins if twin.id not in self._guessed]
        models = [model for number in certain if (model := self._of.get(number)) is not None]
        if models:
            model = self._merged(models)
            for twin in twins:
                self._is(twin, model)
                self._guessed.discard(twin.id)

    def inherits(self, model: Model | None, file: File) -> None:
        """A file is what another one was that it has replaced: this model, if any."""
        if model is not None and self.models.by_id.get(model.id) is model:
            self._is(file, model)
        else:
            self.learnt(file)

    def identified(self, file: File, found: Identified) -> None:
        """A file was hashed: now it is certain what is said of it."""
        digest = found.model or found.sha256
        if file.id not in self._of or file.layout is None or digest is None:
            return
        layout = self._signature(file.layout)
        model, known = self._of[file.id], self.models.with_digest(layout, digest)
        if model is not None and not self._may_be(file, model, digest):
            model = None
        if known is not None:
            self._is(file, self._merged([known, model] if model is not None else [known]))
        elif model is not None:
            self.models.change(model, layout=layout, digests=model.digests + digest)
        else:
            self._is_none(file)
        self._guessed.discard(file.id)

    def forget(self, number: int) -> None:
        """A file is not there any more, at least as it was. What is said of it is kept."""
        self._guessed.discard(number)
        model = self._of.pop(number, None)
        if model is not None:
            model.files.discard(number)
            if not model.files and (inode := _inode(self._files.by_id[number])) != model.inode:
                self.models.change(model, inode=inode)

    def begin(self, file: File) -> Model:
        """A model of which nothing is said yet, of all files that hold its weights."""
        assert file.layout is not None
        model = self.models.begin(self._signature(file.layout), self._digest(file) or b"", _inode(file))
        for twin in self._files.twins.of(file).values() or [file]:
            self._is(twin, model)
        return model

    def keep(self, said: Mapping[Model, Tags]) -> None:
        """Write down what is said of models, and beside their files. Raises sqlite3.Error: nothing is kept."""
        try:
            self.models.write(said)
        finally:
            for model in said:
                for number in list(model.files):
                    file = self._files.by_id[number]
                    if model.said:
                        self._is(file, model)
                    else:
                        self._is_none(file)

    def _find_files(self) -> None:
        """Take up which files are of which model, as it was when the catalogue was written.

        Either database may have been put back since from a backup, or not be written where the other one was.
        """
        is_new = False
        for number, at, encoded, is_hashed in self._catalog.tags.known():
            file, model = self._files.by_id.get(number), self.models.by_id.get(at)
            if file is None:
                continue
            if model is None and at != UNSURE:
                self._files.store.tagged(file, None, Tags())
                is_new = True
                continue
            self._of[number] = model
            if model is not None:
                model.files.add(number)
                if model.digests and not is_hashed:
                    self._guessed.add(number)
                elif is_hashed and not model.digests and (digest := self._digest(file)):
                    # The catalogue was written, and lorad killed before its digest was.
                    self.models.change(model, digests=digest)
                if said_of(encoded) != model.said:
                    self._files.store.tagged(file, model.id, model.said)
        if is_new or any(not model.files for model in self.models.by_id.values()):
            for file in self._files:
                if file.status in READ:
                    self.learnt(file)

    def _digest(self, file: File) -> bytes | None:
        hashes = self._catalog.hashes.of(file.id)
        return hashes.model or hashes.sha256

    def _may_be(self, file: File, model: Model, digest: bytes) -> bool:
        """Whether a file that was taken for a model is one, as its data have this digest.

        Its weights may lie there in other bytes, where another file that holds them is one as well.
        """
        twins = self._files.twins.of(file).keys() & model.files
        return not model.digests or digest in model.each_digest or bool(twins - {file.id} - self._guessed)

    def _is(self, file: File, model: Model) -> None:
        before = self._of.get(file.id)
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
        first, *others = sorted(set(models), key=lambda model: (-len(model.files), model.id))
        said = {first: first.said}
        for other in others:
            said[first] = said[first].joined(other.said)
            said[other] = Tags()
            new = [digest for digest in other.each_digest if digest not in first.each_digest]
            self.models.change(first, digests=first.digests + b"".join(new))
            for number in list(other.files):
                self._is(self._files.by_id[number], first)
        if others:
            self.models.say(said)
            for number in list(first.files):
                self._is(self._files.by_id[number], first)
        return first


def _inode(file: File) -> Inode:
    return Inode(*file.identity.stored()[1:4])
