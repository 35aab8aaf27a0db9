"""Plans, actions, taking them back, their history, and what they saved."""

from __future__ import annotations

from loracore.control.frame import Path, Struct


class PlanDedupe(Struct, frozen=True, tag="plan"):
    """What the policy makes of the library, answered by `Planned`; nothing is changed.

    What is given stands in place of the configuration's `action`, `levels` and `keep` (its rules, in the bytes of
    their paths). The scope and min_age are always those of the configuration.
    """

    action: str = ""
    keep: list[bytes] = []
    levels: list[str] = []
    cursor: str = ""


class ApplyDedupe(Struct, frozen=True, tag="dedupe"):
    """Carry out what `PlanDedupe` of the same fields shows. Answered by `Applied` when all is done.

    Meanwhile `DedupeProgress` comes as an event, and `ActionTaken` for each file.
    """

    action: str = ""
    keep: list[bytes] = []
    levels: list[str] = []


class UndoActions(Struct, frozen=True, tag="undo"):
    """Take back these actions, or (`all`) all that stand; answered by `Undone` when that is done."""

    ids: list[int] = []
    all: bool = False


class ListHistory(Struct, frozen=True, tag="history"):
    cursor: str = ""


class GetSavings(Struct, frozen=True, tag="savings"):
    pass


class PlannedStep(Struct, frozen=True):
    """A name that would be acted on. `why` completes the sentence: the kept one ….

    `bytes` is what it takes out of the library; of a file with several names they count once, with its last.
    """

    path: Path
    kept: Path
    level: str
    action: str
    bytes: int
    why: str


class SkippedFile(Struct, frozen=True):
    """A name that would be left alone, and the reason. `kept` is empty where nothing of its set is kept yet."""

    path: bytes
    kept: bytes
    level: str
    reason: str


class Planned(Struct, frozen=True, tag="planned"):
    """A part of a plan, sorted by kept file and path. `bytes` is the sum over these steps.

    `action` is the one that was asked for, or the configuration's; `report` would change nothing.
    """

    generation: int
    complete: bool
    action: str
    steps: list[PlannedStep]
    skipped: list[SkippedFile]
    bytes: int
    cursor: str = ""


class Outcome(Struct, frozen=True):
    """What became of one name. `id` is for `UndoActions`, 0 where nothing was done.

    `state`: `done`, `nothing` (there was nothing to do any more) or `refused`; `text` says why.
    """

    id: int
    action: str
    kept: Path
    path: Path
    bytes: int
    state: str
    text: str = ""


class Applied(Struct, frozen=True, tag="applied"):
    """`results` are those that fit into an answer, the refused first; `omitted` counts the others."""

    done: int
    refused: int
    bytes: int
    results: list[Outcome]
    omitted: int = 0


class Undone(Struct, frozen=True, tag="undone"):
    """As `Applied`; `bytes` is what the files take again."""

    done: int
    refused: int
    bytes: int
    results: list[Outcome]
    omitted: int = 0


class HistoryEntry(Struct, frozen=True):
    """An action. `state`: `done`, `undone`, `failed`, `emptied`, or one that waits for repair.

    `emptied`: the file is in its quarantine no more; undo by its id looks for it once again, `all` does not.
    `bytes` is what it saved, or what a quarantined file still takes.
    """

    id: int
    time: str
    action: str
    kept: Path
    path: Path
    bytes: int
    state: str


class History(Struct, frozen=True, tag="history"):
    """Actions, oldest first."""

    actions: list[HistoryEntry]
    cursor: str = ""


class Savings(Struct, frozen=True, tag="savings"):
    """What the actions that stand have saved, by action too; what quarantines hold; what could be saved now.

    `possible_bytes` is the sum of the plan by the configuration; where that is to report, of all that it names.
    """

    saved_bytes: int
    possible_bytes: int
    quarantined_bytes: int
    by_action: dict[str, int]
    actions: int = 0
