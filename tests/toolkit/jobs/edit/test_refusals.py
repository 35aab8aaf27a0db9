"""What `edit` refuses by name; the file stays what it was then."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from loracore.errors import StateError, UsageError
from loracore.jobs.edit import EditParameters
from loracore.jobs.job import Alone, Cancelled
from lorakit.jobs.edit.job import JOB
from tests.builders.architectures import sd15
from tests.builders.weights import random_weights
from tests.builders.write import header, save_checkpoint, write_peft_folder
from tests.toolkit.jobs.edit.files import TRAINED, data_of, edit, left, lora


def refused(path: Path, word: str, **options: Any) -> None:
    """Planned and applied alike, with this word in the reason, and nothing changed."""
    before = path.read_bytes() if path.is_file() else b""
    for apply in (False, True):
        (file,) = edit(path, apply=apply, **(options or {"title": "x"})).files
        assert (file.state, word in file.reason) == ("refused", True), file
    assert not path.is_file() or path.read_bytes() == before
    assert not left(path.parent)


def test_other_containers(tmp_path: Path) -> None:
    layers = random_weights(sd15(2, width=16, every=6), 1)
    refused(Path(save_checkpoint(str(tmp_path / "a.pt"), layers)), "loractl convert")
    refused(Path(save_checkpoint(str(tmp_path / "b.safetensors"), layers)), "loractl convert")
    write_peft_folder(str(tmp_path / "adapter"), layers, rank=2, targets=["to_q"])
    refused(tmp_path / "adapter", "adapter_model.safetensors")
    assert edit(tmp_path / "adapter" / "adapter_model.safetensors", title="x").files[0].state == "planned"
    refused(tmp_path / "none.safetensors", "cannot be opened")
    (tmp_path / "a.txt").write_text("x")
    refused(tmp_path / "a.txt", ".safetensors")


def test_headers_that_readers_differ_on(tmp_path: Path) -> None:
    """A key twice, among entries or tensors; a truncated file; a header that is none."""
    path = lora(tmp_path / "a.safetensors")
    content, data = path.read_bytes(), data_of(path)
    text = content[8 : len(content) - len(data)]
    for place, word in ((b'{"format":"pt","format":"np",', "twice"), (b'{"format":3,', "header")):
        changed = text.replace(b'"__metadata__":{', b'"__metadata__":' + place)
        path.write_bytes(len(changed).to_bytes(8, "little") + changed + data)
        refused(path, word)
    name = next(iter(random_weights(sd15(4, width=32, every=3), 1)))
    twice = text.rstrip()[:-1] + b"," + text[text.index(f'"{name}"'.encode()) :]
    path.write_bytes(len(twice).to_bytes(8, "little") + twice + data)
    refused(path, "twice")
    path.write_bytes(content[:-1])
    refused(path, "truncated")
    path.write_bytes(b"\xff" * 100)
    refused(path, "header")


def test_what_changes_the_function(tmp_path: Path) -> None:
    """Where no tensor says alpha, the entry does; with --function it is done, and said."""
    layers = {
        name: layer for name, layer in random_weights(sd15(4, width=32, every=3), 1).items() if "alpha" not in name
    }
    from tests.builders.write import write_safetensors

    path = Path(write_safetensors(str(tmp_path / "a.safetensors"), layers, metadata=TRAINED))
    refused(path, "--function", unset=("ss_network_alpha",))
    refused(path, "--function", set={"ss_network_alpha": "8"})
    refused(path, "--function", strip=("ss_network_*",))
    refused(path, "--function", unset=("format",))
    (file,) = edit(path, unset=("ss_network_alpha",), function=True, apply=True).files
    assert (file.state, file.function) == ("done", True)
    assert edit(path, set={"ss_network_args": "{}", "lora_alpha": "3"}).files[0].function


def test_places_where_a_name_is_a_hash(tmp_path: Path) -> None:
    """Hugging Face's cache by its links, Git's folder; and what lorad has put into quarantine."""
    blobs = tmp_path / "models--a" / "blobs"
    snapshot = tmp_path / "models--a" / "snapshots" / "1"
    for folder in (blobs, snapshot, tmp_path / ".git" / "annex", tmp_path / "r" / ".lorad-quarantine"):
        folder.mkdir(parents=True)
    lora(blobs / "c0ffee")
    (snapshot / "a.safetensors").symlink_to("../../blobs/c0ffee")
    refused(snapshot / "a.safetensors", "Hugging Face")
    refused(lora(tmp_path / ".git" / "annex" / "a.safetensors"), "Git")
    refused(lora(tmp_path / "r" / ".lorad-quarantine" / "a.safetensors"), "loractl undo")


def test_hard_links(tmp_path: Path) -> None:
    """With --break-links each name that is given gets the new header, and the others keep the old one."""
    path = lora(tmp_path / "a.safetensors")
    others = [tmp_path / "b.safetensors", tmp_path / "c.safetensors"]
    for other in others:
        other.hardlink_to(path)
    before = path.read_bytes()
    refused(path, "--break-links")
    found = edit(path, others[0], title="x", break_links=True, apply=True)
    assert [file.state for file in found.files] == ["done", "done"]
    assert path.read_bytes() == others[0].read_bytes() != before == others[1].read_bytes()
    assert found.id is not None
    assert {file.state for file in edit(undo=(found.id,)).files} == {"undone"}
    assert path.read_bytes() == before


def test_what_is_read_only(tmp_path: Path) -> None:
    path = lora(tmp_path / "a.safetensors")
    path.chmod(0o444)
    refused(path, "chmod u+w")


def test_a_file_that_is_open_for_writing(tmp_path: Path) -> None:
    path = lora(tmp_path / "a.safetensors")
    with path.open("rb+"):
        (file,) = edit(path, title="x", apply=True).files
    assert (file.state, "open for writing" in file.reason) == ("refused", True)
    assert edit(path, title="x", apply=True).files[0].state == "done"


class _WritesMeanwhile(Alone):
    """A program opens the file for writing as its first bytes are copied; it waits, and gets the old file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._comes = threading.Event()
        self.writer = threading.Thread(target=self._write)
        self.calls = 0

    def progress(self, done: float, total: float, what: str = "") -> None:
        self.calls += 1
        # 1: waiting for the journal; 2: the file is looked at; then its data come.
        if self.calls == 3:
            self.writer.start()
            self._comes.wait()
            fd = os.open(self._path, os.O_RDONLY)
            # Until the kernel has its request: the lease is being broken then.
            while not _is_waited_for(self._path):
                os.sched_yield()
            os.close(fd)

    def _write(self) -> None:
        self._comes.set()
        with self._path.open("rb+") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\x55")


