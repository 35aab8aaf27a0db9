"""What `loractl scan` says of a folder with everything in it that users have."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3

from tests.builders import architectures, real
from tests.builders.weights import Layers, random_weights
from tests.builders.write import library_order, save_checkpoint, write_safetensors, write_sparse
from tests.integration.scanning import VIEWS, duplicate_sets, loractl, partition, scan, view

SPECS = architectures.sd15(4, width=4, every=6)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "loras"
    path.mkdir()
    return path


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def weights(seed: int) -> Layers:
    return random_weights(SPECS, seed)


def test_same_weights_are_found_in_every_container(folder: Path, state: Path) -> None:
    """SPEC 1: metadata, order and container may differ; the kept file is the oldest."""
    layers = weights(1)
    names = library_order(layers)
    paths = [
        write_safetensors(str(folder / "plain.safetensors"), layers),
        write_safetensors(str(folder / "copy.safetensors"), layers),
        write_safetensors(str(folder / "metadata.safetensors"), layers, metadata={"ss_output_name": "x"}),
        write_safetensors(str(folder / "order.safetensors"), layers, order=names[::-1]),
        save_checkpoint(str(folder / "zip.pt"), layers),
        save_checkpoint(str(folder / "zip copy.pt"), layers),
        save_checkpoint(str(folder / "legacy.ckpt"), layers, legacy=True),
        save_checkpoint(str(folder / "nested.bin"), layers, nested="state_dict"),
    ]
    os.utime(paths[0], ns=(0, 0))
    write_safetensors(str(folder / "other.safetensors"), weights(2))
    result = scan(folder, state)
    assert result.code == 0
    assert duplicate_sets(state) == {frozenset(paths)}
    levels = view(state, "duplicates")["levels"]
    assert levels == {path: "file" if path == paths[1] else "tensors" for path in paths[1:]}
    assert result.report["duplicates"] == {paths[0]: sorted(paths[1:])}
    assert result.report["wasted_bytes"] == sum(os.path.getsize(path) for path in paths[1:])
    assert list(view(state, "groups")["groups"].values()) == [sorted([*paths, str(folder / "other.safetensors")])]


def test_equal_checkpoints_are_of_level_file(folder: Path, state: Path) -> None:
    """SPEC 1: level `file` is every byte equal, for torch's zip too, whose bytes between layers count."""
    first = save_checkpoint(str(folder / "a.pt"), weights(1))
    (folder / "b.pt").write_bytes(Path(first).read_bytes())
    os.utime(first, ns=(0, 0))
    scan(folder, state)
    assert view(state, "duplicates")["levels"] == {str(folder / "b.pt"): "file"}


def test_weight_signature_is_over_the_layer_digests_in_layout_order(folder: Path, state: Path) -> None:
    """SPEC 1: whoever knows the layers can compute the weight signature of duplicates."""
    layers = weights(1)
    for name in "ab":
        write_safetensors(str(folder / f"{name}.safetensors"), layers)
    scan(folder, state)
    digests = b"".join(blake3(layers[name][2]).digest() for name in sorted(layers))
    assert list(view(state, "refined_groups")["refined_groups"]) == [blake3(digests).hexdigest()]


def test_equal_shapes_under_other_names_are_no_duplicates(folder: Path, state: Path) -> None:
    """SPEC 1: the layout includes names and dtypes."""
    layers = weights(1)
    write_safetensors(str(folder / "a.safetensors"), layers)
    write_safetensors(str(folder / "b.safetensors"), {f"x.{name}": layer for name, layer in layers.items()})
    result = scan(folder, state)
    assert (result.report["groups"], result.report["duplicate_sets"]) == (2, 0)


def test_one_late_difference_is_seen(folder: Path, state: Path) -> None:
    """SPEC 2.4: files that differ in the last bit of the last layer are not duplicates."""
    layers = weights(1)
    write_safetensors(str(folder / "a.safetensors"), layers)
    last = library_order(layers)[-1]
    dtype, shape, data = layers[last]
    changed = {**layers, last: (dtype, shape, data[:-1] + bytes([data[-1] ^ 1]))}
    write_safetensors(str(folder / "b.safetensors"), changed)
    assert scan(folder, state).report["duplicates"] == {}
    assert len(partition(state, "refined_groups")) == 2


