"""What a file's layers mean as an adapter: modules with canonical names, factors, scale, ΔW and block.

Every naming convention and algorithm of the field ends in the same thing, an `Adapter` of `Module`s. Reading one
costs its header and the small tensors (alpha); factors and ΔW are read on demand, a module at a time. numpy is
needed for values alone, torch never. Where bytes lie is `tensorfile`'s matter; what is done with ΔW the toolkit's.
"""

from __future__ import annotations

from loracore.adapter.adapter import Adapter, read_adapter
from loracore.adapter.modules import LayerRef, Module
from loracore.adapter.problems import Problem
from loracore.errors import NeedsBase

__all__ = ["Adapter", "LayerRef", "Module", "NeedsBase", "Problem", "read_adapter"]
