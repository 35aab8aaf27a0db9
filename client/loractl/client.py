"""`loractl.Client`: a running daemon's answers and events, for scripts.

    with loractl.Client() as daemon:
        daemon.wait()
        for found in daemon.duplicates():
            print(found.kept, found.others)

What it gives are the structs of `loracore.control`; paths are bytes. One client is for one thread at a time.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Sequence

import msgspec
import zmq

from loracore.control import (
    Answer,
    Applied,
    ApplyDedupe,
    Audit,
    Audited,
    CancelJob,
    DedupeProgress,
    Doctor,
    Duplicates,
    DuplicateSet,
    Event,
    Examined,
    Failed,
    FailedFile,
    Find,
    Found,
    Freeable,
    Freed,
    FreeHidden,
    GetResult,
    GetSavings,
    GetStatus,
    Group,
    Groups,
    HiddenFile,
    History,
    HistoryEntry,
    JobProgress,
    JobResult,
    Jobs,
    JobStarted,
    JobState,
    ListDuplicates,
    ListFailed,
    ListGroups,
    ListHistory,
    ListJobs,
    Match,
    PlanDedupe,
    Planned,
    Request,
    Savings,
    Show,
    Shown,
    StartJob,
    Status,
    Told,
    UndoActions,
    Undone,
    Wait,
    Waited,
    WaitJob,
)
from loracore.errors import RefusedError
from loractl.address import find_daemon
from loractl.link import Keys, Link, receive_first
from loractl.session import (
    A,
    Whole,
    decode_answer,
    decode_event,
    encode,
    expect,
    join_groups,
    join_plans,
    join_sets,
    names_of,
)

#: A list, asked for by page.
Listing = ListGroups | ListDuplicates | ListFailed | Find | PlanDedupe | ListHistory | FreeHidden


class Client:
    """A connection to the daemon.

    `socket` is the path of its control socket or `tcp://host:port`; by default the running daemon is looked
    for (LORAD_SOCKET, then the runtime folders). `timeout` is in seconds, for each answer; None for no limit.
    By TCP, `server_key` is the daemon's public key or a file with it, and `key_file` our secret key's file.

    Everything raises NoDaemonError when nobody is there, TimedOutError, and RefusedError with its `code`.
    """

    def __init__(
        self,
        socket: str | None = None,
        *,
        timeout: float | None = 30.0,
        server_key: str | None = None,
        key_file: str | None = None,
    ) -> None:
        self._timeout = timeout
        self._keys = Keys(server_key, key_file)
        self._number = 0
        self._events: list[Events] = []
        self._address = find_daemon(socket, timeout)
        self._context: zmq.Context[zmq.SyncSocket] = zmq.Context()
        try:
            self._link = Link(self._context, zmq.DEALER, self._address, self._keys)
            self._link.socket.connect(self._address.control)
        except BaseException:
            self._context.destroy(linger=0)
            self._address.close()
            raise

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection, and event streams with it."""
        if not self._context.closed:
            for events in self._events:
                events.close()
            self._link.close()
            self._context.destroy(linger=0)
            self._address.close()

    def status(self) -> Status:
        """How the daemon is, now."""
        return self._ask(GetStatus(), Status, self._timeout)

    def wait(self, timeout: float | None = None) -> Waited:
        """Return when everything that was on disk before is reflected in the JSON files."""
        return self._ask(Wait(), Waited, timeout)

    def groups(self) -> Iterator[Group]:
        """Files by layout."""
        whole = Whole(join_groups)
        for page in self.pages(ListGroups(), Groups):
            yield from whole.add(page.groups)
        yield from whole.end()

    def duplicates(self, level: str | None = None) -> Iterator[DuplicateSet]:
        """Sets of files that hold the same weights; of one level, if given."""
        whole = Whole(join_sets)
        for page in self.pages(ListDuplicates(level or ""), Duplicates):
            yield from whole.add(page.sets)
        yield from whole.end()

    def failed(self) -> Iterator[FailedFile]:
        """Files that could not be read."""
        for page in self.pages(ListFailed(), Failed):
            yield from page.files

    def find(self, hash: str) -> Iterator[Match]:
        """Files with a hash that begins with these hex digits."""
        for page in self.pages(Find(hash), Found):
            yield from page.matches

    def show(self, path: str | bytes | os.PathLike[str]) -> Shown:
        """All that is known of one file."""
        *others, last = names_of(path)
        for name in others:
            try:
                return self._ask(Show(name), Shown, self._timeout)
            except RefusedError as error:
                if error.code != "not-found":
                    raise
        return self._ask(Show(last), Shown, self._timeout)

    def audit(self, timeout: float | None = None) -> Audited:
        """Compare the disk with the catalogue and the JSON files."""
        return self._ask(Audit(), Audited, timeout)

    def doctor(self) -> Examined:
        """What is wrong with the daemon's machine."""
        return self._ask(Doctor(), Examined, self._timeout)

    def plan_dedupe(self, action: str = "", keep: Sequence[str] = (), levels: Sequence[str] = ()) -> Planned:
        """What de-duplicating would do, and what not; nothing is changed.

        What is given stands in place of the configuration: an action, keep rules, levels.
        """
        return join_plans(list(self.pages(PlanDedupe(action, rules(keep), list(levels)), Planned)))

    def apply_dedupe(
        self,
        action: str = "",
        keep: Sequence[str] = (),
        levels: Sequence[str] = (),
        *,
        now: bool = False,
        progress: Callable[[DedupeProgress], None] | None = None,
        timeout: float | None = None,
    ) -> Applied:
        """Do what `plan_dedupe` shows, and return when it is done. `progress` is called with how far it is.

        `now`: what is put aside is removed at once, without its grace.
        """
        return self._act(ApplyDedupe(action, rules(keep), list(levels), now), Applied, progress, timeout)

    def free(
        self,
        ids: Sequence[int] = (),
        *,
        progress: Callable[[DedupeProgress], None] | None = None,
        timeout: float | None = None,
    ) -> Freed:
        """Remove what these actions, or all but quarantines, have put aside, and return when it is done."""
        return self._act(FreeHidden(list(ids), not ids), Freed, progress, timeout)

    def hidden(self, ids: Sequence[int] = ()) -> Iterator[HiddenFile]:
        """What these actions, or all, have put aside, the one that is due first in front."""
        for page in self.pages(FreeHidden(list(ids), not ids, dry_run=True), Freeable):
            yield from page.files

    def undo(
        self,
        ids: Sequence[int] = (),
        *,
        all: bool = False,
        progress: Callable[[DedupeProgress], None] | None = None,
        timeout: float | None = None,
    ) -> Undone:
        """Take back these actions, or all that stand."""
        return self._act(UndoActions(list(ids), all), Undone, progress, timeout)

    def history(self) -> Iterator[HistoryEntry]:
        """Actions, oldest first."""
        for page in self.pages(ListHistory(), History):
            yield from page.actions

    def savings(self) -> Savings:
        """What was saved, and what could be."""
        return self._ask(GetSavings(), Savings, self._timeout)

    def start_job(self, name: str, parameters: bytes, summary: str = "", *, detach: bool = False) -> JobStarted:
        """Have the daemon run a job. `parameters` is the MessagePack of its struct, with absolute paths.

        It ends when this client is closed or its process ends, unless it is told to `detach`.
        `loractl.jobs.run_job` does all of it, by structs.
        """
        return self._ask(StartJob(name, parameters, summary, detach), JobStarted, self._timeout)

    def jobs(self) -> list[JobState]:
        """All that wait or run, and those that ended lately."""
        return self._ask(ListJobs(), Jobs, self._timeout).jobs

    def wait_job(
        self, id: int, *, progress: Callable[[JobProgress], None] | None = None, timeout: float | None = None
    ) -> JobState:
        """Return when a job has ended, however it did. `progress` hears how far it is."""
        if progress is None:
            return self._ask(WaitJob(id), JobState, timeout)
        hear = progress

        def heard(event: Event) -> None:
            if isinstance(event, JobProgress) and event.id == id:
                hear(event)

        with self.events(["job-progress"]) as events:
            # What it told before we listened.
            for job in self.jobs():
                if job.id == id and job.state == "running":
                    heard(JobProgress(id, job.done, job.total, job.what))
            return self._ask_hearing(WaitJob(id), JobState, events, heard, timeout)

    def job_result(self, id: int) -> bytes:
        """The result of a job that is done: the MessagePack of its struct."""
        result = bytearray()
        while True:
            part = self._ask(GetResult(id, len(result)), JobResult, self._timeout)
            result += part.part
            if len(result) >= part.total or not part.part:
                return bytes(result)

    def cancel_job(self, id: int, *, timeout: float | None = None) -> JobState:
        """End a job, and return when it has ended."""
        return self._ask(CancelJob(id), JobState, timeout)

    def pages(self, request: Listing, kind: type[A]) -> Iterator[A]:
        """A list's answers as they come, page by page."""
        while True:
            page = self._ask(request, kind, self._timeout)
            yield page
            cursor: str = getattr(page, "cursor", "")
            if not cursor:
                return
            request = msgspec.structs.replace(request, cursor=cursor)

    def events(self, kinds: Collection[str] | None = None) -> Events:
        """Events from now on: all, or those of these kinds (their tags in `loracore.control`)."""
        link = Link(self._context, zmq.SUB, self._address, self._keys)
        try:
            events = Events(link, self._address.events, kinds, self._timeout)
        except BaseException:
            link.close()
            raise
        self._events.append(events)
        return events

    def _act(
        self,
        request: Request,
        kind: type[A],
        progress: Callable[[DedupeProgress], None] | None,
        timeout: float | None,
    ) -> A:
        """Ask for what takes a while."""
        if progress is None:
            return self._ask(request, kind, timeout)
        hear = progress

        def heard(event: Event) -> None:
            if isinstance(event, DedupeProgress):
                hear(event)

        with self.events(["progress"]) as events:
            return self._ask_hearing(request, kind, events, heard, timeout)

    def _ask_hearing(
        self,
        request: Request,
        kind: type[A],
        events: Events,
        heard: Callable[[Event], None],
        timeout: float | None,
    ) -> A:
        """Ask, and hear events until the answer comes."""
        deadline = None if timeout is None else time.monotonic() + timeout
        self._number += 1
        self._link.socket.send(encode(self._number, request))
        while True:
            told = events.early()
            if told is not None:
                heard(told.event)
                continue
            link, message = receive_first([self._link, events.link], deadline)
            if link is self._link:
                answered = decode_answer(message[-1])
                if answered.id in (self._number, 0):
                    return expect(answered.answer, kind)
            elif not message[0].startswith(b"!"):
                heard(decode_event(message[-1]).event)

    def _ask(self, request: Request, kind: type[A], timeout: float | None) -> A:
        self._number += 1
        self._link.socket.send(encode(self._number, request))
        return expect(self._receive(self._number, timeout), kind)

    def _receive(self, number: int, timeout: float | None) -> Answer:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            answered = decode_answer(self._link.receive(deadline)[-1])
            # Others are late answers to what was given up.
            if answered.id in (number, 0):
                return answered.answer


