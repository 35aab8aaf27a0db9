"""What names ask the daemon for, and which PEFT configurations have one scale."""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from loracore.errors import FileError, MalformedFile
from loracore.expressions import parse
from loractl.adapter_config import is_uniform, read_config
from loractl.adapter_names import _ascii, _ending, _quoted


@pytest.mark.parametrize("name", ["chat", "it's", 'a "b" c', "'\"'\"", "rank>=3", "!x", "a*b?[c]", '"' * 300])
def test_any_name_is_one_value_of_an_expression(name: str) -> None:
    (term,) = parse(f"path~{_quoted(name)}")
    assert term == ("path", "~", name)


def test_what_is_looked_for_is_a_part_of_the_name() -> None:
    """SQLite folds ASCII alone, and an expression has an end."""
    for name in ("/Éclair.", "/Я/adapter_model.", "/" + "x" * 1000 + "."):
        part = _ascii(name)
        assert part in name
        assert part.isascii()
        assert 0 < len(part) <= 300


def test_a_path_is_a_glob_that_takes_it_alone() -> None:
    for path in ("/a/[b]*c?", "é/è", "/" + "x" * 1000):
        glob = _ending(path)
        assert fnmatchcase(f"/srv{path}/adapter_model.bin", glob)
        assert not fnmatchcase(path.replace("*", "y").replace("x", "y").replace("é", "e"), glob)


def test_a_configuration_that_is_none_is_refused(tmp_path: Path) -> None:
    """Neither waited for, nor read without end."""
    config = tmp_path / "adapter_config.json"
    os.mkfifo(config)
    with pytest.raises(FileError, match=r"adapter_config\.json"):
        read_config(bytes(tmp_path))
    for data in (b" " * ((1 << 20) + 1), b"[1]", b"[" * 100_000, b'{"r": "\xff"}', b"{"):
        config.unlink()
        config.write_bytes(data)
        with pytest.raises(MalformedFile):
            read_config(bytes(tmp_path))


@pytest.mark.parametrize(
    ("config", "uniform"),
    [
        ({"r": 8, "lora_alpha": 16}, True),
        ({"r": 8, "lora_alpha": 16, "rank_pattern": {}, "alpha_pattern": None}, True),
        ({"r": 8, "lora_alpha": 16, "rank_pattern": {"q": 4}}, False),
        ({"r": 8, "lora_alpha": 16, "alpha_pattern": {"q": 32}}, False),
        ({"r": 8, "lora_alpha": 16, "rank_pattern": {"q": 4}, "alpha_pattern": {"q": 8}}, True),
        (
            {"r": 8, "lora_alpha": 16, "rank_pattern": {"q": 2}, "alpha_pattern": {"q": 8}, "use_rslora": True},
            True,
        ),
        ({"r": 8, "lora_alpha": 16, "rank_pattern": {"q": 0}, "alpha_pattern": {"q": 0}}, False),
        ({"r": 8, "lora_alpha": 16, "rank_pattern": {"q": "x"}}, False),
        ({"r": 8, "lora_alpha": 16, "rank_pattern": ["q"]}, False),
    ],
)
def test_one_scale_of_all_modules(config: dict[str, Any], uniform: bool) -> None:
    assert is_uniform(config) is uniform
