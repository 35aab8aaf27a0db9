"""`python -m bench.house [ROOT] [--json]`: figures of the house, to see what a change of it brings.

Read from the source alone (`ast`): the product is not imported. The law is that of `[tool.importlinter]`, whose
layers are taken from `pyproject.toml`; `lint-imports` judges it, here it is counted. Nothing here passes or fails.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import re
import tokenize
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

FOLDERS = ("shared", "daemon", "client", "toolkit")
#: A module below this, a class and a function above these are named.
SMALL, METHODS, LINES = 40, 15, 60
#: Private names of earlier versions, as modules or as words of a class's name.
PRIVATE = frozenset({
    "acting", "answering", "aside", "birth", "catalogued", "deputy", "desk", "election", "knots", "knowledge",
    "looking", "machinery", "outbox", "past", "presence", "probing", "recorder", "relayout", "remembered",
    "site", "sketching", "tenure", "volatile", "weighing",
})  # fmt: skip
#: Names that were private in one folder and are usual words elsewhere.
PLACED = frozenset({
    "action.guard", "action.reach", "action.removal", "action.repair", "action.replace", "action.settle",
    "action.syscalls", "bake.places", "blocks.room", "control.planning", "convert.carrying", "convert.places",
    "dedupe.automatic", "dedupe.day", "dedupe.deduplication", "dedupe.gone", "dedupe.moves", "dedupe.sharing",
    "dedupe.steps", "dedupe.trouble", "dedupe.worker", "hashes.lanes", "index.files", "index.reading",
    "jobs.keeping", "library.keeping", "loractl.exchange", "loractl.link", "lorad.folders",
    "lorad.statistics", "pipeline.child", "pipeline.room", "watch.alarm", "watch.emitter", "watch.observer",
    "watch.plan", "watch.schedule",
})  # fmt: skip
#: By kind of change, members that exist: as many product files name one as a new one is likely to need.
MEMBERS = {
    "base family": ("chroma", "qwen-image", "wan", "sd3"),
    "convention": ("kohya", "diffusers"),
    "container format": (".ckpt", ".pth"),
    "dedupe action": ("reflink", "hardlink", "symlink", "quarantine", "delete"),
    "job with its command": ("resize", "extract", "importance", "pca"),
    "event": ("FileFreed", "FileHashed", "DaySummary"),
    "hash": ("sshs_legacy_hash", "autov3", "crc32"),
    "statistic": ("softmax_norm", "stable_rank", "nuclear_norm"),
    "setting": ("free_below", "min_age", "on_arrival"),
}


Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """One file of the product: its import path, folder, text and tree."""

    name: str
    folder: str
    path: Path
    text: str
    tree: ast.Module

    @property
    def lines(self) -> int:
        return self.text.count("\n")

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.tree))

    @cached_property
    def definitions(self) -> dict[str, Definition]:
        """All classes and functions, those inside of others too, by their whole names."""
        found: dict[str, Definition] = {}
        inside: list[tuple[str, ast.AST]] = [(self.name, self.tree)]
        for name, node in inside:
            for child in ast.iter_child_nodes(node):
                if isinstance(child, Definition):
                    found[f"{name}.{child.name}"] = child
                    inside.append((f"{name}.{child.name}", child))
                elif isinstance(child, ast.stmt | ast.ExceptHandler):
                    inside.append((name, child))
        return found

    @cached_property
    def comments(self) -> dict[int, str]:
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        return {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"


@dataclass
class Figures:
    """What is printed; `--json` has these names."""

    modules: dict[str, int]
    lines: dict[str, int]
    small_modules: list[str]
    large_classes: list[str]
    one_importer: list[str]
    circles: list[list[str]]
    upward: list[str]
    long_functions: list[str]
    broad_excepts: int
    broad_excepts_without_reason: list[str]
    late_imports: int
    private_names: list[str]
    cost_of_change: dict[str, dict[str, int]]


def measure(root: Path) -> Figures:
    """The figures of the tree at `root`."""
    found = list(modules(root))
    project = tomllib.loads((root / "pyproject.toml").read_text()) if (root / "pyproject.toml").exists() else {}
    arrows = {module.name: imports(module, {each.name for each in found}) for module in found}
    excepts = [each for module in found for each in sorted(broad_excepts(module))]
    return Figures(
        modules={folder: sum(each.folder == folder for each in found) for folder in FOLDERS},
        lines={folder: sum(each.lines for each in found if each.folder == folder) for folder in FOLDERS},
        small_modules=[f"{each.name} {each.lines}" for each in found if is_small(each)],
        large_classes=[each for module in found for each in large_classes(module)],
        one_importer=with_one_importer(found, arrows, project),
        circles=circles(arrows),
        upward=upward(arrows, project),
        long_functions=[each for module in found for each in long_functions(module)],
        broad_excepts=len(excepts),
        broad_excepts_without_reason=[place for place, has_reason in excepts if not has_reason],
        late_imports=sum("PLC0415" in comment for module in found for comment in module.comments.values()),
        private_names=[each for module in found for each in private_names(module)],
        cost_of_change=costs(found),
    )


def modules(root: Path) -> Iterator[Module]:
    """All modules of the product, sorted."""
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*.py")):
            parts = path.relative_to(root / folder).with_suffix("").parts
            text = path.read_text(encoding="utf-8")
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            yield Module(name, folder, path, text, ast.parse(text))


def is_small(module: Module) -> bool:
    return module.lines < SMALL and module.path.name not in ("__init__.py", "__main__.py")


def imports(module: Module, known: set[str]) -> set[str]:
    """The modules of the product that a module imports, wherever in it, but for types alone."""
    found: set[str] = set()
    typing_only = {
        inner
        for node in module.nodes
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    for node in module.nodes:
        if node in typing_only:
            continue
        match node:
            case ast.Import(names=names):
                found.update(alias.name for alias in names)
            case ast.ImportFrom(module=str(home), names=names):
                whole = {f"{home}.{alias.name}" for alias in names}
                found |= whole & known or {home}
                found |= {home} if whole - known else set()
            case ast.Call(func=ast.Name(id="import_module"), args=[ast.Constant(value=str(name)), *_]):
                found.add(name)
    return (found & known) - {module.name}


def with_one_importer(
    found: Sequence[Module], arrows: Mapping[str, set[str]], project: Mapping[str, Any]
) -> list[str]:
    """Modules that one other imports. What `pyproject.toml` names as an entry point is imported from outside."""
    importers: dict[str, set[str]] = defaultdict(set)
    for module, targets in arrows.items():
        for target in targets:
            importers[target].add(module)
    points = project.get("project", {})
    for table in (points.get("scripts", {}), *points.get("entry-points", {}).values()):
        for leads_to in table.values():
            importers[leads_to.partition(":")[0]].add("pyproject.toml")
    plain = [each.name for each in found if not each.is_package]
    return [f"{name} < {min(importers[name])}" for name in plain if len(importers[name]) == 1]


def circles(arrows: Mapping[str, set[str]]) -> list[list[str]]:
    """Modules that reach each other by imports, late ones included (Tarjan's strongly connected components)."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        number[name] = low[name] = len(number)
        stack.append(name)
        for target in sorted(arrows[name]):
            if target not in number:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], number[target])
        if low[name] == number[name]:
            at = stack.index(name)
            if len(stack) - at > 1:
                found.append(sorted(stack[at:]))
            del stack[at:]

    for name in sorted(arrows):
        if name not in number:
            visit(name)
    return sorted(found)


