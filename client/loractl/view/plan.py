"""What a plan of de-duplication, its outcome and the history say, in words and rows. No terminal, no rich."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from loracore.control import (
    Applied,
    Freed,
    HiddenFile,
    HistoryEntry,
    Outcome,
    Planned,
    PlannedStep,
    Savings,
    Undone,
)
from loracore.paths import shown
from loractl.view.tables import Column, Row, count, size

#: What is done with a file, as in "3 files would be …".
_DONE = {
    "report": "reported",
    "reflink": "made to share blocks",
    "hardlink": "replaced by hard links",
    "symlink": "replaced by symbolic links",
    "quarantine": "moved into quarantine",
    "delete": "taken away",
}


class PlannedSet(NamedTuple):
    """A kept file with what would become of the others."""

    kept: bytes
    steps: list[PlannedStep]

    @property
    def bytes(self) -> int:
        return sum(step.bytes for step in self.steps)


def by_kept(plan: Planned) -> list[PlannedSet]:
    """The steps of a plan by the file that is kept for them; what saves most comes first."""
    sets = [PlannedSet(kept, list(part)) for kept, part in groupby(plan.steps, lambda step: step.kept)]
    return sorted(sets, key=lambda one: (-one.bytes, one.kept))


def skipped_by_reason(plan: Planned) -> list[tuple[str, int]]:
    """How many names are left alone for each reason, the most frequent first."""
    # What follows a colon is about one file.
    reasons = Counter(file.reason.partition(": its name")[0] for file in plan.skipped)
    return sorted(reasons.items(), key=lambda item: (-item[1], item[0]))


PLAN_COLUMNS = [
    Column("do"),
    Column("same"),
    Column("saves", right=True),
    Column("why"),
    Column("file", folds=True),
]


def plan_rows(sets: Iterable[PlannedSet]) -> Iterator[Row]:
    """A row for each kept file, and under it one for each that goes. `why` is said of the kept one."""
    for one in sets:
        yield "kept", "", size(one.bytes), "", shown(one.kept)
        for step in one.steps:
            yield step.action, step.level, size(step.bytes), step.why, shown(step.path)


def plan_words(plan: Planned) -> Iterator[str]:
    """The sum of a plan, what is left alone, and what to do next."""
    files, sets = len(plan.steps), len({step.kept for step in plan.steps})
    unsure = "" if plan.complete else " The daemon is still at work: there may be more."
    if not files:
        yield f"Nothing to do.{unsure}"
    elif plan.action == "report":
        yield f"{count(files, 'file')} in {count(sets, 'set')} could go and save {size(plan.bytes)}.{unsure}"
    else:
        yield f"{count(files, 'file')} in {count(sets, 'set')} would be {_done(plan.action, plan.bytes)}.{unsure}"
    left = [f"{number:,} {reason}" for reason, number in skipped_by_reason(plan)]
    if left:
        yield f"Left alone: {', '.join(left)}."
    if files and plan.action == "report":
        yield "The policy is to report, which changes nothing; give --action, and --apply to do it."
    elif files:
        yield "Nothing was changed yet: --apply puts them aside first, and `loractl undo` takes it back."


def _done(action: str, length: int) -> str:
    what = _DONE.get(action, action)
    return f"{what}, {size(length)} in all" if action == "quarantine" else f"{what}, {size(length)} saved"


def applied_words(answer: Applied, *, now: bool = False) -> str:
    if not answer.done and not answer.refused:
        return "Nothing to do."
    refused = f"; {answer.refused:,} refused" if answer.refused else ""
    actions = {result.action for result in answer.results if result.state == "done"}
    if actions == {"quarantine"} and not now:
        what = "moved into quarantine"
    else:
        what = "saved" if now or actions == {"reflink"} else "put aside, and free after their grace"
    return f"{count(answer.done, 'file')} done, {size(answer.bytes)} {what}{refused}."


def freed_words(answer: Freed) -> str:
    if not answer.done and not answer.refused:
        return "Nothing is put aside."
    waits = f"; {answer.refused:,} stay aside" if answer.refused else ""
    return f"{count(answer.done, 'file')} removed, {size(answer.bytes)} freed{waits}."


HIDDEN_COLUMNS = [
    Column("id", right=True), Column("removed by itself"), Column("action"), Column("bytes", right=True),
    Column("file", folds=True), Column("kept", folds=True), Column("waits for", folds=True),
]  # fmt: skip


def hidden_rows(files: Iterable[HiddenFile]) -> Iterator[Row]:
    for file in files:
        due = file.due[:16].replace("T", " ") or "never"
        yield (
            str(file.id), due, file.action, size(file.bytes), shown(file.path), shown(file.kept),
            shown(file.reason),
        )  # fmt: skip


def hidden_words(files: Sequence[HiddenFile]) -> str:
    if not files:
        return "Nothing is put aside."
    return f"{count(len(files), 'file')} put aside, {size(sum(file.bytes for file in files))} in all."


def undone_words(answer: Undone) -> str:
    refused = f"; {answer.refused:,} refused" if answer.refused else ""
    return f"{count(answer.done, 'action')} undone{refused}."


OUTCOME_COLUMNS = [Column("do"), Column("file", folds=True), Column("why", folds=True)]


def refused_rows(results: Iterable[Outcome]) -> Iterator[Row]:
    for result in results:
        if result.state == "refused":
            yield result.action, shown(result.path), shown(result.text)


HISTORY_COLUMNS = [
    Column("id", right=True), Column("time"), Column("action"), Column("state"), Column("bytes", right=True),
    Column("file", folds=True), Column("kept", folds=True),
]  # fmt: skip


def history_rows(entries: Iterable[HistoryEntry]) -> Iterator[Row]:
    for entry in entries:
        # To the second, in UTC as all times of lorad.
        when = entry.time[:19].replace("T", " ")
        yield (
            str(entry.id), when, entry.action, entry.state, size(entry.bytes), shown(entry.path),
            shown(entry.kept),
        )  # fmt: skip


def savings_rows(savings: Savings) -> Iterator[Row]:
    yield "saved", size(savings.saved_bytes), f"by {count(savings.actions, 'action')} that can be undone"
    for action, length in sorted(savings.by_action.items(), key=lambda item: (-item[1], item[0])):
        yield f"  {action}", size(length), ""
    if savings.hidden_bytes:
        yield (
            "put aside",
            size(savings.hidden_bytes),
            "not free yet; `loractl free --dry-run` says when it will be",
        )
    yield "possible", size(savings.possible_bytes), "what `loractl dedupe` shows by the configuration"


def common_folder(paths: Iterable[bytes]) -> bytes:
    """The folder that all of these lie in, if it is worth naming; else empty."""
    folders = {os.path.dirname(path) for path in paths if path}
    common = os.path.commonpath(folders) if folders else b""
    return common if len(common) > 1 else b""
