"""The job `edit`: plans what the headers of files become, writes them, and takes edits back (SPEC section 7)."""

from __future__ import annotations

import os
from collections.abc import Callable

from loracore.errors import UsageError
from loracore.jobs.edit import SPEC, DoneEdit, DoneState, EditParameters, EditResult, FileEdit
from loracore.jobs.job import Context
from loracore.paths import shown
from lorakit.jobs.edit import journal as journals
from lorakit.jobs.edit.batch import Batches
from lorakit.jobs.edit.entries import check_parameters
from lorakit.jobs.edit.planning import plan
from lorakit.jobs.edit.settling import settle_all
from lorakit.jobs.edit.undo import became, undo
from lorakit.jobs.edit.writing import Order, Written

_PAST: dict[str, DoneState] = {"done": "done", "undone": "undone", "begun": "interrupted"}


def run(parameters: EditParameters, context: Context) -> EditResult:
    """Plan, apply, undo or list, as the parameters say. What cannot be done to a file is said of that file.

    Raises UsageError for parameters that cannot be meant, StateError where the journal cannot be kept.
    """
    if parameters.history:
        rows = (DoneEdit(edit, time, path, _PAST[state]) for edit, time, path, state in journals.listed())
        return EditResult(None, history=tuple(rows))
    if not parameters.undo:
        check_parameters(parameters)
        if not parameters.paths:
            raise UsageError("name a file to be edited")
        if not parameters.apply:
            return EditResult(None, _Editing(parameters, context).plan())
    context.progress(0, 0, "waiting for another edit to end")
    with journals.writing() as journal:
        warnings = settle_all(journal)
        if parameters.undo:
            return EditResult(None, undo(parameters, journal, context), warnings=warnings)
        files = _Editing(parameters, context).apply(journal)
        return EditResult(journal.edit, files, warnings=warnings)


JOB = SPEC.implemented(run)


class _Editing:
    """One run over all files; `plan` and `apply` look at each in the same way."""

    def __init__(self, parameters: EditParameters, context: Context) -> None:
        self._wanted = parameters
        self._context = context
        #: Each file once, by whatever links it was named.
        self._paths = list(dict.fromkeys(map(os.path.realpath, parameters.paths)))
        self._files: list[FileEdit] = []

    def plan(self) -> tuple[FileEdit, ...]:
        return tuple(self._look()[0] for _ in self._paths)

    def apply(self, journal: journals.Journal) -> tuple[FileEdit, ...]:
        batches = Batches(journal, self._context.edited)
        for path in self._paths:
            if self._has_more_names(path):
                # Another name of it may wait to be written, which changes the file that is looked at here.
                batches.flush()
            _, order = self._look()
            if order is not None:
                self._add(batches, order)
        batches.end()
        return tuple(self._files)

    def _look(self) -> tuple[FileEdit, Order | None]:
        """At the next file."""
        path = self._paths[len(self._files)]
        told = self._teller(path)
        told(0)
        file, order = plan(path, self._wanted, self._context.threads, told)
        self._files.append(file)
        return file, order

    def _add(self, batches: Batches, order: Order) -> None:
        place = len(self._files) - 1

        def heard(what: Written | str) -> None:
            self._files[place] = became(self._files[place], what, "done")

        batches.add(order, heard, self._teller(order.path))

    def _teller(self, path: bytes) -> Callable[[int], object]:
        place, name = len(self._files), shown(os.path.basename(path))
        return lambda _: self._context.progress(place, len(self._paths), name)

    @staticmethod
    def _has_more_names(path: bytes) -> bool:
        try:
            return os.stat(path).st_nlink > 1
        except OSError:
            return False
