"""Surroundings and files that mean ill, or are merely odd."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

from loracore.paths import CATALOGUE
from tests.builders import architectures
from tests.builders.weights import random_weights
from tests.builders.write import header, save_checkpoint, write_safetensors, write_sparse
from tests.integration.running import running
from tests.integration.scanning import VIEWS, Embedded, duplicate_sets, loractl, scan, view

SPECS = architectures.sd15(4, width=4, every=12)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "loras"
    path.mkdir()
    return path


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def test_modules_in_the_scanned_folder_are_not_run(folder: Path, state: Path) -> None:
    """A `msgspec.py` in the folder that somebody downloaded and stands in is just a file."""
    for name in ("msgspec", "zmq", "blake3", "lorad", "json"):
        (folder / f"{name}.py").write_text("open('owned', 'w')")
    program = Path(sys.executable).with_name("loractl")
    ended = subprocess.run([program, "scan", "--json", "--state-dir", state, "."], cwd=folder, check=False)
    assert ended.returncode == 0
    assert not (folder / "owned").exists()


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_that_was_removed_is_written_again(folder: Path, state: Path, name: str) -> None:
    """The JSON files are views: whoever removes or spoils one gets it back with the next scan."""
    for copy in "ab":
        write_safetensors(str(folder / f"{copy}.safetensors"), random_weights(SPECS, 1))
    scan(folder, state)
    before = view(state, name)
    (state / f"{name}.json").unlink()
    assert scan(folder, state).report["bytes_read"] == 0
    after = view(state, name)
    differs = {"updated", "progress", "stages", "totals"}
    assert {k: v for k, v in after.items() if k not in differs} == {
        k: v for k, v in before.items() if k not in differs
    }


def test_the_library_cannot_be_its_own_state_folder(folder: Path) -> None:
    """`--state-dir D D` is refused, rather than found to be empty."""
    assert scan(folder, folder).code == 2
    assert loractl("scan", "--state-dir", "", folder).returncode == 2
    assert loractl("scan", "").returncode == 2


def test_names_that_are_not_utf8_in_messages(tmp_path: Path) -> None:
    """A folder that is not there is named, whatever its name."""
    ended = loractl("scan", os.fsdecode(os.fsencode(tmp_path) + b"/nope\xff"))
    assert ended.returncode == 2
    assert "nope" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_closed_standard_streams_are_no_error(folder: Path, state: Path) -> None:
    """`>&-` and `2>&-` lose the output and nothing else."""
    shell = f'"{sys.executable}" -m loractl.cli scan --state-dir "{state}" "{folder}" >&- 2>&-'
    assert subprocess.run(["sh", "-c", shell], check=False).returncode == 0


def test_one_inode_with_names_of_two_kinds_is_read_by_its_content(folder: Path, state: Path) -> None:
    """The suffix of whichever name comes first does not decide what a file is."""
    layers = random_weights(SPECS, 1)
    plain = write_safetensors(str(folder / "z.safetensors"), layers)
    os.link(plain, folder / "a.pt")
    pickled = save_checkpoint(str(folder / "y.pt"), layers)
    os.link(pickled, folder / "b.safetensors")
    scan(folder, state)
    assert duplicate_sets(state) == {frozenset(map(str, folder.iterdir()))}


def test_strided_layers_cost_about_their_bytes(folder: Path, state: Path) -> None:
    """Transposed and channels-last tensors are put in order fast, and not sampled."""
    value = {
        "conv": torch.rand(640, 640, 3, 3).to(memory_format=torch.channels_last),
        "tall": torch.randint(0, 255, (4_000_000, 2), dtype=torch.uint8).t().contiguous().t(),
    }
    for name in "ab":
        torch.save(value, folder / f"{name}.pt")
    torch.save({name: tensor.contiguous() for name, tensor in value.items()}, folder / "c.pt")
    report = scan(folder, state).report
    assert duplicate_sets(state) == {frozenset(map(str, folder.iterdir()))}
    # Between the elements of a strided layer lie bytes that only the residue covers. On a busy machine a loader
    # may be replaced, whose work is done again.
    assert report["bytes_read"] <= 4.5 * report["bytes_total"]


def limited(text: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "text",
    [
        b'{"__metadata__":{"a":[' + b"[]," * 5_000_000 + b"[]]}}",
        b'{"__metadata__":{' + b",".join(b'"%07d":""' % n for n in range(1_200_000)) + b"}}",
        b"{" + b",".join(b'"%07d":0' % n for n in range(1_400_000)) + b"}",
        b'{"__metadata__":{"a":"' + b"\\\\" * 8_000_000 + b'"}}',
        b'{"__metadata__":' + b'{"a":' * 3_000_000,
    ],
    ids=["lists", "metadata", "entries", "escapes", "nested"],
)
def test_hostile_headers_cost_little(tmp_path: Path, text: bytes) -> None:
    """SPEC 11: a header of the largest size that is not one costs bounded memory; the bound includes Python."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(limited(text))
    code = (
        "import sys; from loracore.tensorfile import open_container; from loracore.errors import FileError\n"
        "try: open_container(sys.argv[1])\n"
        "except FileError: print(open('/proc/self/status').read())"
    )
    command = [sys.executable, "-c", code, path]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    peak = next(line.split()[1] for line in ended.stdout.splitlines() if line.startswith("VmHWM"))
    assert int(peak) < 250 * 1024


