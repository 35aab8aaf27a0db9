"""`[hashes] on_arrival` by a real daemon, and `find` by any hash (SPEC sections 4 and 6)."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import signal
import sqlite3
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import blake3
import psutil
import pytest
from safetensors.torch import load_file, save

from loracore.control import FileHashed, Find, Found
from loracore.paths import CATALOGUE
from loractl import Client
from tests.builders.architectures import LayerSpec, sd15
from tests.builders.weights import random_weights
from tests.builders.write import header, library_order, save_checkpoint, write_safetensors
from tests.daemon.jobs.registering import register
from tests.daemon.jobs.samples import Task
from tests.daemon.jobs.serving import release
from tests.integration.running import Running
from tests.integration.test_jobs import hold

SECONDS = 60
ON, OFF = "[hashes]\non_arrival = true", "[hashes]\non_arrival = false"
IDENTITIES = {
    "sha256", "autov1", "autov2", "autov3", "sshs_model_hash", "sshs_legacy_hash", "blake3", "crc32",
}  # fmt: skip


def naive(path: Path) -> dict[str, str]:
    """All hashes of a file, with everything in memory and by the libraries that others use."""
    data = path.read_bytes()
    found = {
        "sha256": hashlib.sha256(data).hexdigest(),
        "autov2": hashlib.sha256(data).hexdigest()[:10],
        "blake3": blake3.blake3(data).hexdigest(),
        "crc32": f"{zlib.crc32(data):08x}",
    }
    if len(data) >= 0x110000:
        found["autov1"] = hashlib.sha256(data[0x100000:0x110000]).hexdigest()[:8]
    if path.suffix == ".safetensors":
        (length,) = struct.unpack("<Q", data[:8])
        found["sshs_model_hash"] = hashlib.sha256(data[8 + length :]).hexdigest()
        found["autov3"] = found["sshs_model_hash"][:12]
        found["sshs_legacy_hash"] = hashlib.sha256(save(load_file(path), {})[0x100000:0x110000]).hexdigest()[:8]
    return found


def fill(folder: Path) -> list[Path]:
    """Small and large files, in several containers, under several names, the same and not."""
    folder.mkdir(exist_ok=True)
    large, small = random_weights(sd15(32, every=8), 1), random_weights(sd15(4, width=4, every=12), 2)
    order = library_order(large)
    files = [
        Path(write_safetensors(str(folder / "large.safetensors"), large, order=order)),
        Path(write_safetensors(str(folder / "edited.safetensors"), large, order=order, metadata={"title": "x"})),
        Path(write_safetensors(str(folder / "small.safetensors"), small, order=library_order(small))),
        Path(save_checkpoint(str(folder / "small.pt"), small)),
    ]
    os.link(files[0], folder / "another name.safetensors")
    (folder / "bad.safetensors").write_bytes(b"x" * 100)
    return [*files, folder / "another name.safetensors"]


def write_long(path: Path, mebibytes: int) -> Path:
    """A sound file that is written at once and takes a while to be hashed: a hole but for its header."""
    size = mebibytes << 20
    with path.open("wb") as file:
        file.write(header([LayerSpec(path.stem, "F16", (size // 2,))]))
        file.truncate(file.tell() + size)
    return path


def await_hashes(daemon: Running, paths: Iterable[Path]) -> None:
    with daemon.client() as client, client.events(["hashed"]) as events:
        client.wait(SECONDS)
        for path in paths:
            while not client.show(path).hashes:
                events.next(SECONDS)


def find(client: Client, prefix: str) -> set[tuple[str, str, str]]:
    """Files by identity hashes."""
    found = client.find(prefix)
    return {(os.fsdecode(one.path), one.kind, one.hash) for one in found if one.kind in IDENTITIES}


def note(client: Client, prefix: str) -> str:
    (page,) = client.pages(Find(prefix), Found)
    return page.note


def loractl(daemon: Running, *arguments: str) -> subprocess.CompletedProcess[str]:
    socket = ("--socket", str(daemon.runtime / "control.sock"))
    command = [sys.executable, "-m", "loractl.cli", *arguments, *socket]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def worker(daemon: Running, ready: Callable[[psutil.Process], bool] = lambda _: True) -> psutil.Process:
    """The process that hashes, once it is there and `ready`; it stands still then."""
    while True:
        for child in daemon.children():
            with suppress(psutil.Error):
                if is_worker(child) and ready(child):
                    child.suspend()
                    return child


def await_rest(daemon: Running) -> None:
    """Until there is no more to hash."""
    while any(map(is_worker, daemon.children())):
        pass


def is_worker(process: psutil.Process) -> bool:
    try:
        return "lorad.workers.worker" in process.cmdline()
    except psutil.Error:
        # It has ended just now.
        return False


def has_read(mebibytes: int) -> Callable[[psutil.Process], bool]:
    return lambda process: bool(process.io_counters().read_chars > mebibytes << 20)


def rows(daemon: Running) -> list[tuple[bytes, bytes | None, int]]:
    """What the catalogue holds: path, SHA256, deaths."""
    db = sqlite3.connect(f"file:{daemon.state / CATALOGUE}?mode=ro", uri=True)
    try:
        query = "SELECT path, sha256, deaths FROM hashes LEFT JOIN names USING (file) ORDER BY path"
        return db.execute(query).fetchall()
    finally:
        db.close()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Running]:
    (tmp_path / "loras").mkdir()
    with Running(tmp_path, [tmp_path / "loras"], tables=ON) as daemon:
        yield daemon


def test_each_file_is_found_by_each_of_its_hashes(tmp_path: Path) -> None:
    """Whole and by every prefix, in either case, with 0x or without; nothing else is found."""
    files = fill(tmp_path / "loras")
    hashes = {str(path): naive(path) for path in files}
    whole = {hash for known in hashes.values() for hash in known.values()}
    with Running(tmp_path, [tmp_path / "loras"], tables=ON) as daemon:
        await_hashes(daemon, files)
        with daemon.client() as client:
            for prefix in {hash[:length] for hash in whole for length in (4, 7, 8, 10, 11, 12, 33, 64)}:
                expected = {
                    (path, kind, hash)
                    for path, known in hashes.items()
                    for kind, hash in known.items()
                    if hash.startswith(prefix)
                }
                assert find(client, prefix) == find(client, "0x" + prefix.upper()) == expected
            for path in files:
                assert client.show(path).hashes == hashes[str(path)]
            while (status := client.status().hashing).waiting:
                pass
            assert (status.hashed, status.failed) == (4, 0), "an inode counts once"
            assert note(client, "0" * 64) == ""


def test_what_people_see(tmp_path: Path) -> None:
    """By which hash a file was found, and in one line why it may not have been; the remedy works."""
    (path,) = [path for path in fill(tmp_path / "loras") if path.name == "small.pt"]
    known = naive(path)
    with Running(tmp_path, [tmp_path / "loras"], tables=OFF) as daemon:
        daemon.settle()
        nothing = loractl(daemon, "find", known["autov2"])
        assert (nothing.returncode, nothing.stdout) == (0, "")
        assert nothing.stderr.count("\n") == 1
        assert "set on_arrival = true in [hashes]" in nothing.stderr
        assert "on_arrival" in json.loads(loractl(daemon, "find", known["autov2"], "--json").stdout)["note"]
        assert "hashes " not in loractl(daemon, "status").stdout
        daemon.tables = ON
        daemon.configure([tmp_path / "loras"])
        os.kill(daemon.pid, signal.SIGHUP)
        await_hashes(daemon, [path])
        assert loractl(daemon, "find", f"0x{known['autov2']}").stdout.split() == [
            "SHA256,", "AutoV2", known["sha256"], str(path),
        ]  # fmt: skip
        found = json.loads(loractl(daemon, "find", known["crc32"], "--json").stdout)
        assert found["matches"] == [{"path": str(path), "kind": "crc32", "hash": known["crc32"]}]
        shown = loractl(daemon, "show", str(path)).stdout
        assert ["BLAKE3", known["blake3"]] in map(str.split, shown.splitlines())
        with daemon.client() as client:
            while client.status().hashing.hashed < 4:
                pass
        assert "4 of 4 files hashed" in loractl(daemon, "status").stdout
        assert "4 of 4 files have them" in loractl(daemon, "doctor").stdout


def test_nothing_is_hashed_again_after_a_restart(tmp_path: Path) -> None:
    """And a file that comes then is."""
    files = fill(tmp_path / "loras")
    with Running(tmp_path, [tmp_path / "loras"], tables=ON) as daemon:
        await_hashes(daemon, files)
        daemon.stop()
        with sqlite3.connect(daemon.state / CATALOGUE) as db:
            db.execute("UPDATE hashes SET sha256 = ?", (b"m" * 32,))
        db.close()
        daemon.start()
        late = Path(write_safetensors(str(tmp_path / "loras" / "z.safetensors"), random_weights(sd15(4), 3)))
        await_hashes(daemon, [late])
        await_rest(daemon)
        digest = hashlib.sha256(late.read_bytes()).digest()
        assert [sha256 for _, sha256, _ in rows(daemon)] == [b"m" * 32] * 5 + [digest]


def test_hashes_end_with_their_file(daemon: Running, tmp_path: Path) -> None:
    """With the last of its names; a changed file gets those of what it is now."""
    files = fill(tmp_path / "loras")
    await_hashes(daemon, files)
    before, after = naive(files[2])["sha256"], naive(files[3])["sha256"]
    files[2].write_bytes(files[3].read_bytes())
    files[0].unlink()
    files[1].unlink()
    await_hashes(daemon, [files[2], files[4]])
    with daemon.client() as client:
        assert find(client, before) == set()
        assert find(client, after[:20]) == {(str(path), "sha256", after) for path in files[2:4]}
        assert [os.path.basename(path) for path, _, _ in rows(daemon)] == [
            b"another name.safetensors", b"small.pt", b"small.safetensors",
        ]  # fmt: skip


def test_a_file_that_is_removed_is_let_go(daemon: Running, tmp_path: Path) -> None:
    """At once, so that its space is free and others are not kept waiting."""
    path = write_long(tmp_path / "loras" / "long.safetensors", 64)
    process = worker(daemon, has_read(4))
    path.unlink()
    psutil.wait_procs([process], timeout=SECONDS)
    assert not process.is_running()
    daemon.settle()
    assert rows(daemon) == []
    with daemon.client() as client:
        assert client.status().errors == []


def test_a_killed_process_is_replaced(daemon: Running, tmp_path: Path) -> None:
    """In the middle of a file, which is hashed in the end, and tells that it was not at first."""
    path = write_long(tmp_path / "loras" / "long.safetensors", 64)
    worker(daemon, has_read(4)).kill()
    await_hashes(daemon, [path])
    with daemon.client() as client:
        assert client.show(path).hashes == naive(path)
        assert any("was killed" in error.text for error in client.status().errors)
    assert [deaths for _, _, deaths in rows(daemon)] == [0]


def test_a_killed_daemon_goes_on_where_it_was(daemon: Running, tmp_path: Path) -> None:
    """What was hashed is not hashed again; the process of the one before is gone although it stood still."""
    files = fill(tmp_path / "loras")
    await_hashes(daemon, files)
    path = write_long(tmp_path / "loras" / "long.safetensors", 64)
    worker(daemon, has_read(4))
    daemon.stop(signal.SIGKILL)
    with sqlite3.connect(daemon.state / CATALOGUE) as db:
        assert db.execute("SELECT count(*) FROM hashes").fetchone() == (4,)
        db.execute("UPDATE hashes SET sha256 = ?", (b"m" * 32,))
    db.close()
    daemon.start()
    await_hashes(daemon, [path])
    assert sum(sha256 == b"m" * 32 for _, sha256, _ in rows(daemon)) == 5


def test_a_file_that_changes_while_it_is_hashed_gets_no_wrong_hash(daemon: Running, tmp_path: Path) -> None:
    """In place, under the reader: what is told and kept is of what the file is in the end."""
    path = write_long(tmp_path / "loras" / "long.safetensors", 64)
    process = worker(daemon, has_read(4))
    with daemon.client() as client, client.events(["hashed"]) as events:
        with path.open("r+b") as file:
            for place in (1 << 20, 60 << 20):
                file.seek(place)
                file.write(b"changed")
        process.resume()
        told = events.next(SECONDS).event
        assert isinstance(told, FileHashed)
        right = hashlib.sha256(path.read_bytes()).hexdigest()
        assert (told.path, told.sha256) == (os.fsencode(path), right)
        assert [sha256 for _, sha256, _ in rows(daemon)] == [bytes.fromhex(right)]


def test_it_stands_still_while_a_job_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And goes on when that has ended."""
    register(tmp_path / "site", monkeypatch)
    (tmp_path / "loras").mkdir()
    path = write_long(tmp_path / "loras" / "long.safetensors", 64)
    task = Task(path=os.fsencode(tmp_path / "fifo"))
    os.mkfifo(task.path)
    with Running(tmp_path, [tmp_path / "loras"], tables=ON) as daemon, daemon.client() as client:
        process = worker(daemon, has_read(4))
        number = hold(client, task)
        # It was we who stopped it; at its next word it is told again.
        process.resume()
        while process.status() != psutil.STATUS_STOPPED:
            pass
        assert client.status().hashing.path == os.fsencode(path)
        release(task)
        client.wait_job(number)
        await_hashes(daemon, [path])
        assert {kind for _, kind, _ in find(client, naive(path)["blake3"])} == {"blake3"}


