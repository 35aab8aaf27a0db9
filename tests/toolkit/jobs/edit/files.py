"""Files to be edited, how they look, and edits by the job itself."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loracore.jobs.edit import EditParameters, EditResult
from loracore.jobs.job import Alone
from lorakit.jobs.edit.job import JOB
from tests.builders.architectures import sd15
from tests.builders.weights import random_weights
from tests.builders.write import write_safetensors

TRAINED = {
    "ss_network_dim": "8", "ss_network_alpha": "4", "ss_tag_frequency": '{"10_cat": {"grüße": 3}}',
    "ss_dataset_dirs": '{"/home/anna/cats": {}}', "modelspec.title": "cats", "format": "pt",
}  # fmt: skip


def lora(path: Path, metadata: Mapping[str, str] | None = TRAINED, *, seed: int = 1) -> Path:
    """A file of 0.3 MB, some days old to the nanosecond."""
    write_safetensors(str(path), random_weights(sd15(4, width=32, every=3), seed), metadata=metadata)
    os.utime(path, ns=(1_700_000_000_123_456_789, 1_600_000_000_987_654_321))
    return path


def edit(*paths: Path | str | bytes, **options: Any) -> EditResult:
    return JOB.run(EditParameters(tuple(map(os.fsencode, paths)), **options), Alone(2))


def data_of(path: Path) -> bytes:
    """All behind the header."""
    content = path.read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]


def look(path: Path) -> tuple[Any, ...]:
    """All that an edit leaves as it is, and undo brings back."""
    status = path.stat()
    names = os.listxattr(path)
    attributes = {name: os.getxattr(path, name) for name in names}
    return status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, attributes


def left(folder: Path) -> list[str]:
    """What has a hidden name there."""
    return [name for name in os.listdir(folder) if name.startswith(".")]
