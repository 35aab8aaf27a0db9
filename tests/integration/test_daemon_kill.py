"""A daemon that is killed, with its children, at any moment while files come and go, ends up with the truth."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import threading
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.builders import architectures
from tests.builders.weights import random_weights
from tests.builders.write import library_order, write_safetensors
from tests.integration.running import Running
from tests.integration.scanning import VIEWS, duplicate_sets

#: `make soak` raises it.
KILLS = int(os.environ.get("LORAD_DAEMON_KILLS", "15"))
SEEDS = 6


class Churn(threading.Thread):
    """Files that come, are overwritten, renamed and removed, until told to stop; `content` says what is where."""

    def __init__(self, root: Path, originals: list[tuple[int, Path]], chance: random.Random) -> None:
        super().__init__(daemon=True)
        self._root = root
        self._originals = originals
        self._chance = chance
        self.content: dict[str, int] = {}
        self.ended = threading.Event()

    def run(self) -> None:
        number = 0
        while not self.ended.wait(self._chance.uniform(0.005, 0.05)):
            number += 1
            path = self._root / f"{number % 40}.safetensors"
            match self._chance.randrange(5):
                case 0 | 1:
                    self._copy(path)
                case 2 if self.content:
                    gone = self._chance.choice(sorted(self.content))
                    os.unlink(gone)
                    del self.content[gone]
                case 3 if self.content:
                    old = self._chance.choice(sorted(self.content))
                    seed = self.content.pop(old)
                    os.rename(old, path)
                    self.content[str(path)] = seed
                case 4:
                    part = self._root / "download.part"
                    seed, original = self._chance.choice(self._originals)
                    shutil.copyfile(original, part)
                    os.rename(part, path)
                    self.content[str(path)] = seed

    def _copy(self, path: Path) -> None:
        seed, original = self._chance.choice(self._originals)
        shutil.copyfile(original, path)
        self.content[str(path)] = seed

    def sets(self) -> set[frozenset[str]]:
        """What has to be found."""
        groups = defaultdict(set)
        for path, seed in self.content.items():
            groups[seed].add(path)
        return {frozenset(paths) for paths in groups.values() if len(paths) > 1}


class Reader(threading.Thread):
    """Reads the JSON files all the time: each is whole, and duplicates do not run ahead."""

    def __init__(self, state: Path) -> None:
        super().__init__(daemon=True)
        self._state = state
        self.ended = threading.Event()
        self.read = 0
        self.failure = ""

    def run(self) -> None:
        while not self.ended.wait(0.01):
            for name in reversed(VIEWS):
                try:
                    text = (self._state / f"{name}.json").read_text()
                except FileNotFoundError:
                    continue
                try:
                    json.loads(text)
                    self.read += 1
                except ValueError as error:
                    self.failure = f"{name}: {error}"
                    return


@pytest.fixture
def originals(tmp_path: Path) -> list[tuple[int, Path]]:
    """The same weights in several containers each, and epochs that differ late."""
    folder = tmp_path / "originals"
    folder.mkdir()
    found = []
    specs = architectures.sd15(8, width=1, every=4)
    for seed in range(SEEDS):
        layers = random_weights(specs, seed // 2)
        names = library_order(layers)
        if seed % 2:
            dtype, shape, data = layers[names[-2]]
            layers = {**layers, names[-2]: (dtype, shape, bytes(len(data)))}
        for variant, order in (("a", names), ("b", names[::-1])):
            path = folder / f"{seed}{variant}.safetensors"
            write_safetensors(str(path), layers, order=order, metadata={"variant": variant})
            found.append((seed, path))
    return found


@pytest.mark.timeout(120 + 5 * KILLS)
def test_killed_under_churn(originals: list[tuple[int, Path]], tmp_path: Path) -> None:
    chance = random.Random(4)
    root = tmp_path / "models"
    root.mkdir()
    with Running(tmp_path, [root], settle_seconds=0.05, quiet_seconds=0.3) as daemon:
        churn, reader = Churn(root, originals, chance), Reader(daemon.state)
        churn.start()
        reader.start()
        pause = threading.Event()
        for _ in range(KILLS):
            pause.wait(chance.uniform(0.0, 0.5))
            children = daemon.children()
            victim = chance.choice([psutil.Process(daemon.pid), *children])
            # One that was idle may have ended by itself.
            with suppress(psutil.NoSuchProcess):
                victim.kill()
            if victim.pid == daemon.pid or daemon.ended():
                gone = daemon.wait()
                _, alive = psutil.wait_procs(children, timeout=20)
                assert not alive, f"children outlived the daemon, which ended with {gone}: {alive}"
                daemon.start(ready=chance.random() < 0.5)
        churn.ended.set()
        churn.join()
        daemon.settle_at_last()
        reader.ended.set()
        reader.join()
        assert not reader.failure
        assert reader.read > KILLS
        assert duplicate_sets(daemon.state) == churn.sets()
        with daemon.client() as client:
            assert client.audit().differences == []
            assert client.status().files_total == len(churn.content) + (root / "download.part").exists()
        assert not list(daemon.state.rglob("*.new"))
        descriptors = len(os.listdir(f"/proc/{daemon.pid}/fd"))
        assert daemon.stop() == 0
        daemon.start()
        daemon.settle()
        with daemon.client() as client:
            assert client.audit().differences == []
        # The threads that have just worked may have one or two open.
        assert descriptors <= len(os.listdir(f"/proc/{daemon.pid}/fd")) + 4
        assert daemon.stop(signal.SIGTERM) == 0
