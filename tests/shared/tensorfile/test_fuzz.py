"""Thousands of mutated headers: each gives a sound container or a FileError, and nothing else escapes."""

from __future__ import annotations

import importlib.util
import io
import os
import random
import subprocess
import sys
import time
import tracemalloc

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save as save_bytes

from tests.shared.tensorfile.fuzz_headers import examine, seeds, wrap

#: Seconds that one input of a few kilobytes may take: a guard against hanging, far above what any takes.
HANG = 5.0
#: Bytes that reading one input of a few kilobytes may hold.
PEAK = 32 << 20

TENSORS = {
    "lora_unet_a.lora_down.weight": torch.arange(6.0).reshape(2, 3),
    "lora_unet_a.lora_up.weight": torch.arange(8, dtype=torch.bfloat16).reshape(4, 2),
    "lora_unet_a.alpha": torch.tensor(2.0, dtype=torch.float16),
}
VIEWS = {**TENSORS, "view": torch.arange(12.0).reshape(3, 4).t(), "spread": torch.ones(1).expand(3, 2)}


def written(value: object, legacy: bool) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


REAL: list[tuple[bytes, bytes]] = [
    (b"real.safetensors", save_bytes(TENSORS, {"ss_network_dim": "2"})),
    (b"real.pt", written({"state_dict": VIEWS, "epoch": 1}, legacy=False)),
    (b"real.pt", written({"state_dict": VIEWS, "epoch": 1}, legacy=True)),
]
#: A pickle alone is wrapped after it was mutated, so that the zip's directory still holds.
INPUTS = [*REAL, *((bytes([kind]), data) for kind, data in seeds())]

NUMBERS = [
    0,
    1,
    2,
    127,
    128,
    255,
    1 << 15,
    (1 << 16) - 1,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 62,
    (1 << 64) - 1,
]
WORDS = [
    b"-1",
    b"0",
    b"1e9",
    b"9" * 30,
    b"null",
    b"[]",
    b"{",
    b'"',
    b",",
    b"PK\x05\x06",
    b"PK\x01\x02",
    b"(",
    b"R",
    b"t",
]

#: (what, where, how much): `where` is a fraction of the input's length, so that it fits every input.
mutations = st.lists(
    st.tuples(
        st.sampled_from(["flip", "number", "word", "cut", "delete", "repeat", "move"]),
        st.floats(0, 1, exclude_max=True),
        st.integers(0, 1 << 16),
    ),
    min_size=1,
    max_size=6,
)


def mutate(data: bytes, changes: list[tuple[str, float, int]]) -> bytes:
    text = bytearray(data)
    for what, where, much in changes:
        at = int(where * len(text))
        match what:
            case "flip" if text:
                text[at] ^= 1 << much % 8
            case "number":
                width = (1, 2, 4, 8)[much % 4]
                number = NUMBERS[much // 4 % len(NUMBERS)] % (1 << 8 * width)
                text[at : at + width] = number.to_bytes(width, "little")
            case "word":
                word = WORDS[much % len(WORDS)]
                text[at : at + (len(word) if much & 1 << 10 else 0)] = word
            case "cut":
                del text[at:]
            case "delete":
                del text[at : at + 1 + much % 40]
            case "repeat":
                text[at:at] = text[at : at + 1 + much % 200]
            case "move":
                target = much % (len(text) + 1)
                text[target : target + 30] = text[at : at + 30]
    return bytes(text)


def file_of(choice: int, changes: list[tuple[str, float, int]]) -> tuple[bytes, bytes]:
    name, data = INPUTS[choice]
    changed = mutate(data, changes)
    return wrap(name[0], changed) if len(name) == 1 else (name, changed)


def test_the_inputs_are_sound() -> None:
    """Unchanged, every input that the others are made from is a container that is read in full."""
    assert all(examine(*file_of(choice, [])) for choice in range(len(INPUTS)))


@pytest.mark.parametrize("choice", range(len(INPUTS)))
def test_nothing_but_a_file_error_escapes(choice: int) -> None:
    """A changed file gives layers that lie inside the file, or a FileError, in bounded time."""

    @settings(max_examples=1000, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(mutations)
    def check(changes: list[tuple[str, float, int]]) -> None:
        name, content = file_of(choice, changes)
        start = time.monotonic()
        examine(name, content)
        assert time.monotonic() - start < HANG

    check()


def test_memory_stays_bounded() -> None:
    """Reading a changed file of a few kilobytes never holds more than a few megabytes."""
    draw = random.Random(7)
    kinds = ["flip", "number", "word", "cut", "delete", "repeat", "move"]
    tracemalloc.start()
    try:
        for _ in range(1500):
            changes = [
                (draw.choice(kinds), draw.random(), draw.randrange(1 << 16)) for _ in range(draw.randint(1, 5))
            ]
            name, content = file_of(draw.randrange(len(INPUTS)), changes)
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            examine(name, content)
            _, peak = tracemalloc.get_traced_memory()
            assert peak - before < PEAK, changes
    finally:
        tracemalloc.stop()


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed")
def test_coverage_guided() -> None:
    """A few seconds of coverage-guided fuzzing find no input that anything else escapes from."""
    command = [sys.executable, "-m", "tests.shared.tensorfile.fuzz_headers", "--seconds", "5"]
    # The kernel counts our own memory as the peak of what we start, which the fuzzer would take for its own; the
    # peak of what a shell starts is its own.
    shell = ["sh", "-c", '"$@"; exit $?', "sh", *command]
    subprocess.run(shell, check=True, timeout=100, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
