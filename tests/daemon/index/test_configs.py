"""What stands beside a name is read from the disk as it is now."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from lorad.catalog import Catalog
from lorad.index.configs import Configs
from lorad.index.known_files import Files
from lorad.pipeline.protocol import Identity

CONFIG = {"r": 4, "lora_alpha": 8}


class Library:
    """Names in folders, all of one file."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.files = Files(Catalog(str(folder)))
        self.configs = Configs(self.files, lambda layout: [], lambda *_: None)
        self.file = self.files.add(Identity(1, 2, 3, 4, 5))
        self.folder = folder
        for name in names:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).touch()
            self.files.name(self.file, os.fsencode(folder / name))
        self.file.layout = 1

    def write(self, folder: str, **fields: object) -> bytes:
        path = self.folder / folder / "adapter_config.json"
        path.write_text(json.dumps(CONFIG | fields))
        return os.fsencode(path)

    def said(self) -> dict[str, bytes]:
        return {os.path.relpath(os.fsdecode(path), self.folder): said for path, said in self.files.configs.items()}


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path, "a/x.safetensors", "a/y.safetensors", "b/x.safetensors")


def test_all_names_beside_a_configuration_have_what_it_says(library: Library) -> None:
    config = library.write("a")
    library.configs.touched(config)
    assert library.said().keys() == {"a/x.safetensors", "a/y.safetensors"}
    assert len(set(library.said().values())) == 1
    os.unlink(config)
    library.configs.touched(config)
    assert library.said() == {}


def test_only_a_configuration_is_one(library: Library) -> None:
    library.write("a")
    library.configs.touched(os.fsencode(library.folder / "a/config.json"))
    assert library.said() == {}


def test_what_changes_is_written_into_the_catalogue(library: Library) -> None:
    """Once: what says the same again is no news."""
    library.files.store.save()
    config = library.write("a")
    library.configs.touched(config)
    assert library.files.store.save() == {
        os.fsencode(library.folder / "a" / name) for name in ("x.safetensors", "y.safetensors")
    }
    library.write("a", revision="main")
    library.configs.touched(config)
    assert library.files.store.save() is None
    stored = {path: said for path, _, _, said in library.files._catalog.names.rows()}
    assert stored == dict.fromkeys(stored) | library.files.configs


def test_a_file_whose_layout_is_not_known_has_none(library: Library) -> None:
    library.file.layout = None
    library.configs.touched(library.write("a"))
    assert library.said() == {}


def test_what_a_folder_said_holds_while_it_cannot_be_opened(library: Library) -> None:
    library.configs.touched(library.write("a"))
    before = library.said()
    shutil.rmtree(library.folder / "a")
    library.configs.forget()
    library.configs.look(os.fsencode(library.folder / "a/x.safetensors"))
    assert library.said() == before
    # With the name goes what was beside it.
    library.files.unname(os.fsencode(library.folder / "a/x.safetensors"))
    assert library.said().keys() == {"a/y.safetensors"}