def _is_waited_for(path: Path) -> bool:
    """Whether the lease on it is being broken, by the kernel's list of locks."""
    inode = f":{path.stat().st_ino} "
    with open("/proc/locks", encoding="ascii") as file:
        return any("BREAKING" in line and inode in line for line in file)


def test_a_program_that_begins_to_write_is_given_way(tmp_path: Path) -> None:
    """The edit is given up, and what that program writes is in the file."""
    path = lora(tmp_path / "a.safetensors")
    before = path.read_bytes()
    context = _WritesMeanwhile(path)
    with path.open("rb"):
        found = JOB.run(EditParameters((os.fsencode(path),), title="x", apply=True), context)
    context.writer.join()
    assert found.files[0].state == "refused"
    assert path.read_bytes() == before[:-1] + b"\x55"
    assert not left(tmp_path)


class _Cancels(Alone):
    def __init__(self, call: int) -> None:
        super().__init__()
        self._call = call

    def progress(self, done: float, total: float, what: str = "") -> None:
        self._call -= 1
        if not self._call:
            raise Cancelled


def test_a_cancelled_edit_leaves_each_file_old_or_new(tmp_path: Path) -> None:
    paths = [lora(tmp_path / f"{number}.safetensors", seed=number) for number in range(3)]
    before = [path.read_bytes() for path in paths]
    for call in range(1, 12):
        parameters = EditParameters(tuple(map(os.fsencode, paths)), title="x", apply=True)
        with contextlib.suppress(Cancelled):
            JOB.run(parameters, _Cancels(call))
        assert not left(tmp_path)
        edits = [past.id for past in edit(history=True).history if past.state == "done"]
        assert not edits or {file.state for file in edit(undo=tuple(edits)).files} <= {"undone", "unchanged"}
        assert [path.read_bytes() for path in paths] == before


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({}, "nothing is to be changed"),
        ({"set": {"a": "b"}, "unset": ("a",)}, "both set and unset"),
        ({"set": {"modelspec.title": "a"}, "title": "b"}, "set twice"),
        ({"set": {"": "a"}}, "needs a name"),
        ({"set": {"a": "\udcff"}}, "no Unicode"),
    ],
)
def test_parameters_that_cannot_be_meant(tmp_path: Path, options: dict[str, Any], word: str) -> None:
    path = lora(tmp_path / "a.safetensors")
    with pytest.raises(UsageError, match=word):
        edit(path, **options)
    with pytest.raises(UsageError, match="name a file"):
        edit(title="x")


def test_a_header_that_would_be_too_long(tmp_path: Path) -> None:
    refused(lora(tmp_path / "a.safetensors"), "longer than", set={"a": "x" * (16 << 20)})


def test_a_journal_that_cannot_be_kept_stops_the_edit(tmp_path: Path, state: Path) -> None:
    """Before any file is touched: one that is damaged, of a newer lorad, or has no room."""
    path = lora(tmp_path / "a.safetensors")
    before = path.read_bytes()
    state.mkdir(parents=True)
    (state / "edits.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(StateError, match=r"edits\.sqlite"):
        edit(path, title="x", apply=True)
    (state / "edits.sqlite").unlink()
    (state / "edits.sqlite").mkdir()
    with pytest.raises(StateError, match=r"edits\.sqlite"):
        edit(path, title="x", apply=True)
    assert path.read_bytes() == before
    assert not left(tmp_path)


def test_a_hostile_header_is_no_more_than_read(tmp_path: Path) -> None:
    """Of many entries: it is edited like another, and the plan does not name them all."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(header([], {f"k{number}": "v" for number in range(50_000)}))
    refused(path, "no layer")
    lora(path, {f"k{number}": "v" * 300 for number in range(20_000)})
    (file,) = edit(path, strip=("k*",), apply=True).files
    assert (file.state, file.entries, len(file.changes)) == ("done", 20_000, 1000)
    assert file.changes[0].old is not None
    assert len(file.changes[0].old) < 240


def test_an_undo_of_a_file_with_more_names_now(tmp_path: Path) -> None:
    """Refused like an edit, with the same remedy."""
    path = lora(tmp_path / "a.safetensors")
    before = path.read_bytes()
    number = edit(path, title="x", apply=True).id
    assert number is not None
    (tmp_path / "b.safetensors").hardlink_to(path)
    assert "--break-links" in edit(undo=(number,)).files[0].reason
    assert edit(undo=(number,), break_links=True).files[0].state == "undone"
    assert path.read_bytes() == before
