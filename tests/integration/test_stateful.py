"""Any history of a folder, scanned by real processes: what is said agrees with loading everything."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from safetensors import safe_open

from tests.builders import architectures
from tests.builders.weights import Layers, random_weights
from tests.builders.write import library_order, save_checkpoint, write_safetensors
from tests.integration.scanning import duplicate_sets, partition, scan, view

#: `make soak` raises it.
HISTORIES = int(os.environ.get("LORAD_HISTORIES", "6"))
#: Two layouts: one compared whole, one that is sampled, probed and read in runs.
SPECS = (architectures.sd15(2, width=16, every=40), architectures.sd15(64, width=1, every=12))


def weights(layout: int, seed: int, late: int) -> Layers:
    layers = random_weights(SPECS[layout], seed)
    if late:
        last = library_order(layers)[-1]
        dtype, shape, data = layers[last]
        layers[last] = (dtype, shape, data[:-2] + late.to_bytes(2, "little"))
    return layers


def content(path: str) -> str | None:
    """SHA-256 of all that the real libraries load from a file; None when they refuse it."""
    try:
        if path.endswith(".safetensors"):
            with safe_open(path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
        else:
            tensors = torch.load(path, weights_only=True)
    except Exception:
        # torch has a dozen kinds of errors for a file that ends too early, by where it ends.
        return None
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class History(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.place = tempfile.TemporaryDirectory()
        self.folder = Path(self.place.name, "loras")
        self.state = Path(self.place.name, "state")
        self.folder.mkdir()
        self.dirty = False

    def teardown(self) -> None:
        self.look()
        self.place.cleanup()

    def names(self) -> list[str]:
        return sorted(str(path) for path in self.folder.rglob("*") if path.is_file())

    def pick(self, number: int) -> str:
        names = self.names()
        return names[number % len(names)]

    @rule(
        name=st.sampled_from("abcdefgh"),
        layout=st.integers(0, 1),
        seed=st.integers(0, 2),
        late=st.integers(0, 2),
        container=st.sampled_from(["plain", "metadata", "order", "zip", "legacy"]),
    )  # fmt: skip
    def write(self, name: str, layout: int, seed: int, late: int, container: str) -> None:
        """A file is written to a temporary name and renamed, as downloaders do."""
        layers = weights(layout, seed, late)
        suffix = ".pt" if container in ("zip", "legacy") else ".safetensors"
        temporary = str(self.folder / f"{name}{suffix}.part")
        match container:
            case "metadata":
                write_safetensors(temporary, layers, metadata={"at": name})
            case "order":
                write_safetensors(temporary, layers, order=library_order(layers)[::-1])
            case "zip" | "legacy":
                save_checkpoint(temporary, layers, legacy=container == "legacy")
            case _:
                write_safetensors(temporary, layers)
        os.rename(temporary, temporary.removesuffix(".part"))
        self.dirty = True

    @precondition(lambda self: self.names())
    @rule(number=st.integers(0, 99), new=st.sampled_from("xyz"), link=st.booleans())
    def copy(self, number: int, new: str, link: bool) -> None:
        old = self.pick(number)
        target = self.folder / f"{new}{Path(old).suffix}"
        if str(target) == old:
            return
        target.unlink(missing_ok=True)
        if link:
            os.link(old, target)
        else:
            target.write_bytes(Path(old).read_bytes())
        self.dirty = True

    @precondition(lambda self: self.names())
    @rule(number=st.integers(0, 99), sub=st.sampled_from(["sub", "other"]))
    def move(self, number: int, sub: str) -> None:
        old = Path(self.pick(number))
        (self.folder / sub).mkdir(exist_ok=True)
        os.rename(old, self.folder / sub / old.name)
        self.dirty = True

    @precondition(lambda self: self.names())
    @rule(number=st.integers(0, 99))
    def remove(self, number: int) -> None:
        os.remove(self.pick(number))
        self.dirty = True

    @precondition(lambda self: self.names())
    @rule(number=st.integers(0, 99), keep=st.integers(0, 200))
    def truncate(self, number: int, keep: int) -> None:
        os.truncate(self.pick(number), keep)
        self.dirty = True

    @precondition(lambda self: self.names())
    @rule(number=st.integers(0, 99))
    def overwrite_in_place(self, number: int) -> None:
        """The last byte changes; size and name stay, and mtime is set back."""
        path = self.pick(number)
        before = os.stat(path)
        if not before.st_size:
            return
        with open(path, "r+b") as file:
            file.seek(-1, os.SEEK_END)
            last = file.read(1)
            file.seek(-1, os.SEEK_END)
            file.write(bytes([last[0] ^ 1]))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        self.dirty = True

    @rule()
    def look(self) -> None:
        """A scan says exactly what loading everything says."""
        result = scan(self.folder, self.state)
        files = view(self.state, "processed")["files"]
        assert set(files) == set(self.names())
        sets, inodes = defaultdict(set), defaultdict(set)
        for path in self.names():
            loaded = content(path)
            # What is left of a checkpoint that was cut to some bytes may be of any other kind.
            assert (files[path]["status"] in ("failed", "ignored")) == (loaded is None), (path, files[path])
            if loaded is not None:
                sets[loaded].add(path)
                inodes[os.stat(path).st_ino].add(path)
        assert duplicate_sets(self.state) == {frozenset(paths) for paths in sets.values() if len(paths) > 1}
        assert partition(self.state, "refined_groups") == {frozenset(paths) for paths in sets.values()}
        levels = view(self.state, "duplicates")["levels"]
        for kept, others in view(self.state, "duplicates")["duplicates"].items():
            for path in others:
                same_bytes = Path(path).read_bytes() == Path(kept).read_bytes()
                level = "inode" if os.path.samefile(path, kept) else "file" if same_bytes else "tensors"
                assert levels[path] == level
        assert result.code == int(any(row["status"] == "failed" for row in files.values()))
        self.dirty = False

    @precondition(lambda self: not self.dirty and self.names())
    @rule()
    def look_again(self) -> None:
        """An unchanged folder is not read again."""
        scan(self.folder, self.state)
        assert scan(self.folder, self.state).report["bytes_read"] == 0

    @invariant()
    def no_views_half_written(self) -> None:
        if hasattr(self, "state"):
            assert not list(self.state.glob("*.new"))


History.TestCase.settings = settings(
    max_examples=HISTORIES, stateful_step_count=14, deadline=None, suppress_health_check=list(HealthCheck)
)
TestHistory = History.TestCase
TestHistory.pytestmark = [pytest.mark.timeout(300 + 60 * HISTORIES)]
