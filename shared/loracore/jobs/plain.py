"""Results as plain dicts and lists, as they are exported and as the Python API gives them."""

from __future__ import annotations

import os
from typing import Any

import msgspec

from loracore.jobs.array import Array
from loracore.jobs.table import Table


def plain(value: Any) -> Any:
    """Structs become dicts; paths (the only bytes of a result) become texts, with surrogate escapes if need be."""
    match value:
        case Table() | Array():
            return value.plain()
        case msgspec.Struct():
            return {name: plain(getattr(value, name)) for name in value.__struct_fields__}
        case bytes():
            return os.fsdecode(value)
        case list() | tuple():
            return [plain(item) for item in value]
        case dict():
            return {key: plain(item) for key, item in value.items()}
    return value
