"""The face of the actions: one process at a time hides, frees, gives back and repairs.

Many orders go as one group, so that they share what is slow: the journal is written once before names change and
once after, and each folder is synced once.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from types import TracebackType

import msgspec

from loracore.causes import explained, told
from loracore.errors import FileError, LoraError, StateError, StateLocked
from loracore.identity import Identity
from lorad.dedupe.action import free, links, quarantine, recipe, sidecars, symlink, undo
from lorad.dedupe.action.compare import Layers, function_of
from lorad.dedupe.action.folders import same_folders
from lorad.dedupe.action.hidden import path_in, result_of
from lorad.dedupe.action.hold import Held, hold, same
from lorad.dedupe.action.journal import Context, Entry, Journal
from lorad.dedupe.action.order import (
    HELD,
    FreeOrder,
    Order,
    Progress,
    Refused,
    Result,
    Side,
    silent,
    spoken,
)
from lorad.dedupe.action.place import Folder, reach, sync_all
from lorad.dedupe.action.proof import Nothing, Proof
from lorad.dedupe.action.recovery import Pending, record_shown, repair, settle
from lorad.dedupe.action.registry import Proven
from lorad.dedupe.action.remake import remake
from lorad.dedupe.action.undo import show as give_name_back

LOCK = "dedupe.lock"
#: What can go wrong with a file, as opposed to a mistake of ours.
_TROUBLE = (FileError, OSError, EOFError, Pending)


class Actor:
    """Carries out orders on files, takes them back, and keeps the journal. `repair` first, once.

    Whatever kills the process, `repair` brings names and content to all before or all after, and `undo` brings
    back each file with bytes, mode, owner, times and extended attributes. The same holds after a power cut, as
    far as the disk keeps what it says it has written.
    """

    def __init__(self, state_dir: str, *, at: Callable[[str], None] = lambda step: None) -> None:
        """Open the journal in `state_dir` and lock it against a second actor.

        `at` is called after each step with its name. Raises StateLocked, and StateError as `Journal`.
        """
        try:
            os.makedirs(state_dir, mode=0o750, exist_ok=True)
            self._lock = os.open(os.path.join(state_dir, LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise StateError(f"{state_dir}: {reason}; give another --state-dir") from error
        try:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise StateLocked(f"{state_dir}: another lorad changes files by it; wait for it") from error
            self._context = Context(state_dir, Journal(state_dir), at)
        except BaseException:
            os.close(self._lock)
            raise

    def __enter__(self) -> Actor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._context.journal.close()
        os.close(self._lock)

    @property
    def token(self) -> str:
        """That of the journal, which is in all names that it gives."""
        return self._context.journal.token

    def repair(self) -> list[Result]:
        """Bring what was interrupted to an end; see `recovery.repair`."""
        return repair(self._context)

    def set_clock(self, seconds: float) -> None:
        """Write down how long lorad has run. Raises StateError."""
        try:
            self._in_place().journal.set_clock(seconds)
        except sqlite3.Error as error:
            raise self._journal_error(error) from error

    # Acting

    def apply(self, orders: Sequence[Order], progress: Progress = silent, *, clock: float = 0.0) -> list[Result]:
        """Carry out orders, none of which names a file that another one lets go.

        A result for each: its state is that of the action, `refused` (everything is as before; `text` says why) or
        `nothing`. Raises StateError when the journal cannot be written.
        """
        context = self._in_place()
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
                except _TROUBLE as error:
                    results[number] = _result(order, "refused", _reason(error))
            context.at("compared")
            entries: list[Entry] = []
            try:
                entries = context.journal.plan([act.entry for act in acts.values()]) if acts else []
                context.at("planned")
                stack.callback(_close, places)
                done = [
                    self._perform(act._replace(entry=entry), places, progress, clock)
                    for act, entry in zip(acts.values(), entries, strict=True)
                ]
                sync_all([act.reached.folder for act in acts.values()] + list(places.values()))
                context.at("synced")
                done = [
                    self._look_again(act._replace(entry=entry))
                    for act, entry in zip(acts.values(), done, strict=True)
                ]
                done = context.journal.update_all(done)
                context.at("done")
            except sqlite3.Error as error:
                # Names come back at once, also where that cannot be written down: repair does it later.
                for act, entry in zip(acts.values(), entries, strict=False):
                    with suppress(sqlite3.Error):
                        self._taken_back(act._replace(entry=entry), "the journal cannot be written")
                raise self._journal_error(error) from error
            for (number, act), entry in zip(acts.items(), done, strict=True):
                results[number] = _with_kept(result_of(context, entry), act)
        return [results[number] for number in range(len(orders))]

    def _perform(self, act: Proven, places: dict[int, int], progress: Progress, clock: float) -> Entry:
        """Change the names; the entry as it is to be written down. What fails is taken back."""
        context, entry, action = self._context, act.entry, act.entry.kind
        try:
            act.kept.look_in_place(renamed=True)
            act.gone.look_in_place(renamed=True)
            if not act.reached.in_place():
                raise Refused.about(act.reached.path, "its folder was moved meanwhile; scan again")
            for link in context.journal.links_to(entry.gone.path) if action.hides else ():
                with suppress(*_TROUBLE):
                    symlink.retarget(context, link, entry.kept, lambda: None)
            action.perform(context, act, places, progress)
            context.at("put aside")
            sidecars.put_aside(context, entry, act.reached, places.get(entry.id))
        except _TROUBLE as error:
            return self._taken_back(act, _reason(error))
        made = act.reached.status() if action.symbolic else None
        return msgspec.structs.replace(entry, state=action.state, hidden_at=clock, link=made.st_ino if made else 0)

    def _look_again(self, act: Proven) -> Entry:
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
        except _TROUBLE as error:
            return self._taken_back(act, _reason(error))
        return entry

    def _taken_back(self, act: Proven, reason: str) -> Entry:
        """Bring an action that failed back to before; where that cannot be, repair does it later."""
        entry = self._context.journal.get(act.entry.id)
        assert entry is not None
        try:
            return settle(self._context, entry, act.reached, reason)
        except (*_TROUBLE, sqlite3.Error) as trouble:
            return msgspec.structs.replace(entry, text=f"{reason}; it waits to be taken back ({trouble})")

    # Freeing and giving back

    def free(self, orders: Sequence[FreeOrder], progress: Progress = silent) -> list[Result]:
        """Remove what actions have put aside; see `free.free`. Raises StateError."""
        try:
            return free.free(self._in_place(), orders, progress)
        except sqlite3.Error as error:
            raise self._journal_error(error) from error

    def give_back(self, numbers: Sequence[int]) -> list[Result]:
        """Give files that were put aside their names back. The journal need not take it: `repair` records it.

        Nor need it be there any more.
        """
        context = self._context
        entries = [
            entry for number in sorted(set(numbers), reverse=True) if (entry := context.journal.get(number))
        ]
        return self._show([entry for entry in entries if entry.state in (*HELD, "lost")], undo=False)

    def undo(
        self,
        numbers: Sequence[int],
        sources: Mapping[int, Sequence[Side]] | None = None,
        progress: Progress = silent,
    ) -> list[Result]:
        """Undo actions, in this order. What is undone, given back or refused already is `nothing` to do.

        `sources`: files that a freed one can be made from. What cannot be undone is `refused`, with the reason.
        Raises StateError.
        """
        context, results = self._in_place(), []
        try:
            entries = [entry for number in numbers if (entry := context.journal.get(number))]
            for held, group in _groups(entries, self._is_held):
                results += self._show(group, undo=True) if held else self._undo(group, sources or {}, progress)
        except sqlite3.Error as error:
            raise self._journal_error(error) from error
        return results

    def _is_held(self, entry: Entry) -> bool:
        """Whether the file of an action is put aside, so that a rename brings it back."""
        if entry.state not in (*HELD, "lost"):
            return False
        return entry.state != "lost" or os.path.lexists(path_in(self._context, entry))

    def _undo(
        self, entries: Sequence[Entry], sources: Mapping[int, Sequence[Side]], progress: Progress
    ) -> list[Result]:
        """Undo those that are not put aside any more."""
        context, results = self._context, []
        freed: list[tuple[Entry, Sequence[Side]]] = []
        for entry in entries:
            if entry.state in ("undone", "given_back", "refused"):
                results.append(result_of(context, entry, text=f"it is {entry.state} already", state="nothing"))
            elif not entry.kind.hides:
                results.append(self._unshare(entry))
            else:
                freed.append((entry, sources.get(entry.id, ())))
        for entry, path, trouble in remake(context, freed, progress) if freed else ():
            if trouble is None:
                results.append(result_of(context, entry, shown=path))
            else:
                results.append(result_of(context, entry, text=_reason(trouble), state="refused"))
        return results

    def _unshare(self, entry: Entry) -> Result:
        context = self._context
        try:
            undo.refuse_covered(context, entry)
            return undo.unshare(context, entry).result()
        except _TROUBLE as error:
            now = context.journal.get(entry.id)
            if now is not None and now.state == "undoing":
                with suppress(*_TROUBLE, sqlite3.Error), reach(entry.gone.root, entry.gone.path) as reached:
                    settle(context, now, reached, _reason(error))
            return result_of(context, entry, text=_reason(error), state="refused")

    def retarget(self, number: int, kept: Side, *, prove: bool = False) -> Result:
        """Lead a symbolic link of ours to where the kept file is now. Raises Refused and StateError.

        `prove`: nobody has read its weights yet, so what was freed is to be found in it, in full.
        """
        context = self._in_place()
        entry = context.journal.get(number)
        if entry is None or not entry.kind.symbolic:
            raise LoraError(f"action {number} has made no symbolic link")
        try:
            with reach(kept.root, kept.path) as reached, hold(reached, kept.identity) as held:
                check = partial(_prove_same, context, entry, held) if prove else lambda: None
                return symlink.retarget(context, entry, kept, check).result()
        except OSError as error:
            raise _refused(entry.gone.path, error) from error
        except sqlite3.Error as error:
            raise self._journal_error(error) from error

    def follow(self, number: int, link: Side) -> Result:
        """Go with a symbolic link of ours that its owner has moved to this name. Raises Refused and StateError."""
        context = self._in_place()
        entry = context.journal.get(number)
        if entry is None or not entry.kind.symbolic:
            raise LoraError(f"action {number} has made no symbolic link")
        try:
            return result_of(context, symlink.follow(context, entry, link))
        except OSError as error:
            raise _refused(link.path, error) from error
        except sqlite3.Error as error:
            raise self._journal_error(error) from error

    def note(
        self, number: int, state: str, text: str, gone: Side | None = None, aside: bytes = b""
    ) -> Result | None:
        """Write down what was seen of a file that was put aside: it is lost, or was moved with its folder."""
        entry = self._in_place().journal.get(number)
        if entry is None or entry.state not in (*HELD, "lost"):
            return None
        try:
            if gone is not None:
                with suppress(*_TROUBLE), reach(gone.root, gone.path) as reached:
                    folder = Folder.of(reached.folder)
                    entry = msgspec.structs.replace(entry, gone=gone, folder=folder, aside=aside or entry.aside)
            entry = self._context.journal.update(entry, state=state, text=text)
        except sqlite3.Error as error:
            raise self._journal_error(error) from error
        return result_of(self._context, entry)

    def _show(self, entries: Sequence[Entry], *, undo: bool) -> list[Result]:
        """Give what these actions have put aside its names back; what cannot be is `refused`, with the reason."""
        context = self._context
        shown: list[tuple[Entry, bytes]] = []
        failed: list[Result] = []
        folders: list[int] = []
        for entry in entries:
            try:
                after, path, opened = give_name_back(context, entry, undo=undo)
            except _TROUBLE as error:
                failed.append(result_of(context, entry, text=_reason(error), state="refused"))
                continue
            shown.append((after, path))
            folders += opened
        try:
            sync_all(folders)
        finally:
            for fd in folders:
                os.close(fd)
        context.at("shown synced")
        results = [result_of(context, after, shown=path) for after, path in shown]
        # A full disk of the journal keeps no file back: `record_shown` writes it down later.
        with suppress(sqlite3.Error):
            context.journal.update_all([after for after, _ in shown])
            context.at("shown noted")
            for after, _ in shown:
                quarantine.clear(context, after)
        return results + failed

    def record_shown(self) -> list[Result]:
        """See `recovery.record_shown`."""
        return record_shown(self._in_place())

    def _in_place(self) -> Context:
        """Raises StateError where the journal's disk was taken away: nothing is done that could not be undone."""
        if not self._context.journal.in_place():
            raise StateError(
                f"{self._context.journal.path}: it is not there any more; mount its disk again, and restart lorad"
            )
        return self._context

    def _journal_error(self, error: sqlite3.Error) -> StateError:
        path = self._context.journal.path
        return StateError(f"{path}: {explained(error, path)}")