def test_a_process_that_stands_still_ends_with_its_daemon(daemon: Running, tmp_path: Path) -> None:
    """Also where orphans are adopted within the daemon's session, so that the kernel does not hang up on them."""
    libc, set_child_subreaper = ctypes.CDLL(None), 36
    write_long(tmp_path / "loras" / "long.safetensors", 256)
    assert libc.prctl(set_child_subreaper, 1, 0, 0, 0) == 0
    try:
        process = worker(daemon, has_read(4))
        os.kill(daemon.pid, signal.SIGKILL)
        daemon.wait()
        process.wait(SECONDS / 4)
    finally:
        libc.prctl(set_child_subreaper, 0, 0, 0, 0)
        with suppress(psutil.Error):
            process.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_is_no_fault_of_the_files(tmp_path: Path) -> None:
    """They are hashed as soon as the catalogue has room for it."""
    state = tmp_path / "lorad" / "state"
    state.mkdir(parents=True)
    files = fill(tmp_path / "models")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "lorad-test", state], check=True)
    try:
        with Running(tmp_path / "lorad", [tmp_path / "models"], tables=OFF) as daemon, daemon.client() as client:
            daemon.settle()
            stuffing = state / "stuffing"
            with suppress(OSError), stuffing.open("wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass
            daemon.tables = ON
            daemon.configure([tmp_path / "models"])
            os.kill(daemon.pid, signal.SIGHUP)
            while not any("is full" in told.text or "no room" in told.text for told in client.status().errors):
                client.status()
            stuffing.unlink()
            daemon.settle_when_it_can()
            await_hashes(daemon, files)
    finally:
        subprocess.run(["umount", "-l", state], check=True)
