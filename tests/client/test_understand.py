"""`loractl hashes` and `metadata`: what they print and write, with no daemon at hand (SPEC sections 4, 6, 7)."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from tests.builders.architectures import sd15
from tests.builders.weights import random_weights
from tests.builders.write import write_safetensors
from tests.integration.scanning import loractl

METADATA = {
    "ss_output_name": "a | b\x1b[31m<script>", "ss_network_dim": "128", "ss_learning_rate": "0.0001",
    "ss_tag_frequency": json.dumps({"10_cat": {f"tag{number}": 1000 - number for number in range(200)}}),
}  # fmt: skip


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    layers = random_weights(sd15(4, width=16, every=10), 1)
    return Path(write_safetensors(str(tmp_path / "a.safetensors"), layers, metadata=METADATA))


def text(*arguments: object, code: int = 0) -> str:
    ended = loractl(*arguments, "--local")
    assert ended.returncode == code, ended.stderr
    return ended.stdout if code == 0 else ended.stderr


def test_hashes_are_printed(lora: Path) -> None:
    """One object with --json; else a line for each hash, whole."""
    whole = hashlib.sha256(lora.read_bytes()).hexdigest()
    found = json.loads(text("hashes", lora, "--json"))
    assert (found["path"], found["sha256"], found["autov2"]) == (str(lora), whole, whole[:10])
    assert found["size"] == lora.stat().st_size
    assert set(found) >= {"autov1", "autov3", "sshs_model_hash", "sshs_legacy_hash", "blake3", "crc32"}
    lines = dict(line.split(None, 1) for line in text("hashes", lora).splitlines())
    assert lines["SHA256"] == whole
    assert lines["AutoV3"] == found["autov3"]


def test_metadata_are_printed(lora: Path) -> None:
    """The blocks of SPEC section 7 with --json; else lines in which nothing can steer the terminal."""
    found = json.loads(text("metadata", lora, "--json"))
    assert list(found) == [
        "file_info", "model_info", "training_info", "architecture_info", "validation_info", "extraction_time",
    ]  # fmt: skip
    assert found["model_info"]["network_rank"] == 4
    printed = text("metadata", lora)
    assert "\x1b" not in printed
    assert "ss_network_dim states rank 128, but the modules have 4" in printed
    assert "tag0" in printed
    assert "tag199" not in printed


def test_metadata_are_exported_by_suffix(lora: Path, tmp_path: Path) -> None:
    """JSON has all; text and Markdown can be read by people, and hold no control character and no markup."""
    for suffix in ("json", "txt", "md"):
        assert text("metadata", lora, "-o", tmp_path / f"out.{suffix}") == ""
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["training_info"]["learning_rate"] == 0.0001
    assert len(found["training_info"]["tag_frequencies"]) == 200
    for suffix in ("txt", "md"):
        written = (tmp_path / f"out.{suffix}").read_text()
        assert "\x1b" not in written
        assert "ss" in written
        assert "tag7" in written
    rows = [line for line in (tmp_path / "out.md").read_text().splitlines() if line.startswith("| ")]
    assert rows
    assert all(row.replace("\\|", "").count("|") == 3 for row in rows)
    assert "<script>" not in (tmp_path / "out.md").read_text().replace("\\<", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "out.json", "out.md", "out.txt"]
    both = text("metadata", lora, "-o", tmp_path / "out.json", "--json")
    assert json.loads(both)["model_info"] == found["model_info"]


def test_wrong_usage_and_bad_files_end_with_two(lora: Path, tmp_path: Path) -> None:
    """An unknown suffix, a folder that is not there, a damaged file: one line that names it."""
    assert "out.pdf" in text("metadata", lora, "-o", tmp_path / "out.pdf", code=2)
    assert "nowhere" in text("metadata", lora, "-o", tmp_path / "nowhere" / "out.md", code=2)
    os.truncate(lora, 300)
    for command in ("hashes", "metadata"):
        told = text(command, lora, code=2)
        assert "a.safetensors" in told
        assert len(told.strip().splitlines()) == 1
