"""Symbolic links of ours: led on where the kept file has another name, and followed where their owner moves them.

`Links` decides, for the core; `Leading` has it done, in the service's thread.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress

from loracore.errors import LoraError
from lorad.dedupe.action.hidden import is_link
from lorad.dedupe.action.order import HELD, Result, Side
from lorad.dedupe.candidates import Keepers, kept_for
from lorad.dedupe.dispatch import Dispatch, why_silent
from lorad.dedupe.process import Follow, Retarget
from lorad.dedupe.roots import Moved, Roots, worked
from lorad.dedupe.standing import Asked, InForce, Keeper, Library, Standing, Wants, Weights
from lorad.library.keepers import is_marked
from lorad.watch import timed_calls

#: Seconds until what could not be led on is tried again; the last one ever after.
_AGAIN = (5.0, 60.0, 600.0, 3600.0)


class Links:
    """`asked`: actions that are being given back or led on."""

    def __init__(self, service: Wants, in_force: InForce, asked: Asked) -> None:
        self._service = service
        self._in_force = in_force
        self._asked = asked
        #: Actions whose link is not at its name any more.
        self._moved: set[int] = set()

    def gone(self, path: bytes) -> None:
        """A name is not there any more: if it was that of a link of ours, it may have been moved."""
        if path in self._in_force.links:
            self._moved.add(self._in_force.links[path])

    def follow(self, names: Collection[bytes]) -> None:
        """Have links that are not at their names looked for under these, which symbolic links have now."""
        if self._moved and self._service.follow_links(sorted(self._moved), list(names)):
            self._moved.clear()

    def lead_on(self, one: Standing, keepers: Sequence[Keeper]) -> None:
        """Lead a link to where the kept file is now, if it is not where it was."""
        if not keepers or one.id in self._asked or any(keeper.path == one.kept for keeper in keepers):
            return
        best = min(keepers, key=lambda keeper: (is_marked(keeper.path), len(keeper.path), keeper.path))
        if self._service.retarget(one.id, best.path, best.identity):
            self._asked.add([one.id], _AGAIN)

    def find_kept(self, library: Library, weights: Weights, dangling: Sequence[Standing]) -> bool:
        """Look whether the kept file of these links, which are all that is left, is among files not read yet."""
        if library.unresolved(*weights, [one.kept for one in dangling]) == "away":
            return False
        asked = [one.id for one in dangling if self._service.find_kept(one.id)]
        self._asked.add(asked, _AGAIN)
        return len(asked) == len(dangling)


class Leading:
    """For the thread of `dispatch`."""

    def __init__(self, dispatch: Dispatch, roots: Roots, moved: Moved, keepers: Keepers) -> None:
        self._dispatch = dispatch
        self._roots = roots
        self._moved = moved
        self._keepers = keepers

    def lead_on(self, number: int, sides: Sequence[Side], *, prove: bool = False, why: str = "") -> None:
        """Lead a link to the first of these that it may be led to. `why`: there are none."""
        entry = self._dispatch.history.entries([number])[number]
        silent = why_silent(entry.gone.path) if entry is not None else ""
        ask = self._dispatch.attempt
        if silent or not any(worked(ask(Retarget(number, side, prove=prove))) for side in sides):
            self.refuse(number, silent or why or "no file of its weights is known")

    def find_kept(self, number: int) -> None:
        """Lead the link of a file that was freed to one that holds its layers; its weights may not be read yet."""
        entry = self._dispatch.history.entries([number])[number]
        sides, why = kept_for(self._keepers, entry, by_itself=True) if entry is not None else ([], "")
        self.lead_on(number, sides, prove=True, why=why)

    def refuse(self, number: int, reason: str) -> None:
        self._dispatch.put([Result(number, "", b"", b"", 0, "refused", reason)])

    def follow(self, numbers: Sequence[int], names: Collection[bytes]) -> None:
        """Look under these names for links of these actions that were moved, and go with them."""
        history = self._dispatch.history
        self._moved.find(entry for entry in history.entries(numbers).values() if entry and entry.state in HELD)
        entries = [
            entry for entry in history.entries(numbers).values() if entry and entry.state in (*HELD, "freed")
        ]
        by_inode = {entry.link: entry for entry in entries if entry.link}
        # One that was moved with its folder has its name already.
        by_name = {entry.gone.path: entry for entry in entries if is_link(entry.gone.path)}
        for path in {*by_name, *names}:
            with suppress(LoraError, OSError):
                entry = by_name.get(path) or by_inode.get(timed_calls.stat(path, follow_symlinks=False).st_ino)
                if entry is not None:
                    self._dispatch.attempt(Follow(entry.id, self._roots.side(path, entry.gone.identity)))
