"""Messages on pipes; and two threads never build the type of one (SPEC section 11): msgspec crashes at that."""

from __future__ import annotations

import ast
import io
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

import loracore
from loracore.framing import read, write
from loracore.messages import REPORTS, Note

_ROOT = Path(loracore.__file__).parents[2]
_PRODUCT = [
    path for part in ("shared", "daemon", "client", "toolkit") for path in sorted((_ROOT / part).rglob("*.py"))
]
#: Where decoders are made in functions, one at a time.
_GUARDED = {"framing.py"}

#: Threads that each decode a type first, all of which have a struct in common.
_THREADS = """
import msgspec, sys, threading
from loracore.framing import from_json, unpacked

sys.setswitchinterval(1e-6)
for _ in range(100):
    fields = [(f"f{number}", int | None, None) for number in range(200)]
    inner = msgspec.defstruct("Inner", fields, module="__main__")
    fields = [(f"g{number}", inner | None, None) for number in range(50)]
    outer = msgspec.defstruct("Outer", fields, module="__main__")
    door = threading.Barrier(8)
    def decode(kind, read, encode):
        door.wait()
        assert read(encode(kind()), kind) == kind()
    ways = [(unpacked, msgspec.msgpack.encode), (from_json, msgspec.json.encode)]
    threads = [
        threading.Thread(target=decode, args=((outer, inner)[number % 2], *ways[number // 2 % 2]))
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
print("well")
"""


def test_messages_are_read_until_the_writer_ends() -> None:
    """Within one, too; and one that is too long, or is none, is refused."""
    pipe = io.BytesIO()
    for text in ("a", "b" * 100):
        write(pipe, Note(text))
    whole = pipe.getvalue()
    assert list(read(io.BytesIO(whole), REPORTS, 1000)) == [Note("a"), Note("b" * 100)]
    for cut in range(len(whole)):
        assert len(list(read(io.BytesIO(whole[:cut]), REPORTS, 1000))) <= 1
    for wrong in (whole, (3).to_bytes(4, "little") + b"abc"):
        with pytest.raises(msgspec.DecodeError):
            list(read(io.BytesIO(wrong), REPORTS, 50))


def test_types_are_built_one_at_a_time() -> None:
    """In a process of its own, which would die."""
    ran = subprocess.run(
        [sys.executable, "-c", _THREADS], capture_output=True, text=True, timeout=100, check=False
    )
    assert (ran.returncode, ran.stdout) == (0, "well\n"), ran.stderr


@pytest.mark.parametrize("path", _PRODUCT, ids=lambda path: str(path.relative_to(_ROOT)))
def test_decoders_are_made_where_a_module_is_imported(path: Path) -> None:
    """Or by `loracore.framing`: no function builds a type otherwise."""
    if path.name in _GUARDED:
        return
    functions = [
        node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef | ast.Lambda)
    ]
    calls = [node for function in functions for node in ast.walk(function) if isinstance(node, ast.Call)]
    assert [f"{path}:{call.lineno}" for call in calls if _builds(call)] == []


def _builds(call: ast.Call) -> bool:
    """Whether msgspec builds a type for this call."""
    name = ast.unparse(call.func)
    typed = any(keyword.arg == "type" for keyword in call.keywords) or len(call.args) > 1
    return (
        name.endswith("Decoder")
        or name == "msgspec.convert"
        or (name.endswith(".decode") and typed and "msgspec" in name)
    )
