"""What a plan of edits, its outcome and the journal of edits say, in words and rows. No terminal, no rich."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from loracore.jobs.edit import EditResult, FileEdit, State
from loracore.paths import shown
from loractl.view.tables import Column, Row, count, size

COLUMNS = [
    Column("file", folds=True), Column("do"), Column("entry"), Column("was", folds=True),
    Column("becomes", folds=True),
]  # fmt: skip
HISTORY_COLUMNS = [Column("id", right=True), Column("time"), Column("state"), Column("file", folds=True)]
#: Rows that are shown; `--json` has all.
MOST = 200
_TEXT = 80
_DO = {"planned": "would be", "done": "edited", "undone": "undone"}


def rows(found: EditResult) -> list[Row]:
    """A row for each entry that changes, and one for each file that is refused."""
    listed: list[Row] = []
    for file in found.files:
        if file.state == "refused":
            listed.append((shown(file.path), "refused", "", "", shown(file.reason)))
        elif file.reason:
            listed.append((shown(file.path), "left", "", "", shown(file.reason)))
        for change in file.changes if file.state in _DO else ():
            cells = (shown(change.key), _text(change.old), _text(change.new))
            listed.append((shown(file.path), _DO[file.state], *cells))
    return listed


def words(found: EditResult, *, more: int) -> Iterator[str]:
    """The sum of it, and what to do next. `more`: rows that are not shown."""
    if more > 0:
        yield f"… and {count(more, 'more line')}; --json has all."
    states = Counter(file.state for file in found.files)
    for file in found.files[:MOST]:
        for warning in file.warnings:
            yield f"warning: {shown(file.path)}: {shown(warning)}"
    function = sum(file.function for file in found.files if file.state != "refused")
    if function:
        yield f"{count(function, 'file')} would do something else to a base model, or be loaded otherwise."
    yield f"{', '.join(_states(states)) or 'no file'}.{_data(found.files)}"
    if states["planned"]:
        yield "Nothing was changed yet: --apply does it."
    if states["done"]:
        yield f"`loractl edit --undo {found.id}` takes it back."


def _states(states: Mapping[State, int]) -> Iterator[str]:
    names: dict[State, str] = {
        "planned": "would be edited", "done": "edited", "undone": "undone", "unchanged": "left as it is",
        "refused": "refused",
    }  # fmt: skip
    for state, name in names.items():
        if number := states.get(state, 0):
            yield f"{count(number, 'file')} {name}"


def _data(files: tuple[FileEdit, ...]) -> str:
    shared, copied = (sum(each) for each in ([file.shared for file in files], [file.copied for file in files]))
    return f" Data: {size(shared)} shared, {size(copied)} copied." if shared or copied else ""


def history_rows(found: EditResult) -> Iterator[Row]:
    for past in found.history:
        yield str(past.id), past.time[:19].replace("T", " "), past.state, shown(past.path)


def _text(value: str | None) -> str:
    if value is None:
        return "-"
    return shown(value if len(value) <= _TEXT else f"{value[:_TEXT]}…")