def rules(keep: Sequence[str]) -> list[bytes]:
    """Keep rules as they are sent."""
    return [os.fsencode(rule) for rule in keep]


class Events:
    """Events as they come; iterate. It ends with NoDaemonError when the daemon does."""

    def __init__(self, link: Link, endpoint: str, kinds: Collection[str] | None, timeout: float | None) -> None:
        """Returns when the daemon is known to send: what happens from then on is not missed."""
        self.link = link
        ready = b"!" + secrets.token_hex(8).encode()
        for topic in [*(kind.encode() for kind in (kinds if kinds is not None else [""])), ready]:
            link.socket.subscribe(topic)
        link.socket.connect(endpoint)
        deadline = None if timeout is None else time.monotonic() + timeout
        self._early: list[list[bytes]] = []
        while (message := link.receive(deadline))[0] != ready:
            self._early.append(message)
        link.socket.unsubscribe(ready)

    def __iter__(self) -> Iterator[Told]:
        return self

    def __next__(self) -> Told:
        return self.next()

    def next(self, timeout: float | None = None) -> Told:
        """The next event. Raises TimedOutError."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            message = self._early.pop(0) if self._early else self.link.receive(deadline)
            if not message[0].startswith(b"!"):
                return decode_event(message[-1])

    def early(self) -> Told | None:
        """An event that came before it was known that the daemon sends."""
        while self._early:
            message = self._early.pop(0)
            if not message[0].startswith(b"!"):
                return decode_event(message[-1])
        return None

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self.link.close()
