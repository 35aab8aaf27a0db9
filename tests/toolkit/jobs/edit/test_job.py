"""`edit`: the header says something else, the data are the same bit for bit, and undo brings all of it back."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from loracore.errors import UsageError
from loracore.jobs.edit import Change
from loracore.tensorfile import open_container
from tests.toolkit.jobs.edit.files import TRAINED, data_of, edit, left, look, lora


def test_a_plan_changes_nothing(tmp_path: Path, state: Path) -> None:
    """It says each entry that changes, as it is and as it would be, and there is no journal for it."""
    path = lora(tmp_path / "a.safetensors")
    before = path.read_bytes(), look(path)
    found = edit(
        path, set={"author": "Anna"}, unset=("ss_dataset_dirs", "none"), title="Tinte", trigger=("a", "b")
    )
    (file,) = found.files
    assert (found.id, file.state, file.entries) == (None, "planned", 4)
    assert set(file.changes) == {
        Change("author", None, "Anna"),
        Change("ss_dataset_dirs", TRAINED["ss_dataset_dirs"], None),
        Change("modelspec.title", "cats", "Tinte"),
        Change("modelspec.trigger_phrase", None, "a, b"),
    }
    assert (path.read_bytes(), look(path)) == before
    assert not state.exists()


def test_an_edit_keeps_all_but_the_header(tmp_path: Path) -> None:
    """Data, tensors in the library's eyes, mode, owner, mtime and attributes; nothing hidden is left beside it."""
    path = lora(tmp_path / "a.safetensors")
    path.chmod(0o640)
    os.setxattr(path, "user.note", b"mine")
    before, data, tensors = look(path), data_of(path), load_file(path)
    found = edit(path, set={"author": "Änna"}, strip=("ss_d*",), apply=True)
    assert (found.files[0].state, found.files[0].entries) == ("done", 2)
    wanted = {key: value for key, value in TRAINED.items() if key != "ss_dataset_dirs"} | {"author": "Änna"}
    with safe_open(path, "np") as file:
        assert file.metadata() == wanted
    assert (look(path), data_of(path)) == (before, data)
    assert all((load_file(path)[name] == values).all() for name, values in tensors.items())
    assert open_container(str(path)).metadata == wanted
    assert not left(tmp_path)


def test_touch_gives_the_time_of_now(tmp_path: Path) -> None:
    path = lora(tmp_path / "a.safetensors")
    before = look(path)
    found = edit(path, title="x", touch=True, apply=True)
    assert path.stat().st_mtime_ns > path.stat().st_ctime_ns - 10**11 > before[3]
    assert found.id is not None
    edit(undo=(found.id,))
    assert look(path) == before


def test_undo_brings_the_file_back_byte_for_byte(tmp_path: Path) -> None:
    """A header that no library writes so: keys escaped, entries behind the tensors, spaces in it."""
    path = lora(tmp_path / "a.safetensors", None)
    content = path.read_bytes()
    text = content[8 : 8 + int.from_bytes(content[:8], "little")].rstrip()
    odd = text[:-1] + b',\n "__metadata__": {"\\u0061" : "b\\/",   "z":""}  }   '
    path.write_bytes(len(odd).to_bytes(8, "little") + odd + data_of(path))
    before, seen = path.read_bytes(), look(path)
    found = edit(path, set={"z": "1"}, title="x", apply=True)
    assert found.id is not None
    assert open_container(str(path)).metadata == {"a": "b/", "z": "1", "modelspec.title": "x"}
    undone = edit(undo=(found.id,))
    assert [file.state for file in undone.files] == ["undone"]
    assert (path.read_bytes(), look(path)) == (before, seen)
    again = edit(undo=(found.id,))
    assert [(file.state, file.reason) for file in again.files] == [("unchanged", "it was undone already")]
    assert [past.state for past in edit(history=True).history] == ["undone"]


def test_edits_are_undone_in_their_order(tmp_path: Path) -> None:
    """The older one only after the newer, or together; named files alone where any are named."""
    one, two = lora(tmp_path / "a.safetensors"), lora(tmp_path / "b.safetensors", seed=2)
    before = [path.read_bytes() for path in (one, two)]
    first, second = (edit(one, two, title=text, apply=True).id for text in ("x", "y"))
    assert first is not None
    assert second is not None
    refused = edit(undo=(first,))
    assert {file.state for file in refused.files} == {"refused"}
    assert "later edits" in refused.files[0].reason
    assert [file.path for file in edit(two, undo=(second,)).files] == [os.fsencode(two)]
    states = {file.path: file.state for file in edit(undo=(first, second)).files}
    assert states == {os.fsencode(one): "undone", os.fsencode(two): "undone"}
    assert [path.read_bytes() for path in (one, two)] == before
    with pytest.raises(UsageError, match="no edit 99"):
        edit(undo=(99,))
    with pytest.raises(UsageError, match="no file of edit"):
        edit(tmp_path / "c.safetensors", undo=(first,))


