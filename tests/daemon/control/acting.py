"""A stand-in for what acts on files: it remembers what was asked of it and answers as it is told."""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence

from loracore.control import Answer, Applied, HistoryEntry, Outcome, Refusal, Reply, Savings, Undone
from lorad.dedupe.plan import Plan

#: A name that is not UTF-8, and one that would turn a terminal red.
ODD, RED = b"/loras/odd \xff.safetensors", b"/loras/\x1b[31mred.safetensors"


def entry(number: int, state: str = "done") -> HistoryEntry:
    return HistoryEntry(
        number,
        f"2026-11-21T03:{number % 60:02}:00.000Z",
        "symlink",
        b"/loras/a.safetensors",
        ODD,
        1_000_000,
        state,
    )


class Acts:
    """Does everything at once, unless `held` collects the plans with their replies."""

    def __init__(self, entries: Sequence[HistoryEntry] = ()) -> None:
        self.entries = list(entries)
        self.plans: list[Plan] = []
        self.undone: list[list[int] | None] = []
        self.held: queue.Queue[tuple[Plan, Reply]] | None = None
        #: Names of which an apply says that they were refused.
        self.refuses: set[bytes] = set()
        self.possible = -1

    def apply(self, plan: Plan, reply: Reply, *, now: bool) -> None:
        self.plans.append(plan)
        if self.held is not None:
            self.held.put((plan, reply))
        else:
            reply(self.applied(plan))

    def applied(self, plan: Plan) -> Answer:
        results = []
        for number, step in enumerate(plan.steps, 1):
            refused = step.path in self.refuses
            state, text = ("refused", "it is open for writing") if refused else ("done", "")
            size = 0 if refused else step.bytes
            results.append(Outcome(number, step.action, step.kept, step.path, size, state, text))
        refused = [result for result in results if result.state == "refused"]
        done = len(results) - len(refused)
        return Applied(done, len(refused), sum(result.bytes for result in results), results)

    def undo(self, ids: Sequence[int] | None, reply: Reply) -> None:
        self.undone.append(None if ids is None else list(ids))
        wanted = [one.id for one in self.entries if one.state == "done"] if ids is None else list(ids)
        known = {one.id for one in self.entries}
        if wanted and known.isdisjoint(wanted):
            reply(Refusal("not-found", f"there is no action {wanted[0]}; see the history"))
            return
        results = [
            Outcome(number, "symlink", b"/k", b"/p", 5, "done" if number in known else "refused",
                    "" if number in known else f"there is no action {number}")
            for number in wanted
        ]  # fmt: skip
        done = sum(result.state == "done" for result in results)
        reply(Undone(done, len(results) - done, 5 * done, results))

    def history(self, after: int, most: int, reply: Callable[[Sequence[HistoryEntry] | Refusal], None]) -> None:
        reply([one for one in self.entries if one.id > after][:most])

    def savings(self, possible_bytes: int, reply: Reply) -> None:
        self.possible = possible_bytes
        reply(Savings(3_000_000, possible_bytes, 1_000_000, {"symlink": 2_000_000, "quarantine": 1_000_000}, 3))
