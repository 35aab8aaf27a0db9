"""The face of the actions: one process at a time hides, frees, gives back and repairs."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from types import TracebackType

import msgspec

from loracore.causes import explained
from loracore.errors import LoraError, StateError, StateLocked
from lorad.dedupe.action import free, symlink
from lorad.dedupe.action.apply import apply
from lorad.dedupe.action.entry import Entry
from lorad.dedupe.action.giving_back import show_all, undo_all
from lorad.dedupe.action.hidden import result_of
from lorad.dedupe.action.hold import hold
from lorad.dedupe.action.journal import Context, Journal
from lorad.dedupe.action.order import (
    HELD,
    FreeOrder,
    Order,
    Progress,
    Refused,
    Result,
    Side,
    reason_of,
    silent,
)
from lorad.dedupe.action.place import Folder, reach
from lorad.dedupe.action.recovery import TROUBLE, record_shown, repair

LOCK = "dedupe.lock"


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

    @contextmanager
    def _writing(self) -> Iterator[Context]:
        """Raises StateError where the journal cannot be written, also as its disk was taken away."""
        journal = self._context.journal
        if not journal.in_place():
            raise StateError(f"{journal.path}: it is not there any more; mount its disk again, and restart lorad")
        try:
            yield self._context
        except sqlite3.Error as error:
            raise StateError(f"{journal.path}: {explained(error, journal.path)}") from error

    def repair(self) -> list[Result]:
        """Bring what was interrupted to an end; see `recovery.repair`."""
        return repair(self._context)

    def set_clock(self, seconds: float) -> list[Result]:
        """Write down how long lorad has run, and what came back without the journal. Raises StateError."""
        with self._writing() as context:
            context.journal.set_clock(seconds)
        return record_shown(context)

    def apply(self, orders: Sequence[Order], progress: Progress = silent, *, clock: float = 0.0) -> list[Result]:
        """Carry out orders, none of which names a file that another one lets go.

        A result for each: its state is that of the action, `refused` (everything is as before; `text` says why) or
        `nothing`. Raises StateError when the journal cannot be written.
        """
        with self._writing() as context:
            return apply(context, orders, progress, clock)

    def free(self, orders: Sequence[FreeOrder], progress: Progress = silent) -> list[Result]:
        """Remove what actions have hidden; see `free.free`. Raises StateError."""
        with self._writing() as context:
            return free.free(context, orders, progress)

    def give_back(self, numbers: Sequence[int]) -> list[Result]:
        """Give hidden files their names back. The journal need not take it, nor be there: `repair` records it."""
        context = self._context
        entries = [
            entry for number in sorted(set(numbers), reverse=True) if (entry := context.journal.get(number))
        ]
        return show_all(context, [entry for entry in entries if entry.state in (*HELD, "lost")], undoing=False)

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
        with self._writing() as context:
            return undo_all(context, numbers, sources or {}, progress)

    def retarget(self, number: int, kept: Side, *, prove: bool = False) -> Result:
        """Lead a symbolic link of ours to where the kept file is now. Raises Refused and StateError.

        `prove`: its weights were not read yet, so what was freed is to be found in it, in full.
        """
        with self._writing() as context:
            entry = _link_of(context, number)
            with (
                _refused_at(entry.gone.path),
                reach(kept.root, kept.path) as reached,
                hold(reached, kept.identity) as held,
            ):
                check = partial(symlink.prove_same, context, entry, held) if prove else lambda: None
                return symlink.retarget(context, entry, kept, check).result()

    def follow(self, number: int, link: Side) -> Result:
        """Go with a symbolic link of ours that its owner has moved to this name. Raises Refused and StateError."""
        with self._writing() as context:
            entry = _link_of(context, number)
            with _refused_at(link.path):
                return result_of(context, symlink.follow(context, entry, link))

    def note(
        self, number: int, state: str, text: str, gone: Side | None = None, aside: bytes = b""
    ) -> Result | None:
        """Write down what was seen of a hidden file: it is lost, or was moved with its folder."""
        with self._writing() as context:
            entry = context.journal.get(number)
            if entry is None or entry.state not in (*HELD, "lost"):
                return None
            if gone is not None:
                with suppress(*TROUBLE), reach(gone.root, gone.path) as reached:
                    folder = Folder.of(reached.folder)
                    entry = msgspec.structs.replace(entry, gone=gone, folder=folder, aside=aside or entry.aside)
            return result_of(context, context.journal.update(entry, state=state, text=text))


def _link_of(context: Context, number: int) -> Entry:
    """The action of this number. Raises LoraError where it has made no symbolic link."""
    entry = context.journal.get(number)
    if entry is None or not entry.kind.symbolic:
        raise LoraError(f"action {number} has made no symbolic link")
    return entry


@contextmanager
def _refused_at(path: bytes) -> Iterator[None]:
    """An error of the system is told as a refusal to do something at this path."""
    try:
        yield
    except OSError as error:
        raise Refused.about(path, reason_of(error)) from error
