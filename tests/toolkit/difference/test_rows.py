"""A difference as rows: the same from memory and from the files, in bounded room."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from lorakit.difference import rows
from lorakit.difference.measure import Buffers
from lorakit.difference.pairs import pair
from lorakit.models.weights import Weights


@pytest.mark.parametrize("shape", [(50, 300), (40, 8, 3, 3)])
def test_it_is_the_same_from_memory_and_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]
) -> None:
    """As often as it is asked for; a convolution is flattened."""
    rng = np.random.default_rng(0)
    first, second = (rng.standard_normal(shape).astype(np.float16) for _ in range(2))
    save_file({"a.weight": first}, tmp_path / "base.safetensors")
    save_file({"a.weight": second}, tmp_path / "tuned.safetensors")
    monkeypatch.setattr(rows, "_PIECE", 1000)
    wanted = (second.astype(np.float32) - first).reshape(shape[0], -1)
    with (
        Weights(os.fsencode(tmp_path / "base.safetensors")) as base,
        Weights(os.fsencode(tmp_path / "tuned.safetensors")) as tuned,
    ):
        (one,) = pair(base, tuned).pairs
        for size, whole in ((1 << 30, True), (1000, False)):
            with rows.opened(one, (base, tuned), rows.Room(size), Buffers(), 0) as found:
                assert (found.whole is not None) == whole
                assert found.shape == wanted.shape
                for _ in range(2):
                    assert np.array_equal(np.concatenate([piece.copy() for piece in found.pieces()]), wanted)


def test_room_is_shared() -> None:
    """Who does not find enough waits for the others; who wants more than there is waits for all."""
    room = rows.Room(100)
    entered, done = threading.Event(), threading.Event()

    def greedy() -> None:
        with room.take(1000):
            entered.set()
        done.set()

    with room.take(60):
        thread = threading.Thread(target=greedy)
        thread.start()
        with room.take(40):
            assert not entered.is_set()
    assert done.wait(30)
    thread.join()
