"""The wheel alone is enough: it holds all that an installation needs, and says what it is."""

from __future__ import annotations

import email
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email.message import Message

import pytest

from tests.systemd.units import SYSTEMD

pytest.importorskip("hatchling")
PACKAGES = ("loracore", "lorad", "loractl", "lorakit")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=SYSTEMD.parent, check=True, capture_output=True)
    (path,) = folder.iterdir()
    with zipfile.ZipFile(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    (path,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(wheel.read(path))


def test_units_drop_ins_and_configuration_are_in_it(wheel: zipfile.ZipFile) -> None:
    """Every file of `systemd/`, byte for byte, where `loractl service` looks for it."""
    for path in (path for path in SYSTEMD.rglob("*") if path.is_file()):
        assert wheel.read(f"loractl/service/systemd/{path.relative_to(SYSTEMD)}") == path.read_bytes()


def test_every_package_is_typed_and_nothing_else_is_in_it(wheel: zipfile.ZipFile) -> None:
    """PEP 561; no tests, no benchmarks."""
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(wheel.namelist())


def test_it_says_what_it_is(metadata: Message) -> None:
    """Summary, keywords, classifiers, licence and links are fields of their own."""
    for field in ("Summary", "Keywords", "License-Expression", "License-File", "Requires-Python", "Author"):
        assert metadata[field], field
    links = dict(link.split(", ") for link in metadata.get_all("Project-URL", []))
    assert {"Homepage", "Documentation", "Source", "Issues", "Changelog"} <= set(links)
    classifiers = metadata.get_all("Classifier", [])
    assert "Typing :: Typed" in classifiers
    assert "Operating System :: POSIX :: Linux" in classifiers


def test_the_base_install_is_the_thin_client(metadata: Message) -> None:
    """Neither the daemon's packages nor the toolkit's come without their extra."""
    needed = metadata.get_all("Requires-Dist", [])
    base = {each.partition(">")[0] for each in needed if "extra ==" not in each}
    assert base == {"click", "msgspec", "pyzmq", "rich"}