def upward(arrows: Mapping[str, set[str]], project: Mapping[str, Any]) -> list[str]:
    """Imports of a higher layer, or of an independent one beside, by the contracts of `[tool.importlinter]`."""
    found = []
    contracts = project.get("tool", {}).get("importlinter", {}).get("contracts", [])
    for contract in contracts:
        if contract["type"] != "layers":
            continue
        for container in contract.get("containers", [""]):
            floors: dict[str, tuple[int, bool]] = {}
            for height, layer in enumerate(contract["layers"]):
                for part in re.split(r"[|:]", layer):
                    floors[f"{container}.{part.strip(' ()')}".strip(".")] = (height, "|" in layer)
            for module, targets in arrows.items():
                for target in targets:
                    here, there = _floor(module, floors), _floor(target, floors)
                    if here and there and here != there:
                        (low, _), (high, apart) = floors[here], floors[there]
                        if high < low or (high == low and apart):
                            found.append(f"{module} > {target}")
    return sorted(found)


def _floor(name: str, floors: Mapping[str, object]) -> str | None:
    return next((floor for floor in floors if name == floor or name.startswith(f"{floor}.")), None)


def large_classes(module: Module) -> Iterator[str]:
    for name, node in module.definitions.items():
        if isinstance(node, ast.ClassDef):
            methods = sum(isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) for each in node.body)
            if methods > METHODS:
                yield f"{name} {methods}"


