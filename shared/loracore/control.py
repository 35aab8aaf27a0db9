"""The control protocol: what clients ask a running daemon, what it answers, and the events that it sends.

A request is one MessagePack frame on a DEALER socket, `Asked`; its answer one frame, `Answered`, with the same
`id`. Events are two frames on a SUB socket: the kind, to subscribe by, and `Told`. Paths are bytes on the wire.

Sizes: a request is at most `MAX_REQUEST` bytes, an answer about `PAGE_BYTES`: longer lists come in pages, and
`cursor` of one page asks for the next; an empty one ends the list. A group or set that does not fit goes on in
the next page under the same signature or kept file. Lists are sorted, and their pages are of one generation
while they are asked for within seconds. docs/protocol.md shows it to those who write clients.
"""

from __future__ import annotations

import msgspec

#: The version of this protocol. A daemon refuses other ones, and says which it speaks.
VERSION = 1
MAX_REQUEST = 64 << 10
PAGE_BYTES = 1 << 20
#: A shorter beginning of a hash finds too much to be of use.
MIN_PREFIX = 4


#: For structs with a field named `bytes`.
Path = bytes


class Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=False):
    """A part of a message. Fields that a later version adds are ignored."""


# Requests


class GetStatus(Struct, frozen=True, tag="status"):
    pass


class Wait(Struct, frozen=True, tag="wait"):
    """Answered, by `Waited`, when everything that was on disk before is reflected in the JSON files."""


class ListGroups(Struct, frozen=True, tag="groups"):
    cursor: str = ""


class ListDuplicates(Struct, frozen=True, tag="duplicates"):
    """`level`: only those of this level; all where it is empty."""

    level: str = ""
    cursor: str = ""


class ListFailed(Struct, frozen=True, tag="failed"):
    cursor: str = ""


class Show(Struct, frozen=True, tag="show"):
    path: bytes


class Find(Struct, frozen=True, tag="find"):
    """`prefix`: the beginning of a hash, at least `MIN_PREFIX` hex digits; `0x` before it is passed over."""

    prefix: str
    cursor: str = ""


class Audit(Struct, frozen=True, tag="audit"):
    """Compare the disk with the catalogue and the JSON files; answered by `Audited`."""


class Doctor(Struct, frozen=True, tag="doctor"):
    """What the daemon sees of its machine, answered by `Examined`."""


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


class StartJob(Struct, frozen=True, tag="start-job"):
    """Have the daemon run the job `name` in a worker process; answered by `JobStarted` once it is queued.

    `parameters` is the MessagePack of the job's own struct; paths in it are absolute, on the daemon's machine.
    `summary` says to people what it is about, in a few words.
    """

    name: str
    parameters: bytes
    summary: str = ""


class ListJobs(Struct, frozen=True, tag="jobs"):
    pass


class WaitJob(Struct, frozen=True, tag="wait-job"):
    """Answered, by its `JobState`, when the job has ended."""

    id: int


class CancelJob(Struct, frozen=True, tag="cancel-job"):
    """End a job, which may take some seconds. Answered, by its `JobState`, when it has ended."""

    id: int


class GetResult(Struct, frozen=True, tag="job-result"):
    """The result of a job that is done: about `PAGE_BYTES` of it, from `offset` on."""

    id: int
    offset: int = 0


Request = (
    GetStatus | Wait | ListGroups | ListDuplicates | ListFailed | Show | Find | Audit | Doctor
    | PlanDedupe | ApplyDedupe | UndoActions | ListHistory | GetSavings
    | StartJob | ListJobs | WaitJob | CancelJob | GetResult
)  # fmt: skip


class Asked(Struct, frozen=True):
    """A request. `id` grows with each request of a connection; one that does not is refused as replayed."""

    id: int
    request: Request
    version: int = VERSION


# Answers


class Root(Struct, frozen=True):
    """A watched folder. `health`: `watching`, `polling`, `degraded` or `missing`; `reason` says why."""

    path: bytes
    health: str
    reason: str = ""
    folders: int = 0


class ChildState(Struct, frozen=True):
    """A child process. `state`: `starting`, `ready`, `paused`, or `waiting` to be started again."""

    name: str
    pid: int
    state: str
    restarts: int
    cpu_percent: float
    rss_bytes: int
    #: Seconds since its last sign of life.
    silent_seconds: float


class Error(Struct, frozen=True):
    """A recent error, for `status`."""

    time: str
    text: str
    path: bytes = b""


class Hashing(Struct, frozen=True):
    """How far identity hashes are: files that have them, wait for them, and cannot be hashed.

    All of it is only known where the daemon is set up to hash (`on_arrival`). `path` is the file that is read now;
    `trouble` says why none is.
    """

    on_arrival: bool
    hashed: int = 0
    waiting: int = 0
    failed: int = 0
    path: bytes = b""
    trouble: str = ""