def test_undo_wants_what_the_edit_wrote(tmp_path: Path) -> None:
    """By its header, wherever its inode is: a copy that was put back is taken, another file or none is not."""
    path = lora(tmp_path / "a.safetensors")
    before = path.read_bytes()
    number = edit(path, title="x", apply=True).id
    assert number is not None
    path.rename(tmp_path / "moved.safetensors")
    assert "not there" in edit(undo=(number,)).files[0].reason
    lora(path, {"title": "of another"})
    assert edit(undo=(number,)).files[0].state == "refused"
    shutil.copyfile(tmp_path / "moved.safetensors", path)
    time = path.stat().st_mtime_ns
    assert "its time is another" in edit(undo=(number,)).files[0].reason
    assert edit(undo=(number,), touch=True).files[0].state == "undone"
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (before, time)


def test_undo_does_not_take_another_file_of_the_same_header(tmp_path: Path) -> None:
    """As of two epochs whose headers were stripped, one of which was given the name of the other."""
    first = lora(tmp_path / "1.safetensors", {"epoch": "1"}, seed=1)
    second = lora(tmp_path / "2.safetensors", {"epoch": "2"}, seed=2)
    os.utime(second, ns=(0, 1_700_000_000_000_000_000))
    number = edit(first, second, strip_all=True, apply=True).id
    assert number is not None
    os.replace(second, first)
    before = first.read_bytes()
    assert [file.state for file in edit(undo=(number,)).files] == ["refused", "refused"]
    assert first.read_bytes() == before


def test_a_download_is_not_edited(tmp_path: Path) -> None:
    path = lora(tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors.aria2").touch()
    assert "a download that is not finished" in edit(path, title="x", apply=True).files[0].reason


def test_all_is_stripped_but_what_loading_needs(tmp_path: Path) -> None:
    path = lora(tmp_path / "a.safetensors", {**TRAINED, "ss_network_module": "networks.lora", "note": "private"})
    edit(path, strip_all=True, apply=True)
    assert open_container(str(path)).metadata == {
        "ss_network_dim": "8", "ss_network_alpha": "4", "format": "pt", "ss_network_module": "networks.lora",
    }  # fmt: skip
    assert edit(path, strip_all=True, apply=True).files[0].state == "unchanged"


def test_stated_hashes_are_computed_anew(tmp_path: Path) -> None:
    """Those that are there, as `hashes` finds them afterwards; none is added."""
    import lorakit

    path = lora(tmp_path / "a.safetensors", {**TRAINED, "sshs_model_hash": "0", "sshs_legacy_hash": "0"})
    stale = edit(path, set={"ss_note": "x"})
    assert "--repair-hashes" in stale.files[0].warnings[0]
    edit(path, set={"ss_note": "x"}, repair_hashes=True, apply=True)
    metadata = open_container(str(path)).metadata
    found = lorakit.hashes(path)
    assert not found["warnings"]
    assert metadata["sshs_model_hash"] == found["sshs_model_hash"]
    assert metadata["sshs_legacy_hash"] == found["sshs_legacy_hash"]
    assert "modelspec.hash_sha256" not in metadata
    edit(path, set={"modelspec.hash_sha256": "0xold"}, repair_hashes=True, apply=True)
    assert open_container(str(path)).metadata["modelspec.hash_sha256"] == "0x" + found["sshs_model_hash"]
    assert edit(path, repair_hashes=True, apply=True).files[0].state == "unchanged"


def test_thousands_of_files_are_one_edit(tmp_path: Path) -> None:
    """With one number, taken back together; one bad file among them stops none."""
    folder = tmp_path / "many"
    folder.mkdir()
    first = lora(folder / "0.safetensors")
    for number in range(1, 2000):
        shutil.copyfile(first, folder / f"{number}.safetensors")
    (folder / "7.safetensors").write_bytes(b"<html>")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    found = edit(*sorted(folder.iterdir()), title="x", apply=True)
    assert sum(file.state == "done" for file in found.files) == 1999
    (bad,) = (file for file in found.files if file.state == "refused")
    assert bad.path.endswith(b"/7.safetensors")
    assert found.id is not None
    assert len(edit(history=True).history) == 1999
    assert {file.state for file in edit(undo=(found.id,)).files} == {"undone"}
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert not left(folder)


def test_a_link_stands_for_its_file(tmp_path: Path) -> None:
    """Named twice, it is edited once; the link stays one."""
    path = lora(tmp_path / "a.safetensors")
    (tmp_path / "link.safetensors").symlink_to("a.safetensors")
    found = edit(tmp_path / "link.safetensors", path, title="x", apply=True)
    assert [(file.path, file.state) for file in found.files] == [(os.fsencode(path), "done")]
    assert (tmp_path / "link.safetensors").is_symlink()


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff.safetensors"
    lora(Path(os.fsdecode(path)))
    found = edit(path, title="x", apply=True)
    assert (found.files[0].path, found.files[0].state) == (path, "done")
    assert found.id is not None
    assert edit(undo=(found.id,)).files[0].state == "undone"