def test_metadata_mean_the_same_whoever_comes_first(folder: Path, state: Path) -> None:
    """A header is judged alike whether or not one with the same tensors was read before."""
    for good in ("a", "c"):
        write_safetensors(str(folder / f"{good}.safetensors"), random_weights(SPECS, 1), metadata={"x": "y"})
    whole = (folder / "a.safetensors").read_bytes()
    for name in ("0", "b", "d"):
        (folder / f"{name}.safetensors").write_bytes(whole.replace(b'"x":"y"', b'"x":"\\ud800"'))
        length = int.from_bytes(whole[:8], "little") + 5
        broken = bytearray((folder / f"{name}.safetensors").read_bytes())
        broken[:8] = length.to_bytes(8, "little")
        (folder / f"{name}.safetensors").write_bytes(broken)
    scan(folder, state, "--loaders", "1")
    files = view(state, "processed")["files"]
    assert {Path(path).stem for path, row in files.items() if row["status"] == "failed"} == {"0", "b", "d"}


def test_headers_that_race_a_change_lose_no_layout(folder: Path, state: Path) -> None:
    """A file that is touched while its header is read is read again, and others of its layout as well."""
    specs = [architectures.LayerSpec(f"layer.{number:06d}", "F16", (1,)) for number in range(30_000)]
    for name in "abcdef":
        write_sparse(str(folder / f"{name}.safetensors"), specs)
    embedded = Embedded(folder, state, loaders=1)
    touched = 0
    while embedded.process.poll() is None and touched < 40:
        for child in embedded.children():
            try:
                opened = [os.readlink(f"/proc/{child.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{child.pid}/fd")]
            except (OSError, psutil.NoSuchProcess):
                continue
            for path in opened:
                if path.startswith(str(folder)):
                    os.utime(path)
                    touched += 1
    assert embedded.finish() == 0
    scan(folder, state)
    assert duplicate_sets(state) == {frozenset(str(folder / f"{name}.safetensors") for name in "abcdef")}


def test_a_hasher_that_dies_inside_a_layer_is_replaced_once(folder: Path, state: Path) -> None:
    """What it knew of a long layer is lost with it, so the layer is read again; the next one does not fail."""
    for name in "ab":
        write_sparse(str(folder / f"{name}.safetensors"), [architectures.LayerSpec("big", "U8", (1 << 30,))])
    embedded = Embedded(folder, state, loaders=1)
    killed = False
    while not killed and embedded.process.poll() is None:
        for child in embedded.children():
            try:
                if "lorad.pipeline.hasher" in child.cmdline() and child.cpu_times().user > 0.15:
                    child.send_signal(signal.SIGKILL)
                    killed = True
            except psutil.NoSuchProcess:
                continue
    assert killed
    assert embedded.process.stdout is not None
    reports = embedded.process.stdout.read()
    embedded.finish()
    assert reports.count(b"hasher process") == 1
    assert duplicate_sets(state) == {frozenset(str(folder / f"{name}.safetensors") for name in "ab")}


