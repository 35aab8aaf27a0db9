"""`loractl resize` and `loractl merge`: what they print and write, and what is left when they are stopped."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import lorakit
from tests.integration.scanning import loractl
from tests.toolkit.change.files import deltas, distance, kohya


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    return kohya(tmp_path / "a.safetensors")


def told(*arguments: object, code: int = 0) -> Any:
    ended = loractl(*arguments, "--local")
    assert ended.returncode == code, ended.stderr
    return ended


def test_json_is_what_the_api_gives(lora: Path, tmp_path: Path) -> None:
    """And the same layers, bit for bit."""
    for command, options, api in (
        ("resize", ["--rank", 3], lambda out: lorakit.resize(lora, out, rank=3)),
        (
            "merge",
            [lora, "--weights", "0.7,-0.2", "--rank", 4, "--exclude", "*conv1"],
            lambda out: lorakit.merge([lora, lora], out, weights=(0.7, -0.2), rank=4, exclude=["*conv1"]),
        ),
    ):
        found = json.loads(
            told(command, lora, *options, "-o", tmp_path / f"{command}.safetensors", "--json").stdout
        )
        wanted = api(tmp_path / f"api-{command}.safetensors")
        places = [one["outputs"][0].pop("path") for one in (found, wanted)]
        sizes = [one["outputs"][0].pop("bytes") for one in (found, wanted)]
        assert found == wanted
        assert abs(sizes[0] - sizes[1]) < 64
        layers = [load_file(place) for place in places]
        assert all(np.array_equal(values, layers[1][name]) for name, values in layers[0].items())


def test_people_see_ranks_sizes_and_what_is_lost(lora: Path, tmp_path: Path) -> None:
    ended = told("resize", lora, "--sv-fro", "0.9", "--rank", 6, "-o", tmp_path / "out.pt", "--dtype", "float16")
    assert "from" in ended.stdout
    assert "written" in ended.stdout
    assert "float16" in ended.stdout
    assert "‖ΔW‖ = 0." in ended.stdout
    ended = told("merge", lora, lora, "-o", tmp_path / "m.safetensors", "--check")
    assert "would be" in ended.stdout
    assert " 16 " in ended.stdout
    assert not (tmp_path / "m.safetensors").exists()


def test_options_reach_the_job(lora: Path, tmp_path: Path) -> None:
    """Each of them changes what is written as the API's does."""
    (tmp_path / "ranks.json").write_text('{"*": 2}')
    for options, api in (
        (["--rank-per-block", tmp_path / "ranks.json"], {"rank_per_block": {"*": 2}}),
        (["--budget", "9.5kB"], {"budget": 9500}), (["--prune", "0.5"], {"prune": 0.5}),
        (["--sv-ratio", "3"], {"sv_ratio": 3.0}), (["--sv-cumulative", "0.5"], {"sv_cumulative": 0.5}),
        (["--sv-knee"], {"sv_knee": True}),
        (["--method", "truncate", "--rank", 2], {"method": "truncate", "rank": 2}),
    ):  # fmt: skip
        found = json.loads(
            told("resize", lora, *options, "-o", tmp_path / "o.safetensors", "--check", "--json").stdout
        )
        assert found["ranks"] == lorakit.resize(lora, tmp_path / "o.safetensors", check=True, **api)["ranks"]
    options = ["--method", "ties", "--density", "0.2", "--normalize", "--include", "*attn1*", "--seed", 3]
    told("merge", lora, lora, *options, "-o", tmp_path / "m.safetensors")
    lorakit.merge(
        [lora, lora], tmp_path / "api.safetensors", method="ties", density=0.2, normalize=True, include=["*attn1*"]
    )
    assert distance(deltas(tmp_path / "m.safetensors"), deltas(tmp_path / "api.safetensors")) == 0


def test_wrong_usage_ends_with_2_in_one_line(lora: Path, tmp_path: Path) -> None:
    (tmp_path / "there.safetensors").write_text("before")
    (tmp_path / "bad.json").write_text("{")
    for arguments, word in (
        (["resize", lora, "-o", tmp_path / "there.safetensors", "--rank", 2], "--force"),
        (["resize", lora, "-o", tmp_path / "x.gguf", "--rank", 2], "suffix"),
        (["resize", lora, "-o", tmp_path / "x.pt"], "--rank"),
        (["resize", lora, "-o", tmp_path / "x.pt", "--rank-per-block", tmp_path / "bad.json"], "bad.json"),
        (["resize", lora, "-o", tmp_path / "x.pt", "--rank-per-block", tmp_path / "none.json"], "none.json"),
        (["resize", tmp_path / "none.safetensors", "-o", tmp_path / "x.pt", "--rank", 2], "none.safetensors"),
        (["merge", lora, lora, "-o", tmp_path / "x.pt", "--weights", "1"], "1 weights for 2"),
        (["merge", lora, lora, "-o", tmp_path / "x.pt", "--weights", "1,-1"], "cancel"),
        (["resize", lora, "-o", tmp_path / "x.pt", "--rank", 10**20], "64 bits"),
    ):
        lines = told(*arguments, code=2).stderr.splitlines()
        assert len(lines) == 1
        assert word in lines[0]
    assert "such as 0.7" in told("merge", lora, "-o", tmp_path / "x.pt", "--weights", "a", code=2).stderr
    checked = json.loads(
        told("resize", lora, "-o", tmp_path / "there.safetensors", "--rank", 2, "--check", "--json", code=2).stdout
    )
    assert not checked["is_valid"]
    assert (tmp_path / "there.safetensors").read_text() == "before"
    assert not (tmp_path / "x.pt").exists()
    told("resize", lora, "-o", tmp_path / "there.safetensors", "--rank", 2, "--force")
    assert set(lorakit.metadata(tmp_path / "there.safetensors")["architecture_info"]["ranks"].values()) <= {2}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with 64 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a file system can only be mounted by root")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_full_disk_is_told_and_nothing_is_left(small_disk: Path, tmp_path: Path, suffix: str) -> None:
    lora = kohya(tmp_path / "large.safetensors", sides=(400, 300))
    for arguments in (["resize", lora, "--rank", 7], ["merge", lora, lora]):
        lines = told(*arguments, "-o", small_disk / f"out{suffix}", code=2).stderr.splitlines()
        assert len(lines) == 1
        assert "no space left" in lines[0]
        assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize("command", ["resize", "merge"])
def test_a_kill_leaves_the_whole_or_nothing(tmp_path: Path, command: str) -> None:
    """SIGKILL at nine places of the run; what was there before stays until the new file is whole."""
    lora = kohya(tmp_path / "a.safetensors", sides=(900, 700), rank=16)
    out = tmp_path / "out.safetensors"
    arguments = [lora, "--rank", 15] if command == "resize" else [lora, lora, "--rank", 15]
    words = [
        sys.executable,
        "-m",
        "loractl.cli",
        command,
        *map(str, arguments),
        "-o",
        str(out),
        "--local",
        "--force",
    ]
    start = time.monotonic()
    subprocess.run(words, check=True, capture_output=True)
    whole = time.monotonic() - start
    wanted = deltas(out)
    out.write_bytes(b"before")
    for place in range(1, 10):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(whole * place / 9)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        if out.read_bytes() != b"before":
            assert distance(deltas(out), wanted) < 1e-12
            out.write_bytes(b"before")
        left = {path.name for path in tmp_path.iterdir()} - {"a.safetensors", "out.safetensors"}
        # A kill between link and rename leaves the whole file's second name, hidden.
        assert all(name.startswith(".lorad-") for name in left)
        assert len(left) <= 1
        for name in left:
            (tmp_path / name).unlink()