def _prove_same(context: Context, entry: Entry, held: Held) -> None:
    """Raises Refused where a file does not hold the layers of the one that was freed, or has another function."""
    body = context.journal.recipe(entry.id)
    if body is None or (entry.function != b"" and function_of(held)[0] != entry.function):
        raise Refused.about(held.path, "it does not do what the file did that was freed")
    try:
        for _ in recipe.rebuild(body, Layers(held)):
            pass
    except (ValueError, EOFError) as error:
        raise Refused.about(held.path, str(error)) from error


def _groups(entries: Iterable[Entry], is_held: Callable[[Entry], bool]) -> Iterator[tuple[bool, list[Entry]]]:
    """Entries that may be undone together, in their order: no path in two, and none that was kept for another."""
    group: list[Entry] = []
    paths: set[bytes] = set()
    held = False
    for entry in entries:
        mine = {entry.gone.path, entry.kept.path}
        if group and (is_held(entry) != held or not paths.isdisjoint(mine)):
            yield held, group
            group, paths = [], set()
        held = is_held(entry)
        group.append(entry)
        paths.add(entry.gone.path)
    if group:
        yield held, group


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


def _reason(error: Exception) -> str:
    """The reason alone, without the name of the file, for results that have it."""
    if isinstance(error, FileError):
        return spoken(error.reason)
    return spoken(told(error) if isinstance(error, OSError) else str(error))


def _refused(path: bytes, error: Exception) -> Refused:
    return error if isinstance(error, Refused) else Refused.about(path, _reason(error))