def long_functions(module: Module) -> Iterator[str]:
    for name, node in module.definitions.items():
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        if not isinstance(node, ast.ClassDef) and lines > LINES:
            yield f"{name} {lines}"


def broad_excepts(module: Module) -> Iterator[tuple[str, bool]]:
    """Where everything is caught and not raised again, and whether a comment there says why."""
    said = module.comments
    for node in module.nodes:
        if not isinstance(node, ast.ExceptHandler) or _named(node) not in (None, "Exception", "BaseException"):
            continue
        if isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None:
            continue
        around = range(node.lineno - 1, node.body[0].lineno + 1)
        reason = any(re.sub(r"#\s*noqa(: *[A-Z0-9, ]+)?", "", said.get(line, "")).strip("#- ") for line in around)
        yield f"{module.name}:{node.lineno}", reason


def _named(handler: ast.ExceptHandler) -> str | None:
    return None if handler.type is None else ast.unparse(handler.type)


def private_names(module: Module) -> Iterator[str]:
    placed = ".".join(module.name.split(".")[-2:])
    if placed in PLACED or module.name.rpartition(".")[2] in PRIVATE:
        yield module.name
    for name, node in module.definitions.items():
        if isinstance(node, ast.ClassDef) and PRIVATE & {
            word.lower() for word in re.findall("[A-Z][a-z]*", node.name)
        }:
            yield name


def costs(found: Sequence[Module]) -> dict[str, dict[str, int]]:
    """By kind of change and existing member, how many files of the product name it; prose does not count."""
    words = [_words(module) for module in found if module.name != "loracore.moved"]
    return {
        kind: {member: sum(_names(member, each) for each in words) for member in members}
        for kind, members in MEMBERS.items()
    }


def _names(member: str, words: set[str]) -> bool:
    """Whether one of these is the member, or a short text that has it as a word."""
    near = [word for word in words if member in word and len(word) < max(LINES, len(member) + 1)]
    return any(re.search(rf"(?<![\w.-]){re.escape(member)}(?![\w-])", word) for word in near)


def _words(module: Module) -> set[str]:
    """Names, attributes, imports and short texts of a module; no docstring and no comment."""
    found: set[str] = set()
    prose = {
        node.body[0].value
        for node in module.nodes
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body and isinstance(node.body[0], ast.Expr)
    }  # fmt: skip
    for node in module.nodes:
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.keyword(arg=str(name)) | ast.arg(arg=name):
                found.add(name)
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.Import(names=names):
                found.update(alias.name for alias in names)
            case ast.ImportFrom(module=str(home), names=names):
                found.update({home.rpartition(".")[2], *(alias.name for alias in names)})
            case ast.Constant(value=str(text)) if node not in prose:
                found.add(text)
            case ast.Constant(value=bytes(text)):
                found.add(text.decode("latin-1"))
    return found


def printed(figures: Figures) -> Iterator[str]:
    """The figures as lines of text; what is named stands below its count."""
    yield f"{'':10}{'modules':>8}{'lines':>8}"
    for folder in FOLDERS:
        yield f"{folder:10}{figures.modules[folder]:8,}{figures.lines[folder]:8,}"
    yield f"{'all':10}{sum(figures.modules.values()):8,}{sum(figures.lines.values()):8,}"
    named = {
        f"modules under {SMALL} lines": figures.small_modules,
        f"classes over {METHODS} methods": figures.large_classes,
        f"functions over {LINES} lines": figures.long_functions,
        "modules with exactly one importer": figures.one_importer,
        "circles of imports": [" - ".join(circle) for circle in figures.circles],
        "upward arrows": figures.upward,
        f"broad excepts ({figures.broad_excepts}) without a reason": figures.broad_excepts_without_reason,
        "old private names": figures.private_names,
    }
    for title, entries in named.items():
        yield f"{title}: {len(entries)}"
        yield from (f"    {entry}" for entry in entries)
    yield f"late imports (noqa: PLC0415): {figures.late_imports}"
    yield "files that name an existing member, by kind of change:"
    for kind, counts in figures.cost_of_change.items():
        yield f"    {kind:22}" + ", ".join(f"{member} {count}" for member, count in counts.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", 1)[1])
    parser.add_argument("root", nargs="?", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures = measure(options.root)
    print(json.dumps(asdict(figures), indent=1) if options.json else "\n".join(printed(figures)))


if __name__ == "__main__":
    main()
