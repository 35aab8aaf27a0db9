"""All SQL on the catalogue's tables is in `lorad.catalog`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import loracore
import lorad

_CATALOG = Path("catalog")
#: It is about a database of its own.
_JOURNAL = {Path("dedupe/action/journal.py"), Path("dedupe/action/journal_file.py")}
#: A statement, or the part of one that names a table. What an f-string puts in is `?` here.
_SQL = re.compile(
    r"\b(?:SELECT\b.+\bFROM|INSERT (?:OR \w+ )?INTO|DELETE FROM|UPDATE [\w?]+ SET|CREATE (?:TABLE|INDEX)"
    r"|(?:FROM|JOIN) (?:meta|layouts|arrangements|files|names|answers|hashes|held_\w+))\b",
    re.DOTALL,
)


def texts(tree: ast.AST) -> Iterator[str]:
    """All texts of a module, f-strings as a whole."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "?" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def modules_with_sql(package: str) -> set[Path]:
    folder = Path(package).parent
    return {
        path.relative_to(folder)
        for path in folder.rglob("*.py")
        if any(map(_SQL.search, texts(ast.parse(path.read_bytes()))))
    }


def test_no_other_module_has_sql_on_its_tables() -> None:
    """Nothing but `lorad.catalog` and the journal of actions, which is a database of its own, has SQL at all."""
    found = modules_with_sql(lorad.__file__)
    assert {_CATALOG / name for name in ("schema.py", "tables.py", "writer.py", "views.py")} <= found
    assert {path for path in found if path.parent != _CATALOG} == _JOURNAL
    assert not modules_with_sql(loracore.__file__)