class Status(Struct, frozen=True, tag="status"):
    """How the daemon is. `state`: `loading`, `scanning`, `reading` or `idle`. Rates are over the last seconds.

    Files are counted once each, however many names they have; `processed.json` lists names.
    """

    version: str
    pid: int
    state: str
    uptime_seconds: float
    state_dir: bytes
    generation: int
    published: int
    #: Files by their status in `processed.json`.
    files: dict[str, int]
    files_total: int
    files_processed: int
    bytes_total: int
    bytes_read: int
    duplicate_files: int
    #: Names waiting: to settle, for their header, for their digests, to be looked at.
    queues: dict[str, int]
    children: list[ChildState]
    #: What digests: `cpu` or `cuda`.
    hasher: str
    #: `watching`, or the worst of the roots' health.
    watch: str
    roots: list[Root]
    files_per_second: float
    bytes_per_second: float
    rss_bytes: int
    cpu_percent: float
    errors: list[Error]
    #: Why that hasher and not another one; empty where there is no choice.
    hasher_note: str = ""
    hashing: Hashing = Hashing(False)


class Waited(Struct, frozen=True, tag="waited"):
    generation: int


class Group(Struct, frozen=True):
    """Files of one layout (`signature`: its layout signature), sorted by path."""

    signature: bytes
    paths: list[bytes]


class Groups(Struct, frozen=True, tag="groups"):
    generation: int
    groups: list[Group]
    cursor: str = ""


class DuplicateSet(Struct, frozen=True):
    """Files that hold the same weights as `kept`, each with its level.

    `wasted_bytes` is what the listed ones take by their sizes; an inode counts once, shared blocks count as well.
    """

    kept: bytes
    others: list[tuple[bytes, str]]
    wasted_bytes: int


class Duplicates(Struct, frozen=True, tag="duplicates"):
    generation: int
    complete: bool
    sets: list[DuplicateSet]
    cursor: str = ""


class FailedFile(Struct, frozen=True):
    path: bytes
    reason: str


class Failed(Struct, frozen=True, tag="failed"):
    generation: int
    files: list[FailedFile]
    cursor: str = ""


class Shown(Struct, frozen=True, tag="shown"):
    """All that is known of one file. Digests and signatures are 32 bytes; None where not known (yet).

    `links` are other names of its inode. `kept` and `duplicates` are its set, as in `duplicates.json`: the file
    itself is among them. `layers` counts them. `hashes` are its identity hashes in hex, those that it has, by the
    names of `Match`; `hashes_error` says why it cannot be hashed.
    """

    path: bytes
    status: str
    error: str | None
    size: int
    mtime_ns: int
    format: str | None
    layout: bytes | None
    weights: bytes | None
    layers: int | None
    links: list[bytes]
    kept: bytes | None
    duplicates: list[tuple[bytes, str]]
    load_seconds: float
    hashes: dict[str, str] = {}
    hashes_error: str = ""


class Match(Struct, frozen=True):
    """A file with a hash of this `kind`, in hex.

    `layout`, `weights`, `layer`, or an identity hash: `sha256`, `autov1`, `autov2`, `autov3`, `sshs_model_hash`,
    `sshs_legacy_hash`, `blake3`, `crc32`. Digests of layers are looked through only where no other hash begins so.
    """

    path: bytes
    kind: str
    hash: str


class Found(Struct, frozen=True, tag="found"):
    """`note`: where nothing was found, why identity hashes may be missing, and what to do."""

    matches: list[Match]
    cursor: str = ""
    note: str = ""


class Difference(Struct, frozen=True):
    """A way in which the catalogue or a JSON file is not what it should be.

    `what` names the JSON file, or is, of a name on the disk: `missing` (the catalogue has it, the disk does not),
    `unknown` (the other way round), `changed` (not the file that was read), `stale` (judged otherwise now),
    `leftover` (set aside by an action that is not at its end).
    """

    path: bytes
    what: str
    text: str


class Audited(Struct, frozen=True, tag="audited"):
    """`files` were looked at. `omitted` counts differences beyond those that fit into an answer."""

    files: int
    differences: list[Difference]
    omitted: int = 0


class Finding(Struct, frozen=True):
    """`level`: `ok`, `warning` or `problem`. `remedy` is what to do, for the latter two."""

    name: str
    level: str
    text: str
    remedy: str = ""


class Examined(Struct, frozen=True, tag="examined"):
    findings: list[Finding]


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


class JobStarted(Struct, frozen=True, tag="job-started"):
    """`ahead`: jobs that run or wait before it."""

    id: int
    ahead: int = 0


