"""Requests that act on files, or ask what was done: handed on to the service that does it, with a plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from loracore.control import (
    PAGE_BYTES,
    ActionRequest,
    Applied,
    ApplyDedupe,
    Freeable,
    FreeHidden,
    GetSavings,
    HiddenFile,
    History,
    HistoryEntry,
    ListHistory,
    Refusal,
    Reply,
    UndoActions,
)
from lorad.control.queries import Queries
from lorad.dedupe.plan import Plan

#: Entries of the history that are asked for at once, and bytes that one takes beside its paths.
_ENTRIES, _ENTRY = 4096, 120
#: Most actions that may be named in one request.
_IDS = 10_000


class Deduper(Protocol):
    """Carries plans out, takes actions back and keeps their history.

    All methods are called from one thread and must not block; `reply` is called once, now or later, from any
    thread. What cannot be done at all is replied as a Refusal.
    """

    def apply(self, plan: Plan, reply: Reply, *, now: bool) -> None:
        """Do all steps; `Applied` when they are done. The plan's action is not `report`, and it has steps.

        `now`: what they put aside is freed at once.
        """

    def undo(self, ids: Sequence[int] | None, reply: Reply) -> None:
        """Take back these actions, or all that stand (None); `Undone` when that is done."""

    def free(self, ids: Sequence[int] | None, reply: Reply) -> None:
        """Remove what these actions, or all but quarantines (None), have put aside; `Freed` when that is done."""

    def hidden(self, ids: Sequence[int] | None) -> Sequence[HiddenFile]:
        """What these actions, or all, have put aside, the one that is due first in front. Raises StateError."""

    def history(self, after: int, most: int, reply: Callable[[Sequence[HistoryEntry] | Refusal], None]) -> None:
        """Up to `most` actions whose ids are above `after`, by id."""

    def savings(self, possible_bytes: int, reply: Reply) -> None:
        """`Savings`, with this as what could be saved."""


class DedupeHandlers:
    """For use in the thread of `Queries`."""

    def __init__(self, queries: Queries, deduper: Deduper) -> None:
        self._queries = queries
        self._deduper = deduper

    def handle(self, request: ActionRequest, reply: Reply) -> None:
        """Have it done; `reply` is called once."""
        match request:
            case ApplyDedupe():
                self._apply(request, reply)
            case UndoActions(ids, everything):
                if everything == bool(ids):
                    reply(Refusal("malformed", "give the ids of actions, or all"))
                elif len(ids) > _IDS:
                    reply(Refusal("malformed", f"{len(ids)} actions at once; give at most {_IDS}, or all"))
                else:
                    self._deduper.undo(None if everything else ids, reply)
            case FreeHidden(ids, everything, dry_run, cursor):
                self._free(ids, everything, dry_run, cursor, reply)
            case ListHistory(cursor):
                self._history(cursor, reply)
            case GetSavings():
                plan = self._queries.plan()
                if isinstance(plan, Refusal):
                    reply(plan)
                else:
                    self._deduper.savings(plan.bytes, reply)

    def _free(self, ids: Sequence[int], everything: bool, dry_run: bool, cursor: str, reply: Reply) -> None:
        if everything == bool(ids):
            reply(Refusal("malformed", "give the ids of actions, or all"))
        elif len(ids) > _IDS:
            reply(Refusal("malformed", f"{len(ids)} actions at once; give at most {_IDS}, or all"))
        elif not dry_run:
            self._deduper.free(None if everything else ids, reply)
        elif cursor and not (cursor.isascii() and cursor.isdecimal() and len(cursor) < 19):
            reply(Refusal("malformed", f"the cursor {cursor[:40]!a} is none that a page of this list gave"))
        else:
            reply(_freeable_page(self._deduper.hidden(None if everything else ids), int(cursor or 0)))

    def _apply(self, request: ApplyDedupe, reply: Reply) -> None:
        plan = self._queries.plan(request.action, request.keep, request.levels)
        if isinstance(plan, Refusal):
            reply(plan)
        elif plan.action == "report":
            text = "the configured action is to report: give another one, or set [dedupe] action"
            reply(Refusal("read-only", text))
        elif not plan.steps:
            reply(Applied(0, 0, 0, []))
        else:
            self._deduper.apply(plan, reply, now=request.now)

    def _history(self, cursor: str, reply: Reply) -> None:
        if cursor and not (cursor.isascii() and cursor.isdecimal() and len(cursor) < 19):
            reply(Refusal("malformed", f"the cursor {cursor[:40]!a} is none that a page of this list gave"))
            return

        def got(entries: Sequence[HistoryEntry] | Refusal) -> None:
            reply(entries if isinstance(entries, Refusal) else _history_page(entries))

        self._deduper.history(int(cursor or 0), _ENTRIES, got)


def _freeable_page(files: Sequence[HiddenFile], begin: int) -> Freeable:
    """As many of these as fit, from this one on; the cursor is where the next page begins."""
    room, end = PAGE_BYTES, begin
    for file in files[begin:]:
        room -= len(file.kept) + len(file.path) + len(file.reason) + _ENTRY
        if room < 0 and end > begin:
            break
        end += 1
    return Freeable(list(files[begin:end]), str(end) if end < len(files) else "")


def _history_page(entries: Sequence[HistoryEntry]) -> History:
    """As many entries as fit; the cursor is the id of the last one."""
    room, end = PAGE_BYTES, 0
    for entry in entries:
        room -= len(entry.kept) + len(entry.path) + _ENTRY
        if room < 0 and end:
            break
        end += 1
    page = list(entries[:end])
    more = end < len(entries) or len(entries) == _ENTRIES
    return History(page, str(page[-1].id) if more and page else "")
