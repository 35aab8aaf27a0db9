"""Without extras `loractl` is the thin client; all else names the command that installs it (SPEC section 10)."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest

import loracore
from tests.toolkit.change.files import kohya

#: What a program of somebody might do.
_FUNCTION = """
import lorakit
from loracore.errors import MissingPackage

try:
    lorakit.spectrum("x")
except MissingPackage as error:
    print(error)
"""
_ROOT = Path(loracore.__file__).parents[2]
#: What `pip install lorad` brings.
_BASE = ("click", "markdown-it-py", "mdurl", "msgspec", "pygments", "pyzmq", "rich")
_JOBS = {
    "hashes": "FILE", "metadata": "FILE --values", "importance": "FILE", "spectrum": "FILE", "pca": "FILE",
    "plot": "rank FILE -o OUT.png", "resize": "FILE -o OUT --rank 2", "merge": "FILE FILE -o OUT",
    "convert": "FILE --to peft -o OUT", "edit": "FILE --title x", "bake": "FILE --base FILE -o OUT",
    "compare": "FILE FILE -o OUT", "extract": "FILE FILE --rank 2 -o OUT", "report": "OUT",
}  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages that has the base install alone."""
    site = tmp_path_factory.mktemp("site")
    for name in _BASE:
        found = distribution(name)
        for top in {file.parts[0] for file in found.files or () if file.parts[0] != ".."}:
            (site / top).symlink_to(str(found.locate_file(top)))
    for package in ("shared/loracore", "daemon/lorad", "client/loractl", "toolkit/lorakit"):
        (site / package.partition("/")[2]).symlink_to(_ROOT / package)
    metadata = site / "lorad-0.1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: lorad\nVersion: 0.1\n")
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    points = [f"{name} = {value}" for name, value in project["entry-points"]["lorad.jobs"].items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[lorad.jobs]", *points, ""]))
    return site


def run(site: Path, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    home = {"HOME": str(site), "XDG_RUNTIME_DIR": "", "XDG_STATE_HOME": "", "PYTHONPATH": str(site)}
    command = [sys.executable, "-S", "-m", module, *arguments]
    return subprocess.run(
        command, env={**os.environ, **home}, capture_output=True, text=True, timeout=100, check=False
    )


@pytest.mark.parametrize("module", ["lorad", "loractl.cli"])
def test_help_needs_nothing(site: Path, module: str) -> None:
    ran = run(site, module, "--help")
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize(
    ("module", "arguments"), [("lorad", ["--watch", "/"]), ("loractl.cli", ["scan", "/"])], ids=["lorad", "scan"]
)
def test_the_daemon_is_an_extra(site: Path, module: str, arguments: list[str]) -> None:
    ran = run(site, module, *arguments)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.endswith(": pip install 'lorad[daemon]'\n")
    assert ran.stderr.count("\n") == 1


@pytest.mark.parametrize("job", _JOBS)
def test_the_toolkit_is_an_extra(site: Path, tmp_path: Path, job: str) -> None:
    file = kohya(tmp_path / "style.safetensors")
    words = _JOBS[job].replace("FILE", str(file)).replace("OUT", str(tmp_path / "out")).split()
    ran = run(site, "loractl.cli", job, *words)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.endswith(": pip install 'lorad[toolkit]'\n")
    assert ran.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_thin_client_looks_for_a_daemon(site: Path) -> None:
    ran = run(site, "loractl.cli", "status")
    assert ran.returncode == 3
    assert "no daemon at" in ran.stderr


def test_adapters_are_found_by_the_thin_client(site: Path) -> None:
    """Where a model server runs, lorad is a client."""
    program = """
import loractl, loractl.vllm
from loracore.errors import LoraError

for call in (lambda: loractl.resolve("chat", socket="/none"), loractl.vllm.register):
    try:
        call()
    except LoraError as told:
        print(type(told).__name__, told)
"""
    command = [sys.executable, "-S", "-c", program]
    ran = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(site)}, capture_output=True, text=True, check=True
    )
    daemon, vllm = ran.stdout.splitlines()
    assert daemon.startswith("NoDaemonError")
    assert vllm.startswith("MissingPackage")
    assert vllm.endswith("vllm is not installed")


def test_functions_name_the_command_too(site: Path) -> None:
    """In Python it is the typed error."""
    command = [sys.executable, "-S", "-c", _FUNCTION]
    ran = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(site)}, capture_output=True, text=True, check=True
    )
    assert ran.stdout.endswith("pip install 'lorad[toolkit]'\n")
