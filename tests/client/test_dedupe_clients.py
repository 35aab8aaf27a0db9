"""De-duplication by `loractl.Client` and `loractl.AsyncClient` (SPEC section 10)."""

from __future__ import annotations

import asyncio
import queue
import threading

import pytest

import loractl
from loracore.control import DaySummary, DedupeProgress
from loracore.errors import RefusedError, TimedOutError
from tests.daemon.control.acting import Acts
from tests.daemon.control.serving import SECONDS, Served


def test_every_request_has_a_method(acting: Served, acts: Acts) -> None:
    with loractl.Client(acting.socket) as client:
        plan = client.plan_dedupe("delete", ["newest"], ["file", "tensors"])
        assert client.apply_dedupe("delete", ["newest"]).bytes == plan.bytes > 0
        assert client.undo([1]).done == 1
        assert client.undo(all=True).done == 2
        assert list(client.history()) == acts.entries
        assert client.savings().possible_bytes > 0
        with pytest.raises(RefusedError, match="keep"):
            client.plan_dedupe(keep=["best"])


def test_every_request_has_an_async_method(acting: Served, acts: Acts) -> None:
    async def body() -> None:
        async with loractl.AsyncClient(acting.socket) as client:
            plan = await client.plan_dedupe("delete")
            assert (await client.apply_dedupe("delete")).bytes == plan.bytes
            assert (await client.undo([1])).done == 1
            assert [one async for one in client.history()] == acts.entries
            assert (await client.savings()).possible_bytes > 0

    asyncio.run(body())


def test_progress_is_heard_until_the_answer_comes(acting: Served, acts: Acts) -> None:
    """What is not progress, and late answers to what was given up, are passed over."""
    held = acts.held = queue.Queue()
    heard: list[DedupeProgress] = []
    steps = [DedupeProgress(done, 3, done * 100, 300) for done in range(1, 4)]
    with loractl.Client(acting.socket) as client:
        with pytest.raises(TimedOutError):
            client.apply_dedupe("delete", timeout=0.05)
        _, late = held.get(timeout=SECONDS)

        def work() -> None:
            plan, reply = held.get(timeout=SECONDS)
            late(acts.applied(plan))
            acting.server.tell(DaySummary("2026-11-21T00:00:00Z", {}, 0, 0, 0))
            for step in steps:
                acting.server.tell(step)
            # As soon as the last one was heard.
            assert all_heard.wait(SECONDS)
            reply(acts.applied(plan))

        all_heard = threading.Event()

        def progress(step: DedupeProgress) -> None:
            heard.append(step)
            if step == steps[-1]:
                all_heard.set()

        worker = threading.Thread(target=work)
        worker.start()
        assert client.apply_dedupe("delete", progress=progress, timeout=SECONDS).done == 3
        worker.join()
    assert heard == steps


def test_an_async_client_hears_progress_too(acting: Served, acts: Acts) -> None:
    """What goes wrong where it is heard ends the request."""
    held = acts.held = queue.Queue()
    steps = [DedupeProgress(done, 3, done * 100, 300) for done in range(1, 4)]

    async def body() -> None:
        heard: asyncio.Queue[DedupeProgress] = asyncio.Queue()
        async with loractl.AsyncClient(acting.socket, timeout=SECONDS) as client:
            applying = asyncio.create_task(
                client.apply_dedupe("delete", progress=heard.put_nowait, timeout=SECONDS)
            )
            plan, reply = await asyncio.to_thread(held.get, timeout=SECONDS)
            for step in steps:
                acting.server.tell(step)
            assert [await heard.get() for _ in steps] == steps
            reply(acts.applied(plan))
            assert (await applying).done == 3
            failing = asyncio.create_task(client.apply_dedupe("delete", progress=lambda _: 1 // 0))
            await asyncio.to_thread(held.get, timeout=SECONDS)
            acting.server.tell(steps[0])
            with pytest.raises(ZeroDivisionError):
                await failing
            assert (await client.savings()).possible_bytes > 0

    asyncio.run(body())
