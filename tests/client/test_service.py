"""`loractl service` asks before it changes the system, and never where nobody can answer."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from loracore.errors import UsageError
from loractl.commands import service
from loractl.service import place


@pytest.fixture(autouse=True)
def _on_no_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is read from, or written to, the machine's own /etc."""
    names = [str(tmp_path / "etc" / name) for name in ("lorad.service", "act.conf", "gpu.conf", "lorad.toml")]
    for name, path in zip(("UNIT", "ACT", "GPU", "SYSTEM_CONFIG"), names, strict=True):
        monkeypatch.setattr(place, name, path)
    monkeypatch.setattr(place, "PATHS", names)
    monkeypatch.setattr(place, "_BOOTED", str(tmp_path))
    monkeypatch.setattr(place.machine, "environment", lambda: ["/opt/lorad"])
    monkeypatch.setattr(service.os, "geteuid", lambda: 0)
    monkeypatch.setattr(place, "run", lambda command: pytest.fail(f"{command} was run"))


def run(command: click.Command, *arguments: str, answer: str | None = None) -> str:
    ended = CliRunner().invoke(command, arguments, input=answer, catch_exceptions=False)
    assert ended.exit_code == 0
    return ended.stdout


def test_root_is_asked_for_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the whole command, since root's PATH may lead to no loractl, or to another one."""
    monkeypatch.setattr(service.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(service.sys, "argv", ["loractl", "service", "install", "--watch", "/srv/my models"])
    for command in (service.install, service.uninstall):
        with pytest.raises(UsageError) as refused:
            run(command)
        assert str(refused.value).startswith("needs root: sudo /")
        assert str(refused.value).endswith("/bin/loractl service install --watch '/srv/my models'")


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_without_a_terminal_it_needs_yes(
    options: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script that was not meant to does not install a service."""
    (tmp_path / "models").mkdir()
    monkeypatch.setattr(place.machine, "_HIDDEN", ())
    with pytest.raises(UsageError, match="give --yes"):
        run(service.install, "--watch", str(tmp_path / "models"), *options)


def test_install_needs_a_folder() -> None:
    """A service that looks after nothing is a mistake."""
    with pytest.raises(UsageError, match="--watch DIR"):
        run(service.install, "--yes")


def test_print_shows_what_would_be_put_in_place() -> None:
    """Whole files under their names, one file alone as it is, and all as JSON."""
    shown = run(service.print_)
    assert "### /etc/systemd/system/lorad.service\n" in shown
    assert "### /etc/lorad/lorad.toml\n" in shown
    assert run(service.print_, "lorad.service").startswith("# lorad as a service")
    found = json.loads(run(service.print_, "--json"))["files"]
    assert [file["path"] for file in found] == [
        "/etc/sysusers.d/lorad.conf", "/etc/systemd/system/lorad.service", "/etc/lorad/lorad.toml"
    ]  # fmt: skip
    assert json.loads(run(service.print_, "nfs.conf", "--json"))["files"][0]["path"] == "nfs.conf"


def test_nothing_to_uninstall_is_no_error() -> None:
    """Undoing what is undone is nothing to do."""
    assert run(service.uninstall, "--yes") == "There is nothing to remove.\n"
    assert json.loads(run(service.uninstall, "--yes", "--json"))["files"] == []
