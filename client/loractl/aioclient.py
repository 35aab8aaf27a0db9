"""`loractl.AsyncClient`: the same as `loractl.Client`, for asyncio. Any number of requests may wait at once."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Collection, Sequence

import msgspec
import zmq.asyncio

from loracore.control import (
    Answer,
    Applied,
    ApplyDedupe,
    Audit,
    Audited,
    CancelJob,
    Doctor,
    Duplicates,
    DuplicateSet,
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
    JobEnded,
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
from loracore.errors import RefusedError, TimedOutError
from loracore.paths import shown
from loractl.address import Address, find_daemon
from loractl.client import Listing, rules
from loractl.link import MONITORED, Keys, prepare, trouble
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


class AsyncClient:
    """See `loractl.Client`. Use it with `async with`, or call `connect` and `close`."""

    def __init__(
        self,
        socket: str | None = None,
        *,
        timeout: float | None = 30.0,
        server_key: str | None = None,
        key_file: str | None = None,
    ) -> None:
        self._place = socket
        self._timeout = timeout
        self._keys = Keys(server_key, key_file)
        self._number = 0
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._link: _Link | None = None
        self._events: list[AsyncEvents] = []
        self._reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> AsyncClient:
        await self.connect()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def connect(self) -> None:
        """Raises NoDaemonError."""
        if self._link is not None:
            return
        address = await asyncio.to_thread(find_daemon, self._place, self._timeout)
        self._context = zmq.asyncio.Context()
        self._address = address
        try:
            self._link = _Link(self._context, zmq.DEALER, address, self._keys)
            self._link.socket.connect(address.control)
        except BaseException:
            self._context.destroy(linger=0)
            address.close()
            raise
        self._reader = asyncio.create_task(self._read(self._link))

    async def close(self) -> None:
        """End the connection, and event streams with it."""
        if self._link is None or self._reader is None:
            return
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        for events in self._events:
            await events.close()
        self._link.close()
        self._link = self._reader = None
        self._context.destroy(linger=0)
        self._address.close()

    async def status(self) -> Status:
        """How the daemon is, now."""
        return await self._ask(GetStatus(), Status, self._timeout)

    async def wait(self, timeout: float | None = None) -> Waited:
        """Return when everything that was on disk before is reflected in the JSON files."""
        return await self._ask(Wait(), Waited, timeout)

    async def groups(self) -> AsyncIterator[Group]:
        """Files by layout."""
        whole = Whole(join_groups)
        async for page in self.pages(ListGroups(), Groups):
            for group in whole.add(page.groups):
                yield group
        for group in whole.end():
            yield group

    async def duplicates(self, level: str | None = None) -> AsyncIterator[DuplicateSet]:
        """Sets of files that hold the same weights; of one level, if given."""
        whole = Whole(join_sets)
        async for page in self.pages(ListDuplicates(level or ""), Duplicates):
            for found in whole.add(page.sets):
                yield found
        for found in whole.end():
            yield found

    async def failed(self) -> AsyncIterator[FailedFile]:
        """Files that could not be read."""
        async for page in self.pages(ListFailed(), Failed):
            for file in page.files:
                yield file

    async def find(self, hash: str) -> AsyncIterator[Match]:
        """Files with a hash that begins with these hex digits."""
        async for page in self.pages(Find(hash), Found):
            for match in page.matches:
                yield match

    async def show(self, path: str | bytes | os.PathLike[str]) -> Shown:
        """All that is known of one file."""
        *others, last = names_of(path)
        for name in others:
            try:
                return await self._ask(Show(name), Shown, self._timeout)
            except RefusedError as error:
                if error.code != "not-found":
                    raise
        return await self._ask(Show(last), Shown, self._timeout)

    async def audit(self, timeout: float | None = None) -> Audited:
        """Compare the disk with the catalogue and the JSON files."""
        return await self._ask(Audit(), Audited, timeout)

    async def doctor(self) -> Examined:
        """What is wrong with the daemon's machine."""
        return await self._ask(Doctor(), Examined, self._timeout)

    async def plan_dedupe(self, action: str = "", keep: Sequence[str] = (), levels: Sequence[str] = ()) -> Planned:
        """What de-duplicating would do, and what not; nothing is changed."""
        request = PlanDedupe(action, rules(keep), list(levels))
        return join_plans([page async for page in self.pages(request, Planned)])

    async def apply_dedupe(
        self,
        action: str = "",
        keep: Sequence[str] = (),
        levels: Sequence[str] = (),
        *,
        now: bool = False,
        timeout: float | None = None,
    ) -> Applied:
        """Do what `plan_dedupe` shows, and return when it is done; `events(["progress"])` tell how far it is.

        `now`: what is put aside is removed at once, without its grace.
        """
        return await self._ask(ApplyDedupe(action, rules(keep), list(levels), now), Applied, timeout)

    async def free(self, ids: Sequence[int] = (), *, timeout: float | None = None) -> Freed:
        """Remove what these actions, or all but quarantines, have put aside, and return when it is done."""
        return await self._ask(FreeHidden(list(ids), not ids), Freed, timeout)

    async def hidden(self, ids: Sequence[int] = ()) -> AsyncIterator[HiddenFile]:
        """What these actions, or all, have put aside, the one that is due first in front."""
        async for page in self.pages(FreeHidden(list(ids), not ids, dry_run=True), Freeable):
            for file in page.files:
                yield file

    async def undo(self, ids: Sequence[int] = (), *, all: bool = False, timeout: float | None = None) -> Undone:
        """Take back these actions, or all that stand."""
        return await self._ask(UndoActions(list(ids), all), Undone, timeout)

    async def history(self) -> AsyncIterator[HistoryEntry]:
        """Actions, oldest first."""
        async for page in self.pages(ListHistory(), History):
            for entry in page.actions:
                yield entry

    async def savings(self) -> Savings:
        """What was saved, and what could be."""
        return await self._ask(GetSavings(), Savings, self._timeout)

    async def start_job(
        self, name: str, parameters: bytes, summary: str = "", *, detach: bool = False
    ) -> JobStarted:
        """Have the daemon run a job. `parameters` is the MessagePack of its struct, with absolute paths.

        It ends when this client is closed or its process ends, unless it is told to `detach`.
        """
        return await self._ask(StartJob(name, parameters, summary, detach), JobStarted, self._timeout)

    async def jobs(self) -> list[JobState]:
        """All that wait or run, and those that ended lately."""
        return (await self._ask(ListJobs(), Jobs, self._timeout)).jobs

    async def wait_job(self, id: int, *, timeout: float | None = None) -> JobState:
        """Return when a job has ended, however it did."""
        return await self._ask(WaitJob(id), JobState, timeout)

    async def follow_job(self, id: int) -> AsyncIterator[JobState]:
        """How a job is, again and again, until it has ended; that is the last one."""
        async with self.events(["job-progress", "job-ended"]) as events:
            state = next((job for job in await self.jobs() if job.id == id), None)
            if state is None or state.state not in ("waiting", "running"):
                yield await self.wait_job(id)
                return
            yield state
            async for told in events:
                match told.event:
                    case JobProgress(number, done, total, what) if number == id:
                        state = msgspec.structs.replace(state, state="running", done=done, total=total, what=what)
                        yield state
                    case JobEnded(number) if number == id:
                        yield await self.wait_job(id)
                        return

    async def job_result(self, id: int) -> bytes:
        """The result of a job that is done: the MessagePack of its struct."""
        result = bytearray()
        while True:
            part = await self._ask(GetResult(id, len(result)), JobResult, self._timeout)
            result += part.part
            if len(result) >= part.total or not part.part:
                return bytes(result)

    async def cancel_job(self, id: int, *, timeout: float | None = None) -> JobState:
        """End a job, and return when it has ended."""
        return await self._ask(CancelJob(id), JobState, timeout)

    async def pages(self, request: Listing, kind: type[A]) -> AsyncIterator[A]:
        """A list's answers as they come, page by page."""
        while True:
            page = await self._ask(request, kind, self._timeout)
            yield page
            cursor: str = getattr(page, "cursor", "")
            if not cursor:
                return
            request = msgspec.structs.replace(request, cursor=cursor)

    def events(self, kinds: Collection[str] | None = None) -> AsyncEvents:
        """Events from now on (await its `ready` to know when that is), for `async for`."""
        if self._link is None:
            raise RuntimeError("connect the client first, as `async with` does")
        events = AsyncEvents(_Link(self._context, zmq.SUB, self._address, self._keys), self._address.events, kinds)
        self._events.append(events)
        return events

    async def _ask(self, request: Request, kind: type[A], timeout: float | None) -> A:
        if self._link is None or self._reader is None:
            raise RuntimeError("connect the client first, as `async with` does")
        if self._reader.done():
            self._reader.result()
        self._number += 1
        number = self._number
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout):
                await self._link.socket.send(encode(number, request))
                return expect(await answer, kind)
        except TimeoutError as error:
            raise TimedOutError(f"{shown(self._address.name)}: the daemon did not answer in time") from error
        finally:
            del self._waiting[number]

    async def _read(self, link: _Link) -> None:
        """Hand each answer to whoever waits for it, until the connection ends."""
        try:
            while True:
                answered = decode_answer((await link.receive())[-1])
                numbers = list(self._waiting) if answered.id == 0 else [answered.id]
                for number in numbers:
                    future = self._waiting.get(number)
                    if future is not None and not future.done():
                        future.set_result(answered.answer)
        except Exception as error:
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(error)
            raise


