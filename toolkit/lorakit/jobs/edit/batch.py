"""Writes files in batches, each with a journal that is durable before its first file is touched.

A batch is noted, its files are written and put in place, that is noted too, and then the old files are removed.
What is interrupted anywhere is settled here, or by the next edit where the process was killed.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loracore.errors import FileError
from loracore.identity import Edited
from lorakit.jobs.edit.journal import Journal
from lorakit.jobs.edit.notices import Notices
from lorakit.jobs.edit.settling import settle
from lorakit.jobs.edit.writing import Order, Written, drop, write

#: Files, and bytes of their headers, that are one batch at most.
_FILES, _HEADERS = 64, 32 << 20
#: Hears what became of a file: what was written, or why not.
Heard = Callable[[Written | str], object]


@dataclass(frozen=True)
class _Waiting:
    order: Order
    undoes: int | None
    hidden: bytes
    heard: Heard
    told: Callable[[int], object]


class Batches:
    """What is added is written when it is enough, and at the end. `edited` hears of each file that is in place."""

    def __init__(self, journal: Journal, edited: Callable[[Sequence[Edited]], object]) -> None:
        self._journal = journal
        self._notices = Notices(edited)
        self._waiting: list[_Waiting] = []
        #: Rows whose hidden files are gone, which the next commit says.
        self._dropped: list[int] = []

    def end(self) -> None:
        """Write what waits, and no more. Raises as `flush`."""
        self.flush()
        self._journal.note_dropped(self._dropped)

    def add(self, order: Order, heard: Heard, told: Callable[[int], object], *, undoes: int | None = None) -> None:
        """`told` hears of bytes as they come, and may raise. `undoes`: the row that it takes back."""
        hidden = b".lorad-edit-%s.tmp" % secrets.token_hex(8).encode()
        self._waiting.append(_Waiting(order, undoes, hidden, heard, told))
        bytes_ = sum(len(each.order.raw) + len(each.order.header.raw) for each in self._waiting)
        if len(self._waiting) >= _FILES or bytes_ >= _HEADERS:
            self.flush()

    def flush(self) -> None:
        """Write what waits. Raises StateError where the journal fails, and what `told` raises."""
        batch, self._waiting = self._waiting, []
        if not batch:
            return
        orders = [(each.order, each.hidden, each.undoes) for each in batch]
        numbers = self._journal.begin(orders, self._dropped)
        self._dropped = []
        done: dict[int, tuple[_Waiting, Written]] = {}
        failed: dict[int, tuple[_Waiting, str]] = {}
        try:
            for number, each in zip(numbers, batch, strict=True):
                try:
                    done[number] = each, self._write(each)
                except FileError as error:
                    failed[number] = each, error.reason
        finally:
            self._end(numbers, done)
            self._notices.send()
        for each, written in done.values():
            each.heard(written)
        for number, (each, why) in failed.items():
            in_place = self._journal.row(number).state == "done"
            each.heard(f"it has the new header, but not all went well: {why}" if in_place else why)

    def _write(self, each: _Waiting) -> Written:
        """Raises FileError."""

        def told(count: int) -> None:
            # Files before a long one are not to wait for it.
            self._notices.send_due()
            each.told(count)

        written = write(each.order, each.hidden, told)
        self._notices.add(Edited(each.order.path, each.order.identity, written.identity))
        return written

    def _end(self, numbers: list[int], done: dict[int, tuple[_Waiting, Written]]) -> None:
        """Note what is in place, remove the old files of these, and settle the others."""
        self._journal.finish([(number, written) for number, (_, written) in done.items()])
        for number, (each, _) in done.items():
            # What stays, or is not where it was, is removed when an edit settles it.
            with contextlib.suppress(OSError):
                drop(each.order.path, each.hidden)
                self._dropped.append(number)
        for number in numbers:
            if number not in done:
                settle(self._journal, self._journal.row(number))
