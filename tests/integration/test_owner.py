"""The promise of de-duplication, against a real daemon: whatever an owner does, his tensors stay readable.

A history is a row of what people do with model folders. Beside the disk, the names are kept as they would be
without lorad: as long as one of them has some content, that content is to be found under a name that is in view.
`LORAD_OWNERS` says how many histories of each action are tried on ext4; on XFS and Btrfs it is three for ten.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.builders.architectures import LayerSpec
from tests.builders.weights import random_weights
from tests.builders.write import write_safetensors
from tests.integration.running import Running

HISTORIES = int(os.environ.get("LORAD_OWNERS", "1"))
ON = [("ext4", HISTORIES), ("xfs", 3 * HISTORIES // 10), ("btrfs", 3 * HISTORIES // 10)]
STEPS = 14
SPECS = [LayerSpec("down", "F16", (8, 64)), LayerSpec("up", "F16", (64, 8))]
NAMES = ("style.safetensors", "style (1).safetensors", "run-000002.safetensors", "other.safetensors")
FOLDERS = ("one/a", "one/b", "two/c")
#: Seconds until what was missed is back.
PATIENCE = 20.0


class Owner:
    """What an owner does, by name of the file, below `base`; `model` has the names as without lorad.

    lorad may hide what he has just chosen: then it is not there for him, and nothing changes.
    """

    def __init__(self, base: Path, chance: random.Random) -> None:
        self.base = base
        self.chance = chance
        self.model: dict[str, bytes] = {}
        #: What he did, for who reads a failure.
        self.did: list[str] = []
        self.contents = []
        for seed in range(3):
            path = base / "made.safetensors"
            write_safetensors(str(path), random_weights(SPECS, seed))
            self.contents.append(path.read_bytes())
            path.unlink()
        for folder in FOLDERS:
            (base / folder).mkdir(parents=True, exist_ok=True)

    def in_view(self) -> list[str]:
        """Names of files and links that are there for him."""
        found = []
        for folder, folders, names in os.walk(self.base):
            folders[:] = [name for name in folders if not name.startswith(".")]
            found += [os.path.relpath(os.path.join(folder, name), self.base) for name in names]
        return sorted(name for name in found if not os.path.basename(name).startswith("."))

    def readable(self) -> set[bytes]:
        return {self._read(name) for name in self.in_view()}

    def _read(self, name: str) -> bytes:
        try:
            return (self.base / name).read_bytes()
        except OSError:
            return b""

    def _any_name(self) -> str:
        return f"{self.chance.choice(FOLDERS)}/{self.chance.choice(NAMES)}"

    def download(self) -> None:
        name, content = self._any_name(), self.chance.choice(self.contents)
        part = self.base / f"{name}.part"
        part.parent.mkdir(parents=True, exist_ok=True)
        self._does("download", name)
        part.write_bytes(content)
        before = self._read(name)
        part.rename(self.base / name)
        self._lets_go(name, before)
        self.model[name] = content

    def copy(self) -> None:
        source, name = self._pick(), self._any_name()
        if source and source != name and not os.path.lexists(self.base / name):
            (self.base / name).parent.mkdir(parents=True, exist_ok=True)
            content = self._read(source)
            self._does("copy", source, name)
            shutil.copy2(self.base / source, self.base / name)
            self.model[name] = content

    def rename(self) -> None:
        source, name = self._pick(), self._any_name()
        if source and source != name and not os.path.lexists(self.base / name):
            (self.base / name).parent.mkdir(parents=True, exist_ok=True)
            content = self._read(source)
            self._does("rename", source, name)
            os.rename(self.base / source, self.base / name)
            self.model.pop(source, None)
            self.model[name] = content

    def remove(self) -> None:
        if name := self._pick():
            self._does("remove", name)
            content = self._read(name)
            (self.base / name).unlink()
            self._lets_go(name, content)

    def touch(self) -> None:
        if name := self._pick():
            self._does("touch", name)
            os.utime(self.base / name)

    def move_folder(self) -> None:
        """To the other root and back: by a rename, or by `cp -r` and `rm -r`."""
        source, target = self.base / "one/b", self.base / "two/moved"
        if target.exists():
            source, target = target, source
        if not source.exists() or target.exists():
            return
        if self.chance.random() < 0.5:
            self._does("rename", str(source), str(target))
            os.rename(source, target)
        else:
            self._does("copy and remove", str(source), str(target))
            try:
                shutil.copytree(source, target, symlinks=True)
            except shutil.Error:  # `cp -r a b && rm -r a` ends here, too, and he starts anew
                shutil.rmtree(target, ignore_errors=True)
                return
            shutil.rmtree(source, ignore_errors=True)
        old, new = (os.path.relpath(path, self.base) + "/" for path in (source, target))
        for name in [name for name in self.model if name.startswith(old)]:
            self.model[new + name.removeprefix(old)] = self.model.pop(name)

    def _lets_go(self, name: str, content: bytes) -> None:
        """He removed this content there: what came back under another name than he knows counts as that one."""
        gone = [
            one for one, held in self.model.items() if held == content and not os.path.lexists(self.base / one)
        ]
        for one in [name] if name in self.model else gone[:1]:
            del self.model[one]

    def _does(self, what: str, *names: str) -> None:
        self.did.append(f"{time.time():.3f} {what} {' to '.join(names)}")

    def _pick(self) -> str:
        names = [name for name in self.in_view() if name.endswith(".safetensors") and self._read(name)]
        return self.chance.choice(names) if names else ""


def _quiet(daemon: Running, owner: Owner) -> None:
    """Until all that his names would hold is readable, by each name in view; fails where it is not in time."""
    until = time.monotonic() + PATIENCE
    while (missing := set(owner.model.values()) - owner.readable()) or b"" in owner.readable():
        assert time.monotonic() < until, (
            f"{len(missing)} contents are in no name in view; the names would be {sorted(owner.model)}, "
            f"there is {owner.in_view()}; he did {owner.did}"
        )
        time.sleep(0.05)
    daemon.settle()


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("kind", "number"), [(kind, number) for kind, count in ON for number in range(count)])
@pytest.mark.parametrize("action", ["delete", "symlink", "hardlink", "quarantine"])
def test_what_an_owner_did_not_remove_stays_readable(
    tmp_path: Path, disk: Callable[[str], str], action: str, kind: str, number: int
) -> None:
    """Whatever he does, and whenever lorad is killed; in the end all comes back, and `audit` finds nothing."""
    base = Path(disk(kind))
    chance = random.Random(f"{action} {number}")
    owner = Owner(base, chance)
    tables = f'[dedupe]\naction = "{action}"\n'
    moves: list[Callable[[], None]] = [
        owner.download, owner.download, owner.copy, owner.rename, owner.remove, owner.remove, owner.touch,
        owner.move_folder,
    ]  # fmt: skip
    with Running(tmp_path, [base / "one", base / "two"], tables=tables, quiet_seconds=0.3) as daemon:
        daemon.settle()
        for _ in range(STEPS):
            with suppress(FileNotFoundError):
                chance.choice(moves)()
            if chance.random() < 0.15:
                owner.did.append("killed lorad")
                os.kill(daemon.pid, signal.SIGKILL)
                daemon.wait()
                if chance.random() < 0.5:
                    owner.remove()
                daemon.revive()
            _quiet(daemon, owner)
        with daemon.client() as client:
            answer = client.undo(all=True)
            assert answer.refused == 0, answer.results
            daemon.settle()
            differences = client.audit().differences
            assert not differences, owner.did
        assert set(owner.model.values()) <= owner.readable()
