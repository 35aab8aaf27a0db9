"""The proof before an action: both files are open, held against writers, and the same as far as was ordered."""

from __future__ import annotations

import os
from contextlib import ExitStack

import msgspec

from loracore.adapter.folder import weight_parts
from loracore.attributes import Attributes
from loracore.identity import Identity
from lorad.blocks.extents import unshared_bytes
from lorad.dedupe.action import quarantine, reflink, sidecars, units
from lorad.dedupe.action.compare import Layers, function_of, same_bytes, same_layers
from lorad.dedupe.action.entry import Entry
from lorad.dedupe.action.folders import same_folders
from lorad.dedupe.action.hold import Held, hold, watchful
from lorad.dedupe.action.journal import Context
from lorad.dedupe.action.order import Order, Progress, Refused, Side, check
from lorad.dedupe.action.place import Folder, Reached, reach
from lorad.dedupe.action.registry import ACTIONS, Proven
from lorad.dedupe.places import why_lost


class Nothing(Exception):
    """There is nothing to do."""


class Proof:
    """Of the orders of one group. What is held is let go with `stack`."""

    def __init__(self, context: Context, stack: ExitStack, progress: Progress) -> None:
        self._context = context
        self._stack = stack
        self._progress = progress
        #: The weight files of adapter folders, by device and inode.
        self._parts: dict[tuple[int, int], frozenset[bytes]] = {}

    def prove(self, order: Order) -> Proven:
        """What is to be done, held. Raises Refused, OSError, EOFError, and Nothing."""
        check(order)
        with ExitStack() as mine:
            kept_at = mine.enter_context(reach(order.kept.root, order.kept.path))
            gone_at = mine.enter_context(reach(order.gone.root, order.gone.path))
            if order.level == "inode" or _are_one(kept_at, gone_at):
                raise Nothing("both are names of one file already")
            for side in (order.kept, order.gone):
                quarantine.refuse_inside(self._context, side)
            kept = mine.enter_context(hold(kept_at, order.kept.identity))
            gone = mine.enter_context(hold(gone_at, order.gone.identity))
            if kept.before.st_dev != gone.before.st_dev and (reason := why_lost(kept.path, gone.path)):
                raise Refused.about(gone.path, reason)
            act = self._compare(order, kept, gone, watchful(kept, gone, self._progress))
            if order.folder:
                act = _as_folder(act, mine.enter_context(reach(order.gone.root, order.folder)))
            self._stack.push(mine.pop_all())
        return act

    def _compare(self, order: Order, kept: Held, gone: Held, progress: Progress) -> Proven:
        """What is to be done, once the files proved to be the same. Raises Refused where it may not be."""
        attributes = Attributes.of(gone.fd, gone.before)
        function, config = self._refuse_other_function(order, kept, gone)
        action = ACTIONS[order.action]
        action.refuse(kept, gone, attributes)
        ranges: list[tuple[int, int]] = []
        if not action.hides:
            ranges = reflink.ranges_to_share(kept, gone)
            if not ranges:
                raise Nothing("all its blocks are shared already")
        elif order.level == "file":
            same_bytes(kept, gone, progress)
        else:
            one, other = Layers(kept), Layers(gone)
            if action.symbolic and one.container.format != other.container.format:
                raise Refused.about(
                    gone.path, f"a link in its place would lead to a {one.container.format} file; order quarantine"
                )
            same_layers(one, other, progress)
        aside = order.sidecars == "move" and not action.links
        entry = Entry(
            action=order.action,
            level=order.level,
            kept=order.kept,
            gone=order.gone,
            bytes=order.bytes if action.hides else unshared_bytes(gone.fd),
            attributes=attributes,
            sidecars=sidecars.beside(gone.reached) if aside else (),
            folder=Folder.of(gone.folder),
            function=function,
            config=config,
            layout=order.layout,
            weights=order.weights,
        )
        entry = action.planned(self._context, entry, gone.reached)
        return Proven(order, kept, gone, gone.reached, entry, ranges)

    def _refuse_other_function(self, order: Order, kept: Held, gone: Held) -> tuple[bytes | None, bytes | None]:
        """The function of `gone`. Raises Refused where `kept` has another, or `gone` is a part of a folder."""
        ours, theirs = function_of(gone), function_of(kept)
        other = os.fsdecode(kept.path)
        if ours[0] != theirs[0]:
            raise Refused.about(
                gone.path, f"its header says another function than that of {other} (alpha, rank …)"
            )
        if ACTIONS[order.action].links:
            return ours
        if ours[1] != theirs[1]:
            raise Refused.about(
                gone.path, f"its adapter_config.json says another function than that of {other}; order a link"
            )
        if gone.name in self._parts_in(gone.folder) and not order.folder:
            raise Refused.about(
                gone.path, "it is a part of an adapter folder, which goes as a whole or not at all"
            )
        return ours

    def _parts_in(self, folder: int) -> frozenset[bytes]:
        """The weight files of an adapter folder, empty for any other folder; each is listed once a group."""
        status = os.fstat(folder)
        key = status.st_dev, status.st_ino
        if key not in self._parts:
            self._parts[key] = weight_parts(map(os.fsencode, os.listdir(folder))) or frozenset()
        return self._parts[key]


def _as_folder(act: Proven, folder: Reached) -> Proven:
    """The same for the whole adapter folder. Raises Refused where it is not the same as that of the kept file."""
    there = folder.status()
    if there is None or not os.path.samestat(there, os.fstat(act.gone.folder)):
        raise Refused.about(folder.path, "it is not the folder of its weight file any more; scan again")
    reason = same_folders(act.kept.folder, act.gone.folder)
    if reason:
        raise Refused.about(folder.path, f"the whole folder is not the same as that of the kept file: {reason}")
    units.refuse_writers(folder, act.gone.folder)
    gone = Side(folder.path, Identity.of(there), folder.root)
    entry = msgspec.structs.replace(act.entry, gone=gone, unit=True, sidecars=(), folder=Folder.of(folder.folder))
    return act._replace(reached=folder, entry=entry)


def _are_one(kept: Reached, gone: Reached) -> bool:
    one, other = kept.status(), gone.status()
    return one is not None and other is not None and os.path.samestat(one, other)
