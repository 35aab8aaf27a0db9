"""`loractl.AsyncClient`: the same for asyncio, any number of requests at once."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

import loractl
from loracore.control import Audited, Examined, FileGone, PublishedEvent, Waited
from loracore.errors import NoDaemonError, RefusedError, TimedOutError
from tests.daemon.control.serving import SECONDS, STATUS, Library, Served, serving


def run(body: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(2 * SECONDS):
            await body()

    asyncio.run(bounded())


def test_every_query_has_a_method(served: Served) -> None:
    async def body() -> None:
        async with loractl.AsyncClient(served.socket) as client:
            with loractl.Client(served.socket) as other:
                assert [group async for group in client.groups()] == list(other.groups())
                assert [one async for one in client.duplicates()] == list(other.duplicates())
                assert [file async for file in client.failed()] == list(other.failed())
                layout = next(iter(other.groups())).signature.hex()
                assert [match async for match in client.find(layout)] == list(other.find(layout))
                path = served.library.folder / "a.safetensors"
                assert await client.show(path) == other.show(path)
            assert (await client.status()).pid == STATUS.pid
            assert await client.wait() == Waited(7)
            assert await client.audit() == Audited(9, [])
            assert isinstance(await client.doctor(), Examined)
            with pytest.raises(RefusedError):
                await client.show("nothing")

    run(body)


def test_requests_do_not_wait_for_each_other(served: Served) -> None:
    """A status is answered while a wait is not; hundreds at once each get their own answer."""

    async def body() -> None:
        held = served.held = queue.Queue()
        async with loractl.AsyncClient(served.socket) as client:
            waiting = asyncio.create_task(client.wait())
            statuses = await asyncio.gather(*(client.status() for _ in range(300)))
            assert len(statuses) == 300
            assert not waiting.done()
            command = await asyncio.to_thread(held.get, timeout=SECONDS)
            command.reply(Waited(5))
            assert await waiting == Waited(5)

    run(body)


def test_events_by_async_for(served: Served) -> None:
    async def body() -> None:
        async with loractl.AsyncClient(served.socket) as client, client.events(["gone"]) as events:
            served.server.tell(PublishedEvent(1))
            served.server.tell(FileGone(b"/x"))
            async for told in events:
                assert told.event == FileGone(b"/x")
                break

    run(body)


def test_a_wait_times_out(served: Served) -> None:
    async def body() -> None:
        served.held = queue.Queue()
        async with loractl.AsyncClient(served.socket) as client:
            with pytest.raises(TimedOutError):
                await client.wait(timeout=0.05)
            assert (await client.status()).pid == STATUS.pid

    run(body)


def test_a_daemon_that_ends_ends_all_that_waits(library: Library, tmp_path: Path) -> None:
    async def body() -> None:
        with serving(library, tmp_path / "run") as served:
            held = served.held = queue.Queue()
            client = loractl.AsyncClient(served.socket)
            await client.connect()
            events = client.events()
            await events.ready()
            waits = [asyncio.create_task(client.wait()) for _ in range(3)]
            following = asyncio.ensure_future(anext(aiter(events)))
            for _ in waits:
                await asyncio.to_thread(held.get, timeout=SECONDS)
            await asyncio.to_thread(served.server.stop)
            for wait in [*waits, following]:
                with pytest.raises(NoDaemonError):
                    await wait
            with pytest.raises(NoDaemonError):
                await client.status()
            await client.close()

    run(body)


def test_no_daemon_is_said_at_once(tmp_path: Path) -> None:
    async def body() -> None:
        with pytest.raises(NoDaemonError, match="lorad --watch DIR"):
            async with loractl.AsyncClient(str(tmp_path / "nothing")):
                pass

    run(body)


def test_a_client_is_connected_first(served: Served) -> None:
    async def body() -> None:
        client = loractl.AsyncClient(served.socket)
        with pytest.raises(RuntimeError, match="connect"):
            await client.status()
        await client.close()

    run(body)
