"""Taking edits back: the old header before the data that the file has now."""

from __future__ import annotations

import os
from collections.abc import Callable

import msgspec

from loracore.causes import explained
from loracore.errors import FileError, StateError, UsageError
from loracore.jobs.edit import EditParameters, FileEdit, State
from loracore.jobs.job import Context
from loracore.paths import shown
from lorakit.jobs.edit.batch import Batches
from lorakit.jobs.edit.entries import listed
from lorakit.jobs.edit.header import metadata_of, read_header
from lorakit.jobs.edit.journal import Journal, Row, digest
from lorakit.jobs.edit.planning import opened
from lorakit.jobs.edit.writing import Order, Written


def undo(parameters: EditParameters, journal: Journal, context: Context) -> tuple[FileEdit, ...]:
    """Take the edits back, the newest first, of these files alone where any are named.

    Raises UsageError for an edit that is not in the journal, or has none of these files.
    """
    edits = sorted(set(parameters.undo), reverse=True)
    rows = [each for edit in edits for each in journal.to_undo(edit)]
    if parameters.paths:
        named = {os.path.realpath(path) for path in parameters.paths}
        if missing := named - {path for _, path in rows}:
            raise UsageError(f"{shown(min(missing))}: it is no file of edit {', '.join(map(str, edits))}")
        rows = [(number, path) for number, path in rows if path in named]
    taking = _Taking(journal, context, len(rows), break_links=parameters.break_links, touched=parameters.touch)
    for number, path in rows:
        taking.add(number, path)
    taking.end()
    return tuple(taking.files)


class _Taking:
    def __init__(
        self, journal: Journal, context: Context, total: int, *, break_links: bool, touched: bool
    ) -> None:
        self.files: list[FileEdit] = []
        self._journal = journal
        self._context = context
        self._break_links = break_links
        self._touched = touched
        self._total = total
        self._batches = Batches(journal, context.edited)
        #: Files that were taken back already by an edit after this one.
        self._seen: set[bytes] = set()

    def add(self, number: int, path: bytes) -> None:
        place = len(self.files)
        if path in self._seen:
            # The header that this edit wrote comes back with what waits.
            self._batches.flush()
        self._seen.add(path)
        told = self._teller(place, path)
        told(0)
        file, order = _planned(self._journal.row(number), break_links=self._break_links, touched=self._touched)
        self.files.append(file)
        if order is not None:
            self._batches.add(order, lambda what: self._hear(place, what), told, undoes=number)

    def end(self) -> None:
        self._batches.end()

    def _hear(self, place: int, what: Written | str) -> None:
        self.files[place] = became(self.files[place], what, "undone")

    def _teller(self, place: int, path: bytes) -> Callable[[int], object]:
        name = shown(os.path.basename(path))
        return lambda _: self._context.progress(place, self._total, name)


def became(file: FileEdit, what: Written | str, state: State) -> FileEdit:
    """A planned file after it was written, or why it was not."""
    if isinstance(what, str):
        return msgspec.structs.replace(file, state="refused", reason=what)
    return msgspec.structs.replace(file, state=state, shared=what.shared, copied=what.copied)


def _planned(row: Row, *, break_links: bool, touched: bool) -> tuple[FileEdit, Order | None]:
    if row.state == "undone":
        return FileEdit(row.path, "unchanged", reason="it was undone already"), None
    try:
        return _order(row, break_links=break_links, touched=touched)
    except FileError as error:
        return FileEdit(row.path, "refused", reason=error.reason), None
    except StateError as error:
        return FileEdit(row.path, "refused", reason=str(error)), None
    except OSError as error:
        return FileEdit(row.path, "refused", reason=f"it cannot be read: {explained(error)}"), None


def _order(row: Row, *, break_links: bool, touched: bool) -> tuple[FileEdit, Order | None]:
    """Raises FileError where what is there is not what the edit wrote."""
    if not os.path.lexists(row.path):
        raise FileError("it is not there any more; put it back at this name, and undo again")
    old = row.old_header
    with opened(row.path, break_links=break_links) as (source, identity):
        header = read_header(source)
        if digest(header.raw) != row.new or identity.size != row.new_size:
            raise FileError("its header was changed since; undo later edits first, or set its entries anew")
        kept = row.new_mtime_ns is None or identity.mtime_ns == row.new_mtime_ns
        if not kept and not touched:
            # Files whose headers were stripped may have the same one.
            raise FileError(
                "its time is another than after the edit, so it may be another file of the same header; "
                "--touch undoes it all the same"
            )
        before = metadata_of(old)
        changes, entries = listed(header.metadata, before)
    mtime_ns = row.old_mtime_ns if kept else identity.mtime_ns
    file = FileEdit(row.path, "planned", changes, entries)
    return file, Order(row.path, identity, header, old, before, mtime_ns)