def test_files_replaced_by_something_else_are_what_they_are_now(folder: Path, state: Path) -> None:
    """Between two scans a file becomes a link, a pipe, a folder: none of these failed."""
    for name in "abc":
        write_safetensors(str(folder / f"{name}.safetensors"), random_weights(SPECS, 1))
    scan(folder, state)
    paths = [folder / f"{name}.safetensors" for name in "abc"]
    for path in paths:
        path.unlink()
    paths[0].symlink_to("/dev/null")
    os.mkfifo(paths[1])
    paths[2].mkdir()
    result = scan(folder, state)
    assert (result.code, result.report["failed"], result.report["duplicates"]) == (0, 0, {})


def test_what_no_file_needs_is_forgotten(folder: Path, state: Path) -> None:
    """The catalogue does not grow with files that come and go."""
    for generation in range(3):
        specs = [architectures.LayerSpec(f"layer.{generation}", "F16", (9,))]
        write_safetensors(str(folder / "a.safetensors"), random_weights(specs, generation))
        scan(folder, state)
    with sqlite3.connect(state / CATALOGUE) as db:
        counts = [
            db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("layouts", "arrangements")
        ]
    db.close()
    assert counts == [1, 1]


def test_a_young_file_is_read_again_under_all_its_names(folder: Path, state: Path) -> None:
    """A write within the clock's tick of the first look could go unseen, so the next scan looks again."""
    path = write_safetensors(str(folder / "a.safetensors"), random_weights(SPECS, 1))
    os.link(path, folder / "b.safetensors")
    scan(folder, state)
    with sqlite3.connect(state / CATALOGUE) as db:
        # As if the scan had been that quick.
        db.execute("UPDATE files SET read_ns = ctime_ns + 1000")
    db.close()
    size = len(header([architectures.LayerSpec(name, *rest) for name, *rest in SPECS]))
    assert scan(folder, state).report["bytes_read"] >= size // 2
    assert scan(folder, state).report["bytes_read"] == 0


@pytest.mark.parametrize("year", [1600, 2300, 30_000, 10**9, -(10**9)])
def test_a_file_may_have_any_date(disk: Callable[[str], str], tmp_path: Path, state: Path, year: int) -> None:
    """Before 1678 and after 2262 its nanoseconds do not fit into 64 bits; it is handled as any other."""
    folder = Path(disk("tmpfs"))
    seconds = int((year - 1970) * 365.2425 * 86400)
    for copy in "ab":
        path = write_safetensors(str(folder / f"{copy}.safetensors"), random_weights(SPECS, 1))
        os.utime(path, ns=(seconds * 10**9, seconds * 10**9))
    (folder / "note.txt").touch()
    os.utime(folder / "note.txt", ns=(seconds * 10**9, seconds * 10**9))
    assert scan(folder, state).report["failed"] == 0
    assert duplicate_sets(state) == {frozenset(str(folder / f"{copy}.safetensors") for copy in "ab")}
    with running(tmp_path / "daemon", folder) as daemon, daemon.client() as client:
        assert client.status().files == {"duplicate": 2, "ignored": 1}
        assert client.audit().differences == []


def test_files_may_have_any_size(disk: Callable[[str], str], tmp_path: Path) -> None:
    """Sums of what they claim to be need not fit into 64 bits."""
    folder = Path(disk("tmpfs"))
    for number in range(1, 5):
        specs = [architectures.LayerSpec("w" * number, "U8", ((1 << 63) - (1 << 20),))]
        write_sparse(str(folder / f"{number}.safetensors"), specs)
    with running(tmp_path / "daemon", folder) as daemon, daemon.client() as client:
        assert client.status().files == {"unique": 4}
        assert client.status().bytes_total == (1 << 63) - 1
        totals = view(daemon.state, "statistics")["totals"]
        assert totals["bytes_total"] == (1 << 63) - 1
