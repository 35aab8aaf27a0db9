"""What clients ask about de-duplication: a row for each method, as in `loractl.session`. No I/O."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import msgspec

from loracore import control
from loractl.steps import Listing, Steps, all_pages, answered, ask, hears, listed


class DedupeRequests:
    """The rows."""

    #: Seconds for each answer that is given at once.
    _timeout: float | None

    @answered
    def plan_dedupe(
        self, action: str = "", keep: Sequence[str] = (), levels: Sequence[str] = ()
    ) -> Steps[control.Planned]:
        """What de-duplicating would do, and what not; nothing is changed.

        What is given stands in place of the configuration: an action, keep rules, levels.
        """
        request = control.PlanDedupe(action, rules(keep), list(levels))
        return join_plans((yield from all_pages(request, control.Planned, self._timeout)))

    @answered
    def apply_dedupe(
        self,
        action: str = "",
        keep: Sequence[str] = (),
        levels: Sequence[str] = (),
        *,
        now: bool = False,
        progress: Callable[[control.DedupeProgress], None] | None = None,
        timeout: float | None = None,
    ) -> Steps[control.Applied]:
        """Do what `plan_dedupe` shows, and return when it is done. `progress` is called with how far it is.

        `now`: what is put aside is removed at once, without its grace.
        """
        request = control.ApplyDedupe(action, rules(keep), list(levels), now)
        return ask(request, control.Applied, timeout, hears(control.DedupeProgress, progress))

    @answered
    def free(
        self,
        ids: Sequence[int] = (),
        *,
        progress: Callable[[control.DedupeProgress], None] | None = None,
        timeout: float | None = None,
    ) -> Steps[control.Freed]:
        """Remove what these actions, or all but quarantines, have put aside, and return when it is done."""
        return ask(
            control.FreeHidden(list(ids), not ids), control.Freed, timeout, hears(control.DedupeProgress, progress)
        )

    @listed
    def hidden(self, ids: Sequence[int] = ()) -> Listing[control.HiddenFile]:
        """What these actions, or all, have put aside, the one that is due first in front."""
        return Listing(
            control.FreeHidden(list(ids), not ids, dry_run=True), control.Freeable, lambda page: page.files
        )

    @answered
    def undo(
        self,
        ids: Sequence[int] = (),
        *,
        all: bool = False,
        progress: Callable[[control.DedupeProgress], None] | None = None,
        timeout: float | None = None,
    ) -> Steps[control.Undone]:
        """Take back these actions, or all that stand."""
        return ask(
            control.UndoActions(list(ids), all), control.Undone, timeout, hears(control.DedupeProgress, progress)
        )

    @listed
    def history(self) -> Listing[control.HistoryEntry]:
        """Actions, oldest first."""
        return Listing(control.ListHistory(), control.History, lambda page: page.actions)

    @answered
    def savings(self) -> Steps[control.Savings]:
        """What was saved, and what could be."""
        return ask(control.GetSavings(), control.Savings, self._timeout)


def rules(keep: Sequence[str]) -> list[bytes]:
    """Keep rules as they are sent."""
    return [os.fsencode(rule) for rule in keep]


def join_plans(pages: Sequence[control.Planned]) -> control.Planned:
    """One plan out of its pages."""
    return msgspec.structs.replace(
        pages[-1],
        steps=[step for page in pages for step in page.steps],
        skipped=[file for page in pages for file in page.skipped],
        bytes=sum(page.bytes for page in pages),
    )
