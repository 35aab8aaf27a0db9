"""A LoRA resolver for vLLM: an adapter that it does not know is looked up in lorad's library.

vLLM calls `register` as a plugin of the group `vllm.general_plugins`, in each of its processes. It needs
VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, and `lorad` in VLLM_PLUGINS where that is set. The daemon is found as by
`loractl.Client` (LORAD_SOCKET); LORAD_ADAPTER_CACHE names the folder for converted adapters.

Interface: vllm/lora/resolver.py (`LoRAResolver`, `LoRAResolverRegistry`) and vllm/lora/request.py (`LoRARequest`).
"""

from __future__ import annotations

import hashlib
import logging
import os
from importlib import import_module
from typing import Any

from loracore.errors import FileError, MissingPackage, NoAdapterError, NoDaemonError
from loracore.paths import shown
from loractl.adapters import Resolved
from loractl.aioclient import AsyncClient

NAME = "lorad"
CACHE = "LORAD_ADAPTER_CACHE"

_log = logging.getLogger("vllm.lorad")


def register() -> None:
    """Have vLLM ask lorad for adapters that it does not know. Raises MissingPackage where there is no vLLM.

    A vLLM without resolvers starts as before: it calls this wherever lorad is installed beside it.
    """
    try:
        registry = _vllm("resolver").LoRAResolverRegistry
    except ModuleNotFoundError as error:
        if error.name != "vllm":
            _log.warning("lorad is not asked for adapters: a newer vLLM is needed, this one has no %s", error.name)
            return
        raise MissingPackage("loractl.vllm is a plugin of vLLM, and vllm is not installed") from error
    if NAME not in registry.get_supported_resolvers():
        registry.register_resolver(NAME, resolver())


def resolver() -> Any:
    """A `LoRAResolver` that asks lorad."""
    return type("LoradResolver", (Lookup, _vllm("resolver").LoRAResolver), {})()


def _vllm(module: str) -> Any:
    """A module of vLLM, which is installed where it calls this, and takes long to load."""
    return import_module(f"vllm.lora.{module}")


class Lookup:
    """What is vLLM's own of it: each request is looked up by a connection of its own."""

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> Any:
        """A `LoRARequest`, or None where lorad has no such adapter for this base model.

        Raises AmbiguousError for a name of two functions, and other LoraErrors for an adapter that cannot be
        served: no other resolver is asked then.
        """
        try:
            async with AsyncClient() as client:
                found = await client.resolve(lora_name, base_model_name, cache=os.environ.get(CACHE) or None)
        except NoAdapterError as error:
            _log.info("%s", error)
            return None
        except NoDaemonError as error:
            _log.warning("no adapter is looked up: %s", error)
            return None
        _check(found)
        if found.fit == "family":
            stated = shown(found.base or "no base model")
            _log.warning("%s is for %s by its family: it states %s", shown(found.source), base_model_name, stated)
        return _vllm("request").LoRARequest(
            lora_name=lora_name, lora_int_id=_number(found.path), lora_path=found.path
        )


def _check(found: Resolved) -> None:
    """Raises FileError for what vLLM would apply otherwise than PEFT does: it knows one scale for all modules."""
    if not found.uniform:
        remedy = "loractl convert FOLDER --to peft --fold -o OTHER makes one that is the same for both"
        raise FileError(f"its modules have different scales, which vLLM does not know; {remedy}", found.path)


def _number(path: str) -> int:
    """A number of an adapter, above 0. vLLM gives it its own."""
    return int.from_bytes(hashlib.sha256(os.fsencode(path)).digest()[:4], "big") % (2**31 - 1) + 1