def test_every_kind_of_name_is_handled_and_reported(folder: Path, state: Path) -> None:
    """SPEC 3, 11: a bad file is recorded with its reason and never stops the rest."""
    good = write_safetensors(str(folder / "good.safetensors"), weights(1))
    os.link(good, folder / "hard.safetensors")
    os.symlink(good, folder / "soft.safetensors")
    whole = Path(good).read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[:-10])
    (folder / "cut header.safetensors").write_bytes(whole[:100])
    (folder / "empty.safetensors").touch()
    (folder / "noise.safetensors").write_bytes(b"\xff" * 500)
    (folder / "noise.bin").write_bytes(b"\xff" * 500)
    (folder / "evil.pt").write_bytes(b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00idq\x00\x85R.")
    (folder / "notes.txt").write_text("hello")
    (folder / "new.safetensors.part").write_bytes(whole[:50])
    (folder / "aria.safetensors").write_bytes(bytes(1000))
    (folder / "aria.safetensors.aria2").write_bytes(b"x")
    write_safetensors(str(folder / "none.safetensors"), {})
    os.mkfifo(folder / "pipe.safetensors")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(folder / "socket.pt"))
        result = scan(folder, state)
    files = view(state, "processed")["files"]
    status = {os.path.basename(path): row["status"] for path, row in files.items()}
    assert result.code == 1
    assert status == {
        "good.safetensors": "duplicate", "hard.safetensors": "duplicate", "soft.safetensors": "ignored",
        "cut.safetensors": "failed", "cut header.safetensors": "failed", "empty.safetensors": "failed",
        "noise.safetensors": "failed", "noise.bin": "ignored", "evil.pt": "failed", "notes.txt": "ignored",
        "new.safetensors.part": "ignored", "aria.safetensors": "ignored", "aria.safetensors.aria2": "ignored",
        "none.safetensors": "ignored", "pipe.safetensors": "ignored", "socket.pt": "ignored",
    }  # fmt: skip
    assert all((row["error"] is None) == (row["status"] == "duplicate") for row in files.values())
    assert result.report["failed"] == 5
    duplicates = view(state, "duplicates")
    assert duplicates["links"] == {
        good: [str(folder / "hard.safetensors")], str(folder / "hard.safetensors"): [good]
    }  # fmt: skip
    assert set(duplicates["levels"].values()) == {"inode"}
    assert duplicates["wasted_bytes"] == 0


def test_followed_links_are_names_of_their_file(folder: Path, state: Path, tmp_path: Path) -> None:
    """Symbolic links are looked through when asked, and loops end."""
    outside = tmp_path / "outside"
    outside.mkdir()
    target = write_safetensors(str(outside / "a.safetensors"), weights(1))
    os.symlink(target, folder / "link.safetensors")
    os.symlink(outside, folder / "folder")
    os.symlink(folder, outside / "loop")
    os.symlink(folder / "nothing", folder / "dead.safetensors")
    result = scan(folder, state, "--follow-symlinks")
    assert set(view(state, "duplicates")["levels"].values()) == {"inode"}
    assert (result.report["files"], result.report["duplicate_sets"]) == (3, 1)


def test_bins_are_left_out_unless_they_are_what_is_scanned(folder: Path, state: Path) -> None:
    """As by the default of `[watch] exclude`."""
    (folder / ".Trash-0").mkdir()
    for name in ("a.safetensors", ".Trash-0/a.safetensors", ".Trash-0/b.safetensors"):
        write_safetensors(str(folder / name), random_weights(SPECS, 1))
    assert scan(folder, state).report["files"] == 1
    assert scan(folder / ".Trash-0", state).report["duplicate_sets"] == 1


def test_names_that_are_not_utf8_survive(folder: Path, state: Path) -> None:
    """SPEC 3: paths come back through surrogate escapes."""
    name = os.path.join(os.fsencode(folder), b"caf\xe9\n \xff.safetensors")
    copy = os.path.join(os.fsencode(folder), "snö.safetensors".encode())
    for path in (name, copy):
        write_safetensors(os.fsdecode(path), weights(1))
    result = scan(folder, state)
    assert {os.fsencode(path) for path in view(state, "processed")["files"]} == {name, copy}
    (kept, others), *_ = result.report["duplicates"].items()
    assert {os.fsencode(path) for path in (kept, *others)} == {name, copy}