class AsyncEvents:
    """Events as they come, for `async for`. It ends with NoDaemonError when the daemon does."""

    def __init__(self, link: _Link, endpoint: str, kinds: Collection[str] | None) -> None:
        self._link = link
        self._ready = b"!" + secrets.token_hex(8).encode()
        self._early: list[list[bytes]] = []
        self._is_ready = False
        for topic in [*(kind.encode() for kind in (kinds if kinds is not None else [""])), self._ready]:
            link.socket.subscribe(topic)
        link.socket.connect(endpoint)

    async def ready(self) -> None:
        """Return when the daemon is known to send: what happens from then on is not missed."""
        while not self._is_ready:
            message = await self._link.receive()
            if message[0] == self._ready:
                self._is_ready = True
            elif not message[0].startswith(b"!"):
                self._early.append(message)

    def __aiter__(self) -> AsyncEvents:
        return self

    async def __anext__(self) -> Told:
        while True:
            message = self._early.pop(0) if self._early else await self._link.receive()
            if not message[0].startswith(b"!"):
                return decode_event(message[-1])
            self._is_ready |= message[0] == self._ready

    async def __aenter__(self) -> AsyncEvents:
        await self.ready()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        self._link.close()


class _Link:
    """A socket with its monitor, as `loractl.link.Link`."""

    def __init__(self, context: zmq.asyncio.Context, kind: int, address: Address, keys: Keys) -> None:
        self._address = address
        self._connected = False
        self.socket = context.socket(kind)
        try:
            prepare(self.socket, address, keys)
            self._monitor = self.socket.get_monitor_socket(MONITORED)
        except BaseException:
            self.socket.close()
            raise
        self._ended: Exception | None = None
        self._poller = zmq.asyncio.Poller()
        self._poller.register(self.socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)

    async def receive(self) -> list[bytes]:
        """The next message. Raises NoDaemonError and RefusedError."""
        while True:
            ready = dict(await self._poller.poll())
            if self.socket in ready:
                return await self.socket.recv_multipart()
            if self._monitor in ready:
                ended = trouble(await self._monitor.recv_multipart(), self._address, self._connected)
                if ended is not None:
                    raise ended
                self._connected = True

    def close(self) -> None:
        if not self.socket.closed:
            self.socket.disable_monitor()
            self._monitor.close()
            self.socket.close()
