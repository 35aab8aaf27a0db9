"""The action `delete`: the file, or its whole adapter folder, is hidden beside itself, and removed later."""

from __future__ import annotations

from loracore.causes import HIDE, doing
from lorad.dedupe.action.journal import Context
from lorad.dedupe.action.order import Progress
from lorad.dedupe.action.place import rename_new
from lorad.dedupe.action.registry import Action, Proven, register


@register
class Delete(Action):
    name = "delete"

    def perform(self, context: Context, act: Proven, places: dict[int, int], progress: Progress) -> None:
        with doing(HIDE):
            rename_new(act.reached.folder, act.reached.name, act.reached.folder, act.entry.aside)
