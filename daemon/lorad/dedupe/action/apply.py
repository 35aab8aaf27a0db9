"""Carrying out a group of orders, so that they share what is slow.

The journal is written once before names change and once after, and each folder is synced once.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from contextlib import ExitStack, suppress

import msgspec

from loracore.identity import Identity
from lorad.dedupe.action import links, sidecars, symlink
from lorad.dedupe.action.entry import Entry
from lorad.dedupe.action.folders import same_folders
from lorad.dedupe.action.hidden import result_of
from lorad.dedupe.action.hold import same
from lorad.dedupe.action.journal import Context
from lorad.dedupe.action.order import Differs, Order, Progress, Refused, Result, reason_of, spoken
from lorad.dedupe.action.place import sync_all
from lorad.dedupe.action.proof import Nothing, Proof
from lorad.dedupe.action.recovery import TROUBLE, settle
from lorad.dedupe.action.registry import Proven


def apply(context: Context, orders: Sequence[Order], progress: Progress, clock: float) -> list[Result]:
    """What came of each order; see `Actor.apply`. Raises sqlite3.Error, once what was begun is taken back."""
    results: dict[int, Result] = {}
    places: dict[int, int] = {}
    with ExitStack() as stack:
        proof = Proof(context, stack, progress)
        acts: dict[int, Proven] = {}
        for number, order in enumerate(orders):
            try:
                acts[number] = proof.prove(order)
            except Nothing as nothing:
                results[number] = _result(order, "nothing", str(nothing))
            except TROUBLE as error:
                refused = _result(order, "refused", reason_of(error))
                results[number] = msgspec.structs.replace(refused, differs=isinstance(error, Differs))
        context.at("compared")
        entries: list[Entry] = []
        try:
            entries = context.journal.plan([act.entry for act in acts.values()]) if acts else []
            context.at("planned")
            stack.callback(_close, places)
            done = [
                _perform(context, act._replace(entry=entry), places, progress, clock)
                for act, entry in zip(acts.values(), entries, strict=True)
            ]
            sync_all([act.reached.folder for act in acts.values()] + list(places.values()))
            context.at("synced")
            done = [
                _look_again(context, act._replace(entry=entry))
                for act, entry in zip(acts.values(), done, strict=True)
            ]
            done = context.journal.update_all(done)
            context.at("done")
        except sqlite3.Error:
            # Names come back at once, also where that cannot be written down: repair does it later.
            for act, entry in zip(acts.values(), entries, strict=False):
                with suppress(sqlite3.Error):
                    _taken_back(context, act._replace(entry=entry), "the journal cannot be written")
            raise
        for (number, act), entry in zip(acts.items(), done, strict=True):
            results[number] = _with_kept(result_of(context, entry), act)
    return [results[number] for number in range(len(orders))]


def _perform(context: Context, act: Proven, places: dict[int, int], progress: Progress, clock: float) -> Entry:
    """Change the names; the entry as it is to be written down. What fails is taken back."""
    entry, action = act.entry, act.entry.kind
    try:
        act.kept.look_in_place(renamed=True)
        act.gone.look_in_place(renamed=True)
        if not act.reached.in_place():
            raise Refused.about(act.reached.path, "its folder was moved meanwhile; scan again")
        for link in context.journal.links_to(entry.gone.path) if action.hides else ():
            with suppress(*TROUBLE):
                symlink.retarget(context, link, entry.kept, lambda: None)
        action.perform(context, act, places, progress)
        context.at("put aside")
        sidecars.put_aside(context, entry, act.reached, places.get(entry.id))
    except TROUBLE as error:
        return _taken_back(context, act, reason_of(error))
    made = act.reached.status() if action.symbolic else None
    return msgspec.structs.replace(entry, state=action.state, hidden_at=clock, link=made.st_ino if made else 0)


def _look_again(context: Context, act: Proven) -> Entry:
    """After it was put aside: no writer came to it meanwhile, and all is where it should be.

    A writer of the kept file may have come by the new link: it is left to him, and what was put aside is kept.
    """
    entry = act.entry
    if entry.state == "refused" or not entry.kind.hides:
        return entry
    try:
        act.kept.look_at_place()
        act.gone.look(renamed=True)
        if entry.unit and (reason := same_folders(act.kept.folder, act.gone.folder)):
            raise Refused.about(act.reached.path, f"{reason}; scan again")
        there = act.reached.status()
        if not (there is None or links.is_ours(entry, act.reached, act.reached.name, there)):
            raise Refused.about(act.reached.path, "it was moved or replaced meanwhile; scan again")
        if not act.reached.in_place():
            raise Refused.about(act.reached.path, "its folder was moved meanwhile; scan again")
    except TROUBLE as error:
        return _taken_back(context, act, reason_of(error))
    return entry


def _taken_back(context: Context, act: Proven, reason: str) -> Entry:
    """Bring an action that failed back to before; where that cannot be, repair does it later."""
    entry = context.journal.get(act.entry.id)
    assert entry is not None
    try:
        return settle(context, entry, act.reached, reason)
    except (*TROUBLE, sqlite3.Error) as trouble:
        return msgspec.structs.replace(entry, text=f"{reason}; it waits to be taken back ({trouble})")


def _result(order: Order, state: str, text: str) -> Result:
    return Result(0, order.action, order.kept.path, order.gone.path, 0, state, spoken(text), level=order.level)


def _with_kept(result: Result, act: Proven) -> Result:
    """What came of it, with what the kept file was and is where a link changed its ctime and nothing else."""
    before, now = act.order.kept.identity, Identity.of(os.fstat(act.kept.fd))
    ours = now != before and same(now, before, renamed=True) and not act.kept.visited
    return msgspec.structs.replace(result, kept_before=before, kept_now=now) if ours else result


def _close(places: dict[int, int]) -> None:
    for fd in places.values():
        os.close(fd)
