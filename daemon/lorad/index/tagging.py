"""What clients ask about tags and notes: they give them, take them away, and ask what there is."""

from __future__ import annotations

import os
import sqlite3

from loracore.control import (
    MOST_TAGGED,
    ListTags,
    Refusal,
    TagAnswer,
    TagFiles,
    TaggedFile,
    TaggedFiles,
    TagRequest,
)
from loracore.errors import UsageError
from loracore.tags import Tags, check
from lorad.index.known_files import Files
from lorad.index.records import ADAPTERS, File
from lorad.index.tagged_models import MOST
from lorad.index.tags import READ, TagsOfFiles
from lorad.library import Status


def answer(request: TagRequest, tags: TagsOfFiles, files: Files) -> TagAnswer | Refusal:
    """Nothing is said where that cannot be written down."""
    if tags.models.trouble:
        return Refusal("failed", tags.models.trouble)
    if isinstance(request, ListTags):
        return tags.models.all_tags()
    try:
        check(request.add, request.remove, request.note)
        return TaggedFiles(_tag(request, tags, files))
    except UsageError as error:
        return Refusal("malformed", str(error))
    except sqlite3.Error as error:
        return Refusal("failed", f"nothing was kept: {tags.models.explained(error)}")


def _tag(request: TagFiles, tags: TagsOfFiles, files: Files) -> list[TaggedFile]:
    if len(request.paths) > MOST_TAGGED:
        raise UsageError(f"{len(request.paths):,} files are more than {MOST_TAGGED:,} in one request")
    meant = [_file_at(path, files) for path in request.paths]
    changes = {}
    for file in meant:
        if isinstance(file, File):
            before = _said(tags, file)
            said = before.changed(request.add, request.remove, request.note)
            if said != before:
                changes[file] = said
    if len(tags.models.by_id) + len(changes) > MOST:
        raise UsageError(f"{MOST:,} models may be tagged; take tags away first")
    tags.keep({tags.of(file) or tags.begin(file): said for file, said in changes.items()})
    return [
        TaggedFile(path, refused=file)
        if isinstance(file, str)
        else TaggedFile(path, _said(tags, file).tags, _said(tags, file).note)
        for path, file in zip(request.paths, meant, strict=True)
    ]


def _said(tags: TagsOfFiles, file: File) -> Tags:
    model = tags.of(file)
    return model.said if model is not None else Tags()


def _file_at(path: bytes, files: Files) -> File | str:
    """The file that is meant, which in an adapter's folder is that of its weights, or why there is none."""
    inside = (os.path.join(path, name) for name in ADAPTERS)
    file = next(filter(None, map(files.by_path.get, (path, *inside))), None)
    if file is None:
        return "it is in no watched folder, not seen yet, or put aside"
    if file.status is Status.IGNORED:
        return file.error or "it is no model file"
    return file if file.status in READ else file.error or "it is not read yet; try again in a moment"