class JobState(Struct, frozen=True, tag="job"):
    """A job, as it is. `state`: `waiting`, `running`, `done`, `failed` or `cancelled`.

    `done` of `total` is in units of the job's own; `total` is 0 where it is not known. `started` is when it was
    asked for; `seconds`, for how long it has run. `code` says why it failed: `input` (its parameters or files),
    `unreadable` (a file is not there, or not for the daemon's user), `missing` (a package), `memory`, `crashed`,
    `too-large` (its result); `error` says it in words.
    `result_bytes` is None where there is no result, or not any more.
    """

    id: int
    name: str
    summary: str
    state: str
    done: float
    total: float
    what: str
    started: str
    seconds: float
    error: str = ""
    code: str = ""
    result_bytes: int | None = None


class Jobs(Struct, frozen=True, tag="jobs"):
    """All that wait or run, and those that ended lately, by id."""

    jobs: list[JobState]


class JobResult(Struct, frozen=True, tag="job-result"):
    """A part of a result, MessagePack of the job's own struct when joined; `total` is the size of all of it."""

    id: int
    offset: int
    total: int
    part: bytes


class Refusal(Struct, frozen=True, tag="refused"):
    """`code`: `malformed too-large unknown-request version replayed not-found busy loading failed`, or these.

    `read-only`: it would change files, and the configuration or this daemon is not set up to.
    `unknown-job`: the daemon has no job of this name, or runs none.
    """

    code: str
    text: str


Answer = (
    Status | Waited | Groups | Duplicates | Failed | Shown | Found | Audited | Examined | Refusal
    | Planned | Applied | Undone | History | Savings | JobStarted | JobState | Jobs | JobResult
)  # fmt: skip


class Answered(Struct, frozen=True):
    """`id` is that of the request; 0 where it could not be read."""

    id: int
    answer: Answer
    version: int = VERSION


# Events


class FileSeen(Struct, frozen=True, tag="seen"):
    path: bytes
    size: int


class FileGrouped(Struct, frozen=True, tag="grouped"):
    """Its layout is known; `alone` when no other file has it."""

    path: bytes
    layout: bytes
    alone: bool


class DuplicateFound(Struct, frozen=True, tag="duplicate"):
    path: bytes
    #: Others that hold the same weights.
    others: list[bytes]


class FileHashed(Struct, frozen=True, tag="hashed"):
    """Its identity hashes are known; `sha256` in hex."""

    path: bytes
    sha256: str


class FileGone(Struct, frozen=True, tag="gone"):
    path: bytes


class FileFailedEvent(Struct, frozen=True, tag="failed"):
    path: bytes
    reason: str


class ChildRestarted(Struct, frozen=True, tag="child"):
    name: str
    reason: str


class HasherChanged(Struct, frozen=True, tag="hasher"):
    """Weights are digested by something else (`cpu`, `cuda`) from now on, or still; `note` says why."""

    hasher: str
    note: str


class ActionTaken(Struct, frozen=True, tag="action"):
    """`bytes`: how many it freed."""

    id: int
    action: str
    kept: Path
    path: Path
    bytes: int


class ActionRefused(Struct, frozen=True, tag="refused"):
    """An action was not done, and the file is as it was."""

    action: str
    kept: bytes
    path: bytes
    reason: str


class ActionUndone(Struct, frozen=True, tag="undone"):
    id: int
    path: bytes


class DedupeProgress(Struct, frozen=True, tag="progress"):
    """How far an `ApplyDedupe` or `UndoActions` is: files, and bytes that are read to compare them."""

    done: int
    total: int
    bytes: int
    bytes_total: int


class JobProgress(Struct, frozen=True, tag="job-progress"):
    """How far a job is, as in `JobState`; the first one tells that it runs."""

    id: int
    done: float
    total: float
    what: str


class JobEnded(Struct, frozen=True, tag="job-ended"):
    id: int
    state: str


class DaySummary(Struct, frozen=True, tag="day"):
    """What was done by itself and by request since `since` (RFC 3339): files by action, and the bytes saved."""

    since: str
    done: dict[str, int]
    bytes: int
    refused: int
    undone: int


class WatchChanged(Struct, frozen=True, tag="watch"):
    root: bytes
    health: str
    reason: str


class PublishedEvent(Struct, frozen=True, tag="published"):
    generation: int


Event = (
    FileSeen | FileGrouped | DuplicateFound | FileGone | FileFailedEvent | ChildRestarted | HasherChanged
    | ActionTaken | WatchChanged | PublishedEvent | ActionRefused | ActionUndone | DedupeProgress | DaySummary
    | JobProgress | JobEnded | FileHashed
)  # fmt: skip


class Told(Struct, frozen=True):
    """An event. `number` counts all events of this daemon, so that a reader sees whether it missed some."""

    number: int
    time: str
    event: Event
    version: int = VERSION


CONTROL_SOCKET = "control.sock"
EVENTS_SOCKET = "events.sock"
