"""The unit, its drop-ins, and the document about them agree with systemd and with each other."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from loracore.config import SYSTEM_CONFIG
from loracore.paths import SYSTEM_RUNTIME_DIR
from tests.systemd.units import (
    DROPINS,
    INSTALL,
    SERVICE,
    SYSTEMD,
    analyze,
    exposure,
    installed,
    needs_analyze,
    settings,
    value,
    values,
)

NAMES = [dropin.name.removesuffix(".conf.example") for dropin in DROPINS]
#: Together, as a host may have them.
TOGETHER = [("act", "home", "nfs", "tcp"), ("gpu", "home"), ("act", "gpu", "metrics", "tcp")]


def dropin(name: str) -> Path:
    return SYSTEMD / "dropins" / f"{name}.conf.example"


@needs_analyze
@pytest.mark.parametrize("names", [(), *((name,) for name in NAMES), *TOGETHER], ids="+".join)
def test_systemd_has_nothing_to_say(tmp_path: Path, names: tuple[str, ...]) -> None:
    """`systemd-analyze verify` is silent about the unit with each drop-in, and with several."""
    said = analyze("verify", "--man=no", installed(tmp_path, *map(dropin, names)))
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")


@needs_analyze
def test_verify_would_say_it(tmp_path: Path) -> None:
    """A setting that systemd does not know is seen: the test above tests something."""
    service = installed(tmp_path)
    service.write_text(service.read_text().replace("ProtectSystem=", "ProtectSysten="))
    assert "ProtectSysten" in analyze("verify", "--man=no", service).stderr


@needs_analyze
def test_the_service_can_reach_little(tmp_path: Path) -> None:
    """An exposure of 1.0 or better."""
    assert exposure(installed(tmp_path)) <= 1.0


@needs_analyze
@pytest.mark.parametrize("name", NAMES)
def test_drop_ins_open_no_more_than_they_say(tmp_path: Path, name: str) -> None:
    """Each of them alone stays below 2, which systemd calls safe."""
    assert exposure(installed(tmp_path, dropin(name))) < 2


@needs_analyze
def test_the_document_has_the_measured_figures(tmp_path: Path) -> None:
    """The unit's and each drop-in's exposure, by the version of systemd that the document names."""
    if not analyze("--version").stdout.startswith("systemd 252 "):
        pytest.skip("the document's figures are by systemd 252, and other versions measure otherwise")
    text = INSTALL.read_text()
    assert f"*report* exposure {exposure(installed(tmp_path))}," in text
    said = dict(re.findall(r"^\| `(\w+).conf` \|.*\| ([0-9.]+) \|$", text, re.MULTILINE))
    for name in NAMES:
        folder = tmp_path / name
        folder.mkdir()
        assert float(said[name]) == exposure(installed(folder, dropin(name))), name


@pytest.mark.parametrize("path", [SERVICE, *DROPINS], ids=lambda path: path.name)
def test_nothing_gives_back_privileges(path: Path) -> None:
    """No profile runs as root, keeps a capability, or may gain one."""
    given = settings(path)
    assert not [each for each in values(path, "User") + values(path, "Group") if each in {"root", "0"}]
    for name in ("CapabilityBoundingSet", "AmbientCapabilities"):
        assert [value for _, each, value in given if each == name] == ([""] if path == SERVICE else [])
    assert values(path, "NoNewPrivileges") == (["true"] if path == SERVICE else [])
    assert not [value for _, name, value in given if name.startswith("Exec") and value[:1] in "+!"]


def test_only_the_profile_act_writes_outside_the_services_own_folders() -> None:
    """*report* has every root read-only; *act* names its roots, and never all of the file system."""
    assert value(SERVICE, "ProtectSystem") == "strict"
    for path in (SERVICE, *DROPINS):
        writable = values(path, "ReadWritePaths") + values(path, "BindPaths")
        assert bool(writable) == (path == dropin("act"))
        for folders in writable:
            assert all(re.fullmatch(r"/\w+/\w+(/\w+)*", folder) for folder in folders.split())


def test_act_is_the_owner_of_the_files() -> None:
    """Who may replace files without a capability is their owner, and sees other users as they are."""
    assert value(dropin("act"), "User") != value(SERVICE, "User")
    assert values(dropin("act"), "Group")
    assert value(dropin("act"), "PrivateUsers") == "false"


def test_examples_name_the_same_folders() -> None:
    """A reader of two drop-ins meets one example."""
    assert value(dropin("act"), "ReadWritePaths") == value(dropin("nfs"), "RequiresMountsFor")
    assert value(dropin("home"), "BindReadOnlyPaths").startswith("/home/")
    assert value(dropin("home"), "ProtectHome") == "tmpfs"


def test_folders_are_where_the_daemon_and_its_clients_look() -> None:
    """The configuration's default, /run/lorad for clients, both closed to others."""
    assert value(SERVICE, "ExecStart").split()[1:] == ["--config", SYSTEM_CONFIG]
    assert f"/run/{value(SERVICE, 'RuntimeDirectory')}" == SYSTEM_RUNTIME_DIR
    assert value(SERVICE, "RuntimeDirectoryMode") == value(SERVICE, "StateDirectoryMode") == "0750"
    # systemd would make that folder writable.
    assert values(SERVICE, "ConfigurationDirectory") == []


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="systemd-sysusers is not installed")
def test_the_user_is_the_services(tmp_path: Path) -> None:
    """systemd-sysusers makes a user and a group that cannot log in, at home in the state folder."""
    place = tmp_path / "etc" / "sysusers.d"
    place.mkdir(parents=True)
    shutil.copy(SYSTEMD / "lorad.sysusers.conf", place / "lorad.conf")
    subprocess.run(["systemd-sysusers", f"--root={tmp_path}"], check=True, capture_output=True)
    name, _, uid, gid, _, home, shell = (tmp_path / "etc" / "passwd").read_text().strip().split(":")
    group, _, number, _ = (tmp_path / "etc" / "group").read_text().strip().split(":")
    assert name == value(SERVICE, "User")
    assert (group, number) == (value(SERVICE, "Group"), gid)
    assert int(uid) < 1000
    assert home == f"/var/lib/{value(SERVICE, 'StateDirectory')}"
    assert shell.endswith("nologin")


def test_systemd_watches_as_the_daemon_speaks() -> None:
    """Type=notify with a watchdog, from the main process alone; a reload is a SIGHUP."""
    assert value(SERVICE, "Type") == "notify"
    assert value(SERVICE, "NotifyAccess") == "main"
    assert int(value(SERVICE, "WatchdogSec")) >= 20
    assert value(SERVICE, "ExecReload").endswith("kill -HUP $MAINPID")
    assert value(SERVICE, "Restart") == "on-failure"
    assert value(SERVICE, "RestartPreventExitStatus") == "2"
    # A child that the kernel killed for its memory is the daemon's to start again.
    assert value(SERVICE, "OOMPolicy") == "continue"


def test_the_document_knows_every_file() -> None:
    """Each file of `systemd/` is explained, and every one that is named exists."""
    text = INSTALL.read_text()
    for path in (SERVICE, SYSTEMD / "lorad.sysusers.conf", SYSTEMD / "lorad.toml"):
        assert f"systemd/{path.name}" in text
    assert set(re.findall(r"`(\w+)\.conf`", text)) == set(NAMES)