def test_second_scan_reads_nothing_and_changes_nothing(folder: Path, state: Path) -> None:
    """A second scan of an unchanged folder reads no file content, and rewrites no view."""
    for name in "abc":
        write_safetensors(str(folder / f"{name}.safetensors"), weights(ord(name) // 98))
    (folder / "bad.safetensors").write_bytes(b"1234567890")
    first = scan(folder, state)
    before = {name: (state / f"{name}.json").read_bytes() for name in VIEWS}
    second = scan(folder, state)
    assert second.code == first.code == 1
    assert second.report["bytes_read"] == 0
    assert {**second.report, "bytes_read": 0, "seconds": 0} == {**first.report, "bytes_read": 0, "seconds": 0}
    assert {name: (state / f"{name}.json").read_bytes() for name in VIEWS} == before


def test_views_carry_format_generation_and_time(folder: Path, state: Path) -> None:
    """SPEC 3: all five are of one generation."""
    write_safetensors(str(folder / "a.safetensors"), weights(1))
    report = scan(folder, state).report
    heads = [{key: view(state, name)[key] for key in ("format", "generation", "updated")} for name in VIEWS]
    assert heads == [heads[0]] * len(VIEWS)
    assert heads[0]["generation"] == report["generation"]
    progress = view(state, "processed")["progress"]
    assert progress == {
        "files_total": 1, "files_processed": 1, "percent": 100.0,
        "bytes_total": os.path.getsize(folder / "a.safetensors"), "bytes_read": report["bytes_read"],
    }  # fmt: skip


def test_changes_between_scans_are_followed(folder: Path, state: Path) -> None:
    """Files added, changed, moved and removed: the views say what is there now."""
    a, b, c = (write_safetensors(str(folder / f"{name}.safetensors"), weights(1)) for name in "abc")
    scan(folder, state)
    os.rename(b, folder / "moved.safetensors")
    os.remove(c)
    d = write_safetensors(str(folder / "d.safetensors"), weights(1), metadata={"k": "v"})
    scan(folder, state)
    assert duplicate_sets(state) == {frozenset([a, str(folder / "moved.safetensors"), d])}
    write_safetensors(a, weights(2))
    scan(folder, state)
    assert duplicate_sets(state) == {frozenset([str(folder / "moved.safetensors"), d])}
    os.remove(d)
    scan(folder, state)
    assert duplicate_sets(state) == set()
    assert {row["status"] for row in view(state, "processed")["files"].values()} == {"unique"}


def test_another_folder_leaves_the_first_ones_knowledge(tmp_path: Path, state: Path) -> None:
    """The views show the folders that were asked for; what is known of others is kept."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_safetensors(str(tmp_path / name / "a.safetensors"), weights(1))
    scan(tmp_path / "one", state)
    scan(tmp_path / "two", state)
    assert list(view(state, "processed")["files"]) == [str(tmp_path / "two" / "a.safetensors")]
    again = scan(tmp_path / "one", state)
    assert again.report["bytes_read"] == 0
    assert list(view(state, "processed")["files"]) == [str(tmp_path / "one" / "a.safetensors")]


def test_a_layer_larger_than_the_arena_is_streamed(folder: Path, state: Path) -> None:
    """A layer of over two gigabytes (sparse) is digested without holding it; one byte at its end is seen."""
    size = (2 << 30) + 12_345
    specs = [architectures.LayerSpec("big", "U8", (size,)), architectures.LayerSpec("small", "F16", (9,))]
    for name, last in (("a", b"\x01"), ("b", b"\x01"), ("c", b"\x02")):
        write_sparse(str(folder / f"{name}.safetensors"), specs, pieces={"big": {size - 1: last}})
    scan(folder, state)
    assert duplicate_sets(state) == {frozenset(str(folder / f"{name}.safetensors") for name in "ab")}


def test_files_by_the_real_writers_are_read(folder: Path, state: Path) -> None:
    """What peft, lycoris, diffusers, safetensors and torch write is read, and copies are found."""
    written = []
    for writer in (real.by_peft, real.by_lycoris, real.by_diffusers, real.by_safetensors, real.by_torch):
        (folder / writer.__name__).mkdir()
        written += writer(str(folder / writer.__name__))
    (folder / "peft_bin").mkdir()
    written += real.by_peft(str(folder / "peft_bin"), safetensors=False)
    result = scan(folder, state)
    files = view(state, "processed")["files"]
    weights_only = [path for path in written if not path.endswith(".json")]
    assert result.code == 0
    assert {files[path]["status"] for path in weights_only} <= {"unique", "duplicate"}
    peft = {path for path in weights_only if "peft" in path}
    assert peft in duplicate_sets(state)


def test_bad_usage_is_one_line_and_exit_2(tmp_path: Path) -> None:
    """SPEC 4, 11: wrong usage names what is wrong."""
    missing = loractl("scan", tmp_path / "missing")
    assert (missing.returncode, missing.stdout) == (2, "")
    assert missing.stderr == f"loractl: {tmp_path / 'missing'}: no such folder\n"
    (tmp_path / "file").touch()
    assert "not a folder" in loractl("scan", tmp_path / "file").stderr
    assert loractl("scan").returncode == 2
    assert loractl("scan", "--loaders", "0", tmp_path).returncode == 2


def test_two_scans_of_one_state_folder_exclude_each_other(folder: Path, state: Path) -> None:
    """SPEC 4: exit 5 while another lorad works on the state folder, and nothing of its is touched."""
    write_safetensors(str(folder / "a.safetensors"), weights(1))
    scan(folder, state)
    lock = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); print('held', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", lock, str(state / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        refused = scan(folder, state)
        holder.communicate(b"\n")
    assert refused.code == 5
    assert "another lorad" in refused.stderr
    assert scan(folder, state).code == 0


def test_state_folder_that_cannot_be_made_is_named(folder: Path, tmp_path: Path) -> None:
    """SPEC 11: a state folder that cannot be used is refused with the remedy."""
    (tmp_path / "file").touch()
    refused = scan(folder, tmp_path / "file" / "state")
    assert refused.code == 5
    assert "--state-dir" in refused.stderr


def test_damaged_catalogue_is_named_not_overwritten(folder: Path, state: Path) -> None:
    """A catalogue that is no database is left as it is; the message says what to do."""
    state.mkdir()
    (state / "catalogue.sqlite").write_bytes(b"not a database" * 100)
    refused = scan(folder, state)
    assert refused.code == 5
    assert "move it away" in refused.stderr
    assert (state / "catalogue.sqlite").read_bytes() == b"not a database" * 100


def test_state_folder_inside_the_library_is_not_scanned(folder: Path) -> None:
    """The daemon's own files are not part of the library."""
    write_safetensors(str(folder / "a.safetensors"), weights(1))
    state = folder / "state"
    assert scan(folder, state).report["files"] == 1
    assert scan(folder, state).report["files"] == 1


def test_client_imports_nothing_heavy() -> None:
    """The client starts fast: no torch, numpy, rich, zmq or blake3 before somebody needs them."""
    heavy = ("torch", "numpy", "rich", "zmq", "blake3")
    code = f"import sys, loractl.cli; print([m for m in {heavy} if m in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"


def test_loader_imports_nothing_heavy() -> None:
    """A loader never imports torch, scipy, matplotlib or numpy to start."""
    code = (
        "import sys, lorad.pipeline.loader, lorad.pipeline.hasher;"
        "print([m for m in ('torch', 'numpy', 'scipy', 'matplotlib', 'sqlite3') if m in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "lorad-test", place], check=False)
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_is_named_and_nothing_is_half_written(folder: Path, small_disk: Path, tmp_path: Path) -> None:
    """SPEC 3, 11: when the state folder's disk is full, what was there stays whole, and room lets it go on."""
    first = write_safetensors(str(folder / "a.safetensors"), weights(1))
    assert scan(folder, small_disk).code == 0
    before = {name: (small_disk / f"{name}.json").read_bytes() for name in VIEWS}
    free = os.statvfs(small_disk)
    (small_disk / "ballast").write_bytes(bytes(free.f_bavail * free.f_frsize))
    for number in range(40):
        os.link(first, folder / f"{'long name ' * 10}{number}.safetensors")
        write_safetensors(str(folder / f"{number}.safetensors"), weights(number))
    refused = scan(folder, small_disk)
    assert refused.code == 5
    assert refused.stderr.count("\n") == 1
    assert {name: (small_disk / f"{name}.json").read_bytes() for name in VIEWS} == before
    (small_disk / "ballast").unlink()
    assert scan(folder, small_disk).code == 0
    scan(folder, tmp_path / "other")
    assert duplicate_sets(small_disk) == duplicate_sets(tmp_path / "other")
