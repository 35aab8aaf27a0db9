"""Makes a corpus once and uses it again: `make("mixed", folder)` returns the truth about its files.

The manifest beside a corpus is written last, so an interrupted making is never mistaken for a corpus; it is
made again when a file has changed since, when other options are asked for, or when the code that made it has
changed. As a program: `python -m bench.corpus NAME… --folder DIR`.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import os
import shutil
from dataclasses import asdict
from types import ModuleType

from tests.builders import architectures, weights, write

from bench import recipes, recorder
from bench.recipes import RECIPES, Scale
from bench.truth import Member, Truth, truth_of

#: Everything that decides what a corpus holds.
_SOURCES: tuple[ModuleType, ...] = (recipes, recorder, architectures, weights, write)


def make(name: str, folder: str, scale: Scale | None = None) -> Truth:
    """The corpus `name` in `folder/name`, made if it is not there already, and the truth about it."""
    scale = scale or Scale()
    place = os.path.join(os.path.abspath(folder), name)
    manifest = f"{place}.json"
    recipe = _recipe_signature(name, scale)
    members = _reusable(manifest, place, recipe)
    if members is None:
        members = _build(name, place, scale, manifest, recipe)
    return truth_of(name, place, members)


def _build(name: str, place: str, scale: Scale, manifest: str, recipe: str) -> list[Member]:
    if os.path.exists(manifest):
        os.unlink(manifest)
    elif os.path.isdir(place) and os.listdir(place):
        raise FileExistsError(f"{place} is not empty and not a corpus; choose another --folder or remove it")
    shutil.rmtree(place, ignore_errors=True)
    os.makedirs(place)
    # A making that is interrupted leaves this mark, by which the next one knows that it may start over.
    _write_json(manifest, {"recipe": "unfinished"})
    maker = recorder.Recorder(place)
    RECIPES[name](maker, scale)
    state = {
        "recipe": recipe,
        "files": _state(place),
        "members": [asdict(member) for member in maker.members],
    }
    _write_json(manifest, state)
    return maker.members


def _reusable(manifest: str, place: str, recipe: str) -> list[Member] | None:
    try:
        with open(manifest, encoding="utf-8") as file:
            state = json.load(file)
    except (FileNotFoundError, ValueError):
        return None
    if state.get("recipe") != recipe or state.get("files") != _state(place):
        return None
    return [Member(**member) for member in state["members"]]


def _recipe_signature(name: str, scale: Scale) -> str:
    text = json.dumps([name, asdict(scale)]) + "".join(inspect.getsource(module) for module in _SOURCES)
    return hashlib.sha256(text.encode()).hexdigest()


def _state(place: str) -> list[list[str | int]]:
    """Path, size and time of every file: what tells that nobody has changed it."""
    found: list[list[str | int]] = []
    for parent, _, names in os.walk(place):
        for name in names:
            path = os.path.join(parent, name)
            status = os.stat(path)
            found.append([path, status.st_size, status.st_mtime_ns])
    return sorted(found)


def _write_json(path: str, content: object) -> None:
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        json.dump(content, file)
    os.replace(f"{path}.new", path)


def main() -> None:
    parser = argparse.ArgumentParser(description="make corpora and say what is true about them")
    parser.add_argument("names", nargs="+", choices=sorted(RECIPES), metavar="NAME")
    parser.add_argument("--folder", default="bench/.corpora")
    parser.add_argument("--files", type=int, default=Scale().files, help="number of files of `small`")
    options = parser.parse_args()
    for name in options.names:
        truth = make(name, options.folder, Scale(files=options.files))
        byte_copies = sum(len(paths) - 1 for paths in truth.file_sets)
        print(
            f"{name}: {len(truth.members)} files, {truth.bytes_total / 1e6:.0f} MB, "
            f"{truth.duplicates} duplicates ({byte_copies} of them byte by byte), "
            f"lower bound {truth.lower_bound / 1e6:.1f} MB"
        )


if __name__ == "__main__":
    main()
