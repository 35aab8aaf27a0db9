"""What the hasher says of a GPU that it opens: nothing stops it, and a GPU that it has no use for is told."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from blake3 import blake3

from lorad.pipeline import hasher as hashing
from lorad.pipeline.arena import Arena
from lorad.pipeline.cuda import opening
from lorad.pipeline.cuda.device import Device
from lorad.pipeline.cuda.digester import CudaDigester
from lorad.pipeline.cuda.lanes import SPAN
from lorad.pipeline.hasher import Hasher, _Opening
from lorad.pipeline.protocol import Filled, Using

Emulated = Callable[..., ModuleType]


def new_arena() -> Arena:
    arena = Arena.create(2 * SPAN, 3)
    os.close(arena.fd)
    return arena


def opened(*, must: bool) -> _Opening:
    found = _Opening(new_arena(), 64 << 20, must=must)
    found.run()
    return found


def fail(*args: Any) -> None:
    raise OSError("out of luck")


def test_a_gpu_that_works_is_used_where_it_must_be(emulated: Emulated) -> None:
    """And is not spent then."""
    emulated()
    found = opened(must=True)
    assert found.gpu is not None
    assert (found.using.backend, found.using.worse, found.using.spent) == ("cuda", False, False)


def test_a_slower_gpu_is_spent(emulated: Emulated) -> None:
    """CUDA's own memory stays taken for as long as the process lives."""
    emulated()
    found = opened(must=False)
    assert found.gpu is None
    assert (found.using.backend, found.using.worse, found.using.spent) == ("cpu", False, True)


@pytest.mark.parametrize("must", [False, True])
@pytest.mark.parametrize(("step", "spent"), [("roomiest", False), ("open_gpu", True), ("check", True)])
def test_whatever_fails_is_told(
    emulated: Emulated, monkeypatch: pytest.MonkeyPatch, must: bool, step: str, spent: bool
) -> None:
    """Before a GPU was entered, nothing is taken of it."""
    emulated()
    monkeypatch.setattr(opening, step, fail)
    assert opened(must=must).using == Using("cpu", "no GPU: out of luck", worse=must, spent=spent)


def test_a_cpu_that_cannot_be_measured_is_told(emulated: Emulated, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the reason, the hasher goes on."""
    emulated()
    monkeypatch.setattr(opening, "cpu_rate", fail)
    assert opened(must=False).using == Using("cpu", "no GPU: out of luck", spent=True)


def test_missing_cupy_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it was asked for."""
    monkeypatch.setattr(hashing, "find_spec", lambda name: None)
    note = "no GPU: CuPy is not there; pip install 'lorad[gpu]'"
    assert opened(must=True).using == Using("cpu", note, worse=True)


def test_a_gpu_that_fails_when_it_is_taken_over_is_not_used(
    emulated: Emulated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU digests from the first slab on."""
    emulated()
    arena, notes = new_arena(), []
    hasher = Hasher(arena, notes.append)
    digester = CudaDigester(arena, Device(0), 1)
    monkeypatch.setattr(digester, "adopt", fail)
    hasher.use(digester)
    assert len(notes) == 1
    assert "out of luck" in notes[0]
    (answer,) = hasher.take(Filled(1, 0, [SPAN], continued=False, open=False))
    assert answer.digests == blake3(arena.slab(0)[:SPAN]).digest()
