"""Inputs that change while they are read."""

from __future__ import annotations

import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from loracore.adapter import read_adapter
from loracore.errors import ChangedFile
from loracore.jobs.bake import BakeParameters
from loracore.jobs.change import Changed, Writing
from loracore.jobs.convert import ConvertParameters
from loracore.jobs.job import Alone
from loracore.jobs.merge import MergeParameters
from loracore.jobs.resize import ResizeParameters
from lorakit.jobs.bake import job as bake
from lorakit.jobs.convert import job as convert
from lorakit.jobs.merge import job as merge
from lorakit.jobs.resize import job as resize
from tests.toolkit.change.files import kohya
from tests.toolkit.change.libraries import clip
from tests.toolkit.change.libraries import kohya as adapting

Run = Callable[[Path, Path, Alone], Changed]


def _resize(source: Path, output: Path, context: Alone) -> Changed:
    return resize.run(ResizeParameters(os.fsencode(source), Writing(os.fsencode(output)), rank=2), context)


def _merge(source: Path, output: Path, context: Alone) -> Changed:
    other = os.fsencode(kohya(source.with_name("other.safetensors"), seed=1))
    return merge.run(MergeParameters((other, os.fsencode(source)), Writing(os.fsencode(output))), context)


def _convert(source: Path, output: Path, context: Alone) -> Changed:
    return convert.run(ConvertParameters(os.fsencode(source), Writing(os.fsencode(output))), context)


def _bake(source: Path, output: Path, context: Alone) -> Changed:
    base, model = source.with_name("base.safetensors"), clip()
    save_file({f"te1.{name}": tensor.contiguous() for name, tensor in model.state_dict().items()}, base)
    save_file(adapting(model, "lora_te_"), source)
    paths = (os.fsencode(source),)
    return bake.run(BakeParameters(paths, os.fsencode(base), Writing(os.fsencode(output))), context)


def _written_into(source: Path) -> None:
    with source.open("r+b") as file:
        file.seek(-2, os.SEEK_END)
        file.write(b"\0\x3c")


def _replaced(source: Path) -> None:
    other = source.with_name("new")
    other.write_bytes(source.read_bytes())
    os.replace(other, source)


@pytest.mark.parametrize("change", [_written_into, _replaced])
@pytest.mark.parametrize("run", [_resize, _merge, _convert, _bake])
def test_an_input_that_changes_while_it_is_read_gives_no_result(run: Run, change: Any, tmp_path: Path) -> None:
    """An input that is written to, or replaced, meanwhile is named, and nothing is left of the result."""
    source, output = kohya(tmp_path / "style.safetensors"), tmp_path / "out" / "made.safetensors"
    output.parent.mkdir()
    changed = []

    def told(done: float, total: float, what: str) -> None:
        if not changed:
            change(source)
            changed.append(True)

    with pytest.raises(ChangedFile, match=r"style\.safetensors: it changed while it was read"):
        run(source, output, Alone(told=told))
    assert changed
    assert not os.listdir(output.parent)


def test_the_hash_of_an_input_is_that_of_the_file_that_was_read(tmp_path: Path) -> None:
    """A link that leads elsewhere meanwhile does not lend its new target's hash."""
    first, second = kohya(tmp_path / "a.safetensors"), kohya(tmp_path / "b.safetensors", seed=1)
    link = tmp_path / "link.safetensors"
    link.symlink_to(first)
    with read_adapter(str(link)) as adapter:
        link.unlink()
        link.symlink_to(second)
        assert adapter.sha256() == sha256(first.read_bytes()).hexdigest()
