"""A machine with a systemd of its own, in which lorad is installed as docs/install.md says."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.systemd.units import INSTALL, SYSTEMD

#: Set by `make system-test`: the folder of the container, which is made once and copied for each run.
_FOLDER = "LORAD_SYSTEM_TEST"
_CONTAINER = str(Path(__file__).with_name("container.sh"))
#: What docs/install.md has as an example, and what stands for it here.
_NAME, _MODELS = "'lorad[daemon]'", "/srv/models"
_DISK = 512 << 20
#: Seconds for whatever is waited for; the watchdog takes one minute of them.
_PATIENCE = 150


class Ended(NamedTuple):
    """How a command ended in the machine."""

    code: int
    stdout: str
    stderr: str


class Machine:
    """`root` is its file system, as this process sees it; its state folder is on a disk of its own."""

    def __init__(self, root: Path, state: Path) -> None:
        self.root = root
        self.state = state
        self.figures: dict[str, str] = {}

    def run(self, *command: object) -> Ended:
        """Run a command as root, without a terminal."""
        done = subprocess.run(
            [_CONTAINER, str(self.root), "run", *map(str, command)],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return Ended(done.returncode, done.stdout, done.stderr)

    def tell(self, *command: object) -> str:
        """The output of a command that must not fail."""
        ended = self.run(*command)
        assert ended.code == 0, (command, ended)
        return ended.stdout

    def reboot(self) -> None:
        _call(_CONTAINER, str(self.root), "stop")
        self.boot()

    def boot(self) -> None:
        _call(_CONTAINER, str(self.root), "boot", f"--bind={self.state}:/var/lib/lorad")

    def service(self, *arguments: object) -> Ended:
        return self.run("/opt/lorad/bin/loractl", "service", *arguments)

    def install(self, *arguments: object) -> dict[str, Any]:
        """What `loractl service install --yes --json` answers; it must have nothing to complain of."""
        ended = self.service("install", "--yes", "--json", *arguments)
        assert (ended.code, ended.stderr) == (0, ""), ended
        found: dict[str, Any] = json.loads(ended.stdout)
        assert found["problems"] == [], found["problems"]
        return found

    def loractl(self, *arguments: object) -> Any:
        return json.loads(self.tell("/opt/lorad/bin/loractl", *arguments, "--json"))

    def show(self, name: str) -> str:
        """A property of the service, as systemd has it."""
        return self.tell("systemctl", "show", "lorad", "--value", "-p", name).strip()

    def pid(self) -> int:
        """The main process of the service; 0 without one."""
        return int(self.show("MainPID"))

    def path(self, path: str) -> Path:
        """Where a file of the machine is for this process."""
        return self.root / path.lstrip("/")

    def view(self, name: str) -> dict[str, Any]:
        """One of the JSON files in the state folder."""
        found: dict[str, Any] = json.loads((self.state / f"{name}.json").read_text())
        return found

    def journal(self) -> list[dict[str, Any]]:
        """What the service said since it was started last, oldest first."""
        invocation = self.show("InvocationID")
        lines = self.tell("journalctl", "-o", "json", f"_SYSTEMD_INVOCATION_ID={invocation}").splitlines()
        return [json.loads(line) for line in lines]

    def until(self, what: Callable[[], object], *, every: float = 0.1) -> float:
        """Wait for something outside of this process; the seconds that it took."""
        start = time.monotonic()
        while not what():
            assert time.monotonic() < start + _PATIENCE, self.tell("journalctl", "-u", "lorad", "-n", "30")
            time.sleep(every)
        return time.monotonic() - start

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Note how long something takes among the figures."""
        start = time.monotonic()
        yield
        self.figures[name] = f"{time.monotonic() - start:.1f} s"


@contextmanager
def machine() -> Iterator[Machine]:
    """A copy of the container, with lorad in it."""
    folder = Path(os.environ[_FOLDER])
    tree, root, disk = folder / "debian", folder / "run", folder / "state"
    folder.mkdir(parents=True, exist_ok=True)
    if not tree.exists():
        _call(_CONTAINER, str(folder / "making"), "make")
        (folder / "making").rename(tree)
    shutil.rmtree(root, ignore_errors=True)
    _call("cp", "-a", "--reflink=auto", str(tree), str(root))
    with _ext4(folder / "state.image", disk):
        found = Machine(root, disk)
        try:
            with found.timed("boot of the machine"):
                found.boot()
            _install(found)
            yield found
        finally:
            _call(_CONTAINER, str(root), "stop")
    shutil.rmtree(root)


def why_not() -> str:
    """The reason why there can be no machine here; "" where there can."""
    if not os.environ.get(_FOLDER):
        return "boots a real systemd, as root and for minutes: make system-test"
    if os.geteuid():
        return "only root can boot a container: sudo make system-test"
    for tool, package in (("debootstrap", "debootstrap"), ("systemd-nspawn", "systemd-container")):
        if shutil.which(tool) is None:
            return f"{tool} is not installed (Debian's package {package})"
    return ""


def _install(machine: Machine) -> None:
    """The lines of docs/install.md for a virtual environment, with this checkout's wheel and constraints."""
    source = SYSTEMD.parent
    place = machine.path("/root")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(place), str(source)]
    with machine.timed("building the wheel"):
        _call(*command)
    (wheel,) = place.glob("*.whl")
    shutil.copy(source / "constraints.txt", place)
    machine.path(_MODELS).mkdir()
    (block,) = re.findall(r"```sh\n# in a virtual environment\n(.*?)```", INSTALL.read_text(), re.DOTALL)
    packages, _, service = block.strip().rpartition("\n")
    exact = packages.replace(_NAME, f"-c /root/constraints.txt '/root/{wheel.name}[daemon]'")
    assert exact != packages
    with machine.timed("python3 -m venv, pip install"):
        machine.tell("sh", "-ec", exact)
    with machine.timed("loractl service install"):
        machine.tell("sh", "-ec", f"{service} --yes")


@contextmanager
def _ext4(image: Path, point: Path) -> Iterator[None]:
    """A disk that is empty."""
    point.mkdir(exist_ok=True)
    with image.open("wb") as file:
        file.truncate(_DISK)
    _call("mkfs.ext4", "-q", "-F", str(image))
    _call("mount", "-o", "loop", str(image), str(point))
    try:
        yield
    finally:
        _call("umount", "--lazy", str(point))
        image.unlink()


def _call(*command: str) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
