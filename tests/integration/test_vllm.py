"""`loractl.vllm` as vLLM calls it, against a real daemon.

vLLM itself is not installed here. Its place is taken by a package of the same names and signatures as vLLM's
documentation has them (vllm/lora/resolver.py, vllm/lora/request.py; docs/design/lora_resolver_plugins.md), and by
what its server does with them (`OpenAIServingModels.resolve_lora`): each resolver is asked in turn.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from loracore.errors import AmbiguousError, FileError, MissingPackage
from loractl.adapter_config import is_uniform, read_config
from tests.integration.running import Running
from tests.integration.test_adapters import LLAMA, peft, plain

_RESOLVER = """
from abc import ABC, abstractmethod
from collections.abc import Set
from dataclasses import dataclass, field

from vllm.lora.request import LoRARequest


class LoRAResolver(ABC):
    @abstractmethod
    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None: ...


@dataclass
class _LoRAResolverRegistry:
    resolvers: dict[str, LoRAResolver] = field(default_factory=dict)

    def get_supported_resolvers(self) -> Set[str]:
        return self.resolvers.keys()

    def register_resolver(self, resolver_name: str, resolver: LoRAResolver) -> None:
        self.resolvers[resolver_name] = resolver

    def get_resolver(self, resolver_name: str) -> LoRAResolver:
        return self.resolvers[resolver_name]


LoRAResolverRegistry = _LoRAResolverRegistry()
"""
_REQUEST = """
import msgspec


class LoRARequest(msgspec.Struct, omit_defaults=True, array_like=True):
    lora_name: str
    lora_int_id: int
    lora_path: str = ""
    base_model_name: str | None = None

    def __post_init__(self) -> None:
        if self.lora_int_id < 1:
            raise ValueError(f"id must be > 0, got {self.lora_int_id}")
        assert self.lora_path, "lora_path cannot be empty"
"""


def register() -> None:
    """As vLLM does with its general plugins."""
    (plugin,) = entry_points(group="vllm.general_plugins", name="lorad")
    plugin.load()()


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    package = tmp_path / "site/vllm/lora"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").write_text("")
    (package / "resolver.py").write_text(_RESOLVER)
    (package / "request.py").write_text(_REQUEST)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    yield import_module("vllm.lora.resolver").LoRAResolverRegistry
    for name in [name for name in sys.modules if name.split(".")[0] == "vllm"]:
        del sys.modules[name]


@pytest.fixture
def library(tmp_path: Path) -> Path:
    root = tmp_path / "library"
    peft(root / "chat", 1)
    peft(root / "one/sql", 2)
    peft(root / "two/sql", 3)
    peft(root / "uneven", 4, alpha_pattern={"q_proj": 3})
    plain(root / "story.safetensors", 5)
    return root


@pytest.fixture
def running(tmp_path: Path, library: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    with Running(tmp_path, [library]) as daemon:
        daemon.settle()
        monkeypatch.setenv("LORAD_SOCKET", str(daemon.runtime / "control.sock"))
        monkeypatch.setenv("LORAD_ADAPTER_CACHE", str(tmp_path / "cache"))
        yield daemon


def test_vllm_gets_the_folders_of_adapters(
    registry: Any, running: Running, library: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder as it is, a file once converted; nothing for what is not there, an error for two functions."""
    register()
    register()
    resolver = registry.get_resolver("lorad")
    base = import_module("vllm.lora.resolver").LoRAResolver
    assert isinstance(resolver, base)
    published = inspect.signature(base.resolve_lora).parameters
    assert list(inspect.signature(type(resolver).resolve_lora).parameters) == list(published)

    async def body() -> None:
        chat, story, other = await asyncio.gather(
            *(resolver.resolve_lora(LLAMA, name) for name in ("chat", "story", "nothing"))
        )
        assert (chat.lora_name, chat.lora_path) == ("chat", str(library / "chat"))
        assert (story.lora_name, other) == ("story", None)
        assert Path(story.lora_path).is_relative_to(tmp_path / "cache")
        assert chat.lora_int_id != story.lora_int_id
        assert await resolver.resolve_lora("Qwen/Qwen3-8B", "chat") is None
        assert await resolver.resolve_lora(LLAMA, "../chat") is None
        with pytest.raises(AmbiguousError):
            await resolver.resolve_lora(LLAMA, "sql")
        with pytest.raises(FileError, match="different scales"):
            await resolver.resolve_lora(LLAMA, "uneven")
        with caplog.at_level(logging.WARNING):
            assert (await resolver.resolve_lora("NousResearch/Llama-2-7b", "chat")).lora_path == chat.lora_path
        assert LLAMA in caplog.text

    asyncio.run(body())


def test_other_resolvers_are_asked_where_there_is_no_daemon(
    registry: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LORAD_SOCKET", str(tmp_path / "none.sock"))
    register()
    assert asyncio.run(registry.get_resolver("lorad").resolve_lora(LLAMA, "chat")) is None
    assert "none.sock" in caplog.text


def test_a_vllm_without_resolvers_starts(registry: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "site/vllm/lora/resolver.py").unlink()
    del sys.modules["vllm.lora.resolver"]
    register()
    assert "a newer vLLM is needed" in caplog.text


def test_without_vllm_it_says_so() -> None:
    with pytest.raises(MissingPackage, match="vllm is not installed"):
        register()


def test_the_remedy_for_different_scales_is_one(library: Path, tmp_path: Path) -> None:
    """`convert --to peft --fold` of such a folder makes one that vLLM applies as PEFT does."""
    lorakit = import_module("lorakit")
    lorakit.convert(library / "uneven", tmp_path / "even", to="peft", fold=True)
    assert is_uniform(read_config(bytes(tmp_path / "even")))
