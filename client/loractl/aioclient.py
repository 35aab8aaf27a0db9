"""`loractl.AsyncClient`: the same as `loractl.Client`, for asyncio. Any number of requests may wait at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from typing import Any

import msgspec
import zmq.asyncio

from loracore.control import Answer, JobEnded, JobProgress, JobState, Request, Told
from loracore.errors import TimedOutError
from loracore.jobs.job import P, R, Spec
from loracore.paths import shown
from loractl.address import Address, find_daemon
from loractl.client import Keys, Link
from loractl.frames import A, Subscription, decode_answer, encode
from loractl.job_requests import run
from loractl.session import Requests
from loractl.steps import Ask, Hear, Listing, Steps, T, Whole, advance, ask, next_page

_CONNECT = "connect the client first, as `async with` does"


class AsyncClient(Requests):
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

    async def pages(self, request: Request, kind: type[A]) -> AsyncIterator[A]:
        """A list's answers as they come, page by page."""
        following: Request | None = request
        while following is not None:
            page = await self._perform(ask(following, kind, self._timeout))
            yield page
            following = next_page(following, page)

    async def run(
        self,
        spec: Spec[..., P, R],
        parameters: P,
        *,
        summary: str = "",
        progress: Callable[[JobProgress], None] | None = None,
    ) -> R:
        """As of `Client`."""
        return await self._perform(run(spec, parameters, summary, progress, self._timeout))

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

    def events(self, kinds: Collection[str] | None = None) -> AsyncEvents:
        """Events from now on (await its `ready` to know when that is), for `async for`."""
        if self._link is None:
            raise RuntimeError(_CONNECT)
        events = AsyncEvents(_Link(self._context, zmq.SUB, self._address, self._keys), self._address.events, kinds)
        self._events.append(events)
        return events

    async def _items(self, listing: Listing[T]) -> AsyncIterator[T]:
        whole = Whole(listing.join)
        async for page in self.pages(listing.request, listing.kind):
            for item in whole.add(listing.items(page)):
                yield item
        for item in whole.end():
            yield item

    async def _perform(self, steps: Steps[R]) -> R:
        events: AsyncEvents | None = None
        try:
            step = advance(steps)
            while isinstance(step, Ask):
                if step.hear is not None and events is None:
                    events = self.events(step.hear.topics)
                    async with self._limit(self._timeout):
                        await events.ready()
                answer = self._exchange(step)
                if step.hear is not None and events is not None:
                    answer = _hearing(events, step.hear, answer)
                step = advance(steps, await answer)
            return step.value
        finally:
            steps.close()
            if events is not None:
                await events.close()
                self._events.remove(events)

    async def _exchange(self, asked: Ask) -> Answer:
        """Send a request and wait for its answer."""
        if self._link is None or self._reader is None:
            raise RuntimeError(_CONNECT)
        if self._reader.done():
            self._reader.result()
        self._number += 1
        number = self._number
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            async with self._limit(asked.timeout):
                await self._link.socket.send(encode(number, asked.request))
                return await answer
        finally:
            del self._waiting[number]

    @contextlib.asynccontextmanager
    async def _limit(self, timeout: float | None) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(timeout):
                yield
        except TimeoutError as error:
            raise TimedOutError(f"{shown(self._address.name)}: the daemon did not answer in time") from error

    async def _read(self, link: _Link) -> None:
        """Hand each answer to the request that waits for it, until the connection ends."""
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
        self._subscription = Subscription(kinds)
        link.subscribe(endpoint, self._subscription.topics)

    async def ready(self) -> None:
        """Return when the daemon is known to send: what happens from then on is not missed."""
        while not self._subscription.in_force:
            self._subscription.read_early(await self._link.receive())

    def __aiter__(self) -> AsyncEvents:
        return self

    async def __anext__(self) -> Told:
        told = self._subscription.early.pop(0) if self._subscription.early else None
        while told is None:
            told = self._subscription.read(await self._link.receive())
        return told

    async def __aenter__(self) -> AsyncEvents:
        await self.ready()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        self._link.close()


async def _hearing(events: AsyncEvents, hear: Hear, answer: Coroutine[Any, Any, Answer]) -> Answer:
    """The answer; events are heard until it is there."""

    async def follow() -> None:
        async for told in events:
            hear(told.event)

    tasks = answering, following = asyncio.create_task(answer), asyncio.create_task(follow())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            following.result()
        return await answering
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Link(Link[zmq.asyncio.Socket]):
    """As of `Client`, to be awaited."""

    def __init__(self, context: zmq.asyncio.Context, kind: int, address: Address, keys: Keys) -> None:
        super().__init__(context, kind, address, keys)
        self._poller = zmq.asyncio.Poller()
        self.register(self._poller)

    async def receive(self) -> list[bytes]:
        """The next message. Raises NoDaemonError and RefusedError."""
        while True:
            ready = dict(await self._poller.poll())
            if self.socket in ready:
                return await self.socket.recv_multipart()
            if self.monitor in ready:
                self.check(await self.monitor.recv_multipart())
