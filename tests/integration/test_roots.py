"""What a daemon's roots lead to, and what is left out of them, may change while it runs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.integration.running import Running, running
from tests.integration.scanning import duplicate_sets, view
from tests.integration.test_daemon import lora


@pytest.fixture
def versions(tmp_path: Path) -> Path:
    """Two folders with a pair of duplicates each, and a link to the first of them."""
    folder = tmp_path / "versions"
    for seed, version in enumerate(("v1", "v2")):
        (folder / version / "models").mkdir(parents=True)
        for name in ("a", "b"):
            lora(folder / version / "models" / f"{name}.safetensors", seed)
    (folder / "current").symlink_to("v1")
    return folder


def lead(link: Path, target: str) -> None:
    """Have a link lead elsewhere, as deployment tools do: at no time is there none."""
    (link.parent / "next").symlink_to(target)
    (link.parent / "next").rename(link)


def sets(daemon: Running) -> set[frozenset[str]]:
    """The sets of duplicates, as it knows them once all is looked at."""
    daemon.settle()
    return duplicate_sets(daemon.state)


def pair(folder: Path) -> set[frozenset[str]]:
    return {frozenset(str(folder / f"{name}.safetensors") for name in ("a", "b"))}


def watched(daemon: Running) -> list[bytes]:
    with daemon.client() as client:
        return [root.path for root in client.status().roots]


@pytest.mark.parametrize("below", ["", "models"])
@pytest.mark.parametrize("hangup", [False, True])
def test_a_root_is_what_its_path_leads_to(versions: Path, tmp_path: Path, below: str, hangup: bool) -> None:
    """Also where the link is higher up in it, by itself and when the configuration is read again.

    Engine, watch, status, audit and doctor mean the same folder then; and again after a way back.
    """
    with running(tmp_path / "lorad", versions / "current" / below) as daemon:
        assert sets(daemon) == pair(versions / "v1" / "models")
        for target in ("v2", "v1"):
            lead(versions / "current", target)
            if hangup:
                daemon.notices.forget()
                os.kill(daemon.pid, signal.SIGHUP)
                daemon.notices.wait_for("READY=1")
            models = versions / target / "models"
            assert sets(daemon) == pair(models)
            assert watched(daemon) == [os.fsencode(versions / target / below)]
            lora(models / "c.safetensors", 7)
            shutil.copy(models / "c.safetensors", models / "d.safetensors")
            assert len(sets(daemon)) == 2
            with daemon.client() as client:
                assert client.audit().differences == []
                doctor = {finding.name for finding in client.doctor().findings}
            assert f"folder {versions / target / below}" in doctor
            for name in "cd":
                (models / f"{name}.safetensors").unlink()


def test_a_root_whose_link_leads_nowhere_is_missing_until_it_leads_to_a_folder(
    versions: Path, tmp_path: Path
) -> None:
    """What was in it is not gone: it is known when the link leads back."""
    current = versions / "current"
    with running(tmp_path / "lorad", current) as daemon, daemon.client() as client:
        lead(current, "none")
        daemon.settle()
        assert watched(daemon) == [os.fsencode(versions / "none")]
        assert client.status().watch == "missing"
        lead(current, "v2")
        while watched(daemon) != [os.fsencode(versions / "v2")]:
            daemon.settle()
        assert sets(daemon) == pair(versions / "v2" / "models")
        lead(current, "v1")
        assert sets(daemon) == pair(versions / "v1" / "models")
        assert client.status().bytes_read == 0


def test_a_link_to_the_state_folder_is_not_followed(versions: Path, tmp_path: Path) -> None:
    with running(tmp_path / "lorad", versions / "current") as daemon, daemon.client() as client:
        lead(versions / "current", str(daemon.state))
        daemon.settle()
        assert watched(daemon) == []
        assert any("state folder cannot be watched" in error.text for error in client.status().errors)


@pytest.fixture
def library(tmp_path: Path) -> Path:
    path = tmp_path / "models"
    for folder in (".", ".Trash-0/files", "epochs"):
        (path / folder).mkdir(parents=True, exist_ok=True)
        lora(path / folder / "a.safetensors", 1)
    return path


def names(daemon: Running, root: Path) -> set[str]:
    daemon.settle()
    return {os.path.relpath(path, root) for path in view(daemon.state, "processed")["files"]}


def test_changed_patterns_take_effect_at_a_hangup_and_nothing_is_read_again(library: Path, tmp_path: Path) -> None:
    """What is left out is in no view, and not gone: no event says so."""
    everywhere = {"a.safetensors", "epochs/a.safetensors"}
    with running(tmp_path / "lorad", library) as daemon, daemon.client() as client:
        assert names(daemon, library) == everywhere
        assert len(sets(daemon)) == 1
        events = client.events({"gone"})
        for patterns, expected in (
            ('["epochs"]', {"a.safetensors"}),
            ('["!default"]', everywhere | {".Trash-0/files/a.safetensors"}),
            ('["epochs"]', {"a.safetensors"}),
            ("[]", everywhere),
        ):
            daemon.watch["exclude"] = patterns
            daemon.configure([library])
            daemon.notices.forget()
            os.kill(daemon.pid, signal.SIGHUP)
            daemon.notices.wait_for("READY=1")
            assert names(daemon, library) == expected
            assert client.audit().differences == []
        assert client.status().bytes_read == 0
        lora(library / ".Trash-0" / "b.safetensors", 2)
        assert names(daemon, library) == everywhere
        (library / "a.safetensors").unlink()
        assert next(iter(events)).event.path == os.fsencode(library / "a.safetensors"), "nothing was gone before"


def test_what_is_not_mounted_now_is_away_and_known_when_it_is_back(library: Path, tmp_path: Path) -> None:
    """A folder of the same disk, by a bind mount: no event says that its files are gone, also after a restart."""
    outside, point = tmp_path / "outside", library / "epochs"
    outside.mkdir()
    lora(outside / "b.safetensors", 1)
    if subprocess.run(["mount", "--bind", outside, point], check=False, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        with running(tmp_path / "lorad", library) as daemon, daemon.client() as client:
            mounted = {"a.safetensors", "epochs/b.safetensors"}
            assert names(daemon, library) == mounted
            events = client.events({"gone"})
            subprocess.run(["umount", point], check=True)
            assert names(daemon, library) == mounted | {"epochs/a.safetensors"}
            (library / "a.safetensors").unlink()
            assert next(iter(events)).event.path == os.fsencode(library / "a.safetensors")
            daemon.stop()
            daemon.start()
            mounted = {"epochs/b.safetensors"}
            assert names(daemon, library) == mounted | {"epochs/a.safetensors"}
            subprocess.run(["mount", "--bind", outside, point], check=True)
            (outside / "b.safetensors").unlink()
            assert "epochs/b.safetensors" not in names(daemon, library)
    finally:
        while subprocess.run(["umount", "-l", point], check=False, capture_output=True).returncode == 0:
            pass
