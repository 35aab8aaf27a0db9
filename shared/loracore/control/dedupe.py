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

    Meanwhile `DedupeProgress` comes as an event, and `ActionTaken` for each file. `now`: what is put aside is
    freed at once.
    """

    action: str = ""
    keep: list[bytes] = []
    levels: list[str] = []
    now: bool = False


class FreeHidden(Struct, frozen=True, tag="free"):
    """Remove what these actions, or (`all`) all but quarantines, have put aside; answered by `Freed`.

    `dry_run`: nothing is changed; answered by `Freeable`, page by page.
    """

    ids: list[int] = []
    all: bool = False
    dry_run: bool = False
    cursor: str = ""


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


class Freed(Struct, frozen=True, tag="freed"):
    """As `Applied`; `refused` counts what stays aside, and its outcome says what it waits for."""

    done: int
    refused: int
    bytes: int
    results: list[Outcome]
    omitted: int = 0


class HiddenFile(Struct, frozen=True):
    """A file that was put aside. `due`: when it is freed by itself (RFC 3339), empty where it is not.

    `reason`: what it waits for beyond that, if anything.
    """

    id: int
    action: str
    kept: Path
    path: Path
    bytes: int
    state: str
    due: str
    reason: str = ""


class Freeable(Struct, frozen=True, tag="freeable"):
    """What is put aside, the one that is due first in front."""

    files: list[HiddenFile]
    cursor: str = ""


class Undone(Struct, frozen=True, tag="undone"):
    """As `Applied`; `bytes` is what the files take again."""

    done: int
    refused: int
    bytes: int
    results: list[Outcome]
    omitted: int = 0


class HistoryEntry(Struct, frozen=True):
    """An action. `state`: `hidden waiting freed linked shared quarantined undone given_back lost refused`.

    `planned`, `freeing` and `undoing` are those that were interrupted and wait for repair. `bytes` is what it
    saved, or what a file that is put aside still takes; `free --dry-run` says what one waits for.
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
    """What actions in force have saved, by action too; what is still put aside; what could be saved now.

    `possible_bytes` is the sum of the plan by the configuration; where that is to report, of all that it names.
    """

    saved_bytes: int
    possible_bytes: int
    hidden_bytes: int
    by_action: dict[str, int]
    actions: int = 0


#: What acts on files, or asks what was done.
ActionRequest = ApplyDedupe | UndoActions | FreeHidden | ListHistory | GetSavings
DedupeRequest = PlanDedupe | ActionRequest
DedupeAnswer = Planned | Applied | Undone | Freed | Freeable | History | Savings
