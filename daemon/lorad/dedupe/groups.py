"""Steps that share their syncs, how far many of them are, and what came of them in one answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from loracore.control import PAGE_BYTES, DedupeProgress, Outcome
from lorad.dedupe.plan import Step

#: Orders that share their syncs, and the bytes of their files: so long it takes until a request has its turn.
GROUP, GROUP_BYTES = 64, 1 << 30
#: Bytes that an outcome takes beside its paths and words.
_OUTCOME = 120
#: Seconds between two words about how far it is.
_INTERVAL = 0.2


def groups(steps: Sequence[Step]) -> Iterator[list[Step]]:
    """Steps that can share their syncs: none is for the sake of a file that another one lets go."""
    group: list[Step] = []
    going: set[bytes] = set()
    kept: set[bytes] = set()
    size = 0
    for step in steps:
        full = len(group) >= GROUP or size + step.gone.size > GROUP_BYTES
        if group and (full or step.kept in going or step.path in kept):
            yield group
            group, going, kept, size = [], set(), set(), 0
        group.append(step)
        going.add(step.path)
        kept.add(step.kept)
        size += step.gone.size
    if group:
        yield group


class Pace:
    """How far many actions are, told now and then to clients that listen."""

    def __init__(self, steps: Sequence[Step], tell: Callable[[DedupeProgress], None] | None) -> None:
        self._total, self._size = len(steps), sum(step.gone.size for step in steps)
        self._tell = tell
        self._done = self._before = 0
        self._next_word = 0.0

    def report(self, done: int, total: int) -> None:
        """Of the present file, which may be read more than once."""
        del total
        self._say(self._before + done)

    def next(self, group: Sequence[Step]) -> None:
        """The next group begins, after this one."""
        self._done += len(group)
        self._before += sum(step.gone.size for step in group)
        self._say(self._before)

    def _say(self, done: int) -> None:
        now = time.monotonic()
        if self._tell is not None and now >= self._next_word:
            self._next_word = now + _INTERVAL
            self._tell(DedupeProgress(self._done, self._total, min(done, self._size), self._size))


def counted(outcomes: Sequence[Outcome]) -> tuple[int, int, int, list[Outcome], int]:
    """Done, refused, bytes, the outcomes that fit into an answer with the refused first, and how many do not."""
    refused = [outcome for outcome in outcomes if outcome.state == "refused"]
    done = [outcome for outcome in outcomes if outcome.state == "done"]
    fitting, room = [], PAGE_BYTES
    for outcome in sorted(outcomes, key=lambda outcome: outcome.state != "refused"):
        room -= len(outcome.kept) + len(outcome.path) + len(outcome.text) + _OUTCOME
        if room < 0:
            break
        fitting.append(outcome)
    return len(done), len(refused), sum(outcome.bytes for outcome in done), fitting, len(outcomes) - len(fitting)
