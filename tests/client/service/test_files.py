"""The files of the service say what was asked for, in systemd's and TOML's own syntax."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from loracore.config import load_config
from loracore.errors import UsageError
from loractl.service import files, machine
from loractl.service.files import ACT, GPU, HOME, SYSUSERS, UNIT, Setup
from tests.systemd.units import SYSTEMD, analyze, needs_analyze, settings

ODD = '/srv/my "best" 100% mo:d\'els\\of ünicode'
ALICE = machine.Owner("alice", "models")


def setup(*folders: str, owner: machine.Owner | None = None, gpu: bool = False, program: str = "") -> Setup:
    return Setup(program or "/opt/lorad/bin/lorad", ["/opt/lorad", "/usr"], folders, owner, gpu)


def written(found: Setup, folder: Path) -> dict[str, Path]:
    """The files as they would be in /etc, by their path there."""
    paths = {}
    for file in files.wanted(found):
        paths[file.path] = folder / os.path.relpath(file.path, "/")
        paths[file.path].parent.mkdir(parents=True, exist_ok=True)
        paths[file.path].write_text(file.text)
    return paths


def test_every_template_is_in_the_package() -> None:
    """The wheel alone is enough: the package shows the very files of `systemd/`."""
    for path in (path for path in SYSTEMD.rglob("*") if path.is_file()):
        assert files.template(str(path.relative_to(SYSTEMD))) == path.read_text()


def test_report_needs_no_drop_in(tmp_path: Path) -> None:
    """The profile *report*: unit, user and configuration; nothing is writable."""
    paths = written(setup("/srv/models"), tmp_path)
    assert set(paths) == {SYSUSERS, UNIT, files.SYSTEM_CONFIG}
    assert ("Service", "ExecStart", "/opt/lorad/bin/lorad --config /etc/lorad/lorad.toml") in settings(paths[UNIT])
    assert load_config(str(paths[files.SYSTEM_CONFIG])).watch.roots == ("/srv/models",)


def test_act_runs_as_the_owner_and_writes_in_the_roots_alone(tmp_path: Path) -> None:
    """The profile *act*: a line for each root; one that is not mounted at the start keeps nothing else away."""
    path = written(setup("/srv/a", "/srv/b", owner=ALICE), tmp_path)[ACT]
    said = [(name, value) for _, name, value in settings(path)]
    assert said == [
        ("User", "alice"), ("Group", "models"), ("ReadWritePaths", "-/srv/a"), ("ReadWritePaths", "-/srv/b"),
        ("PrivateUsers", "false"), ("SystemCallFilter", "@chown"),
    ]  # fmt: skip


@pytest.mark.parametrize("owner", [None, ALICE])
def test_what_the_sandbox_hides_is_bound(owner: machine.Owner | None, tmp_path: Path) -> None:
    """Roots and programs below /home and /tmp: roots writable for *act* alone, programs never."""
    found = setup("/home/alice/models", "/srv/a", "/tmp/new", owner=owner)
    found = found._replace(environment=["/root/env", "/root/env/lib", "/usr"])
    said = [(name, value) for _, name, value in settings(written(found, tmp_path)[HOME])]
    kind = "BindPaths" if owner else "BindReadOnlyPaths"
    assert said == [
        ("ProtectHome", "tmpfs"), (kind, "-/home/alice/models"), (kind, "-/tmp/new"),
        ("BindReadOnlyPaths", "-/root/env"),
    ]  # fmt: skip


def test_a_link_into_a_home_shows_what_it_leads_to(tmp_path: Path) -> None:
    """A root that is a symbolic link: the sandbox has the folder itself, the configuration keeps the name."""
    link = tmp_path / "link"
    link.symlink_to("/home/alice/models")
    found = setup(str(link), owner=ALICE)
    paths = written(found, tmp_path / "out")
    assert "BindPaths=-/home/alice/models" in paths[HOME].read_text()
    assert "ReadWritePaths=-/home/alice/models" in paths[ACT].read_text()
    assert load_config(str(paths[files.SYSTEM_CONFIG])).watch.roots == (str(link),)


@needs_analyze
@pytest.mark.parametrize("folder", ["/srv/models", ODD, "/home/alice/my 100% \\models"])
def test_systemd_and_toml_read_any_name(folder: str, tmp_path: Path) -> None:
    """Blanks, quotes, percent signs, colons and backslashes: `systemd-analyze verify` has nothing to say."""
    program = tmp_path / "100% my env" / "lorad"
    program.parent.mkdir()
    program.symlink_to("/bin/true")
    paths = written(setup(folder, owner=ALICE, gpu=True, program=str(program)), tmp_path)
    said = analyze("verify", "--man=no", paths[UNIT])
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")
    assert load_config(str(paths[files.SYSTEM_CONFIG])).watch.roots == (folder,)


def test_a_name_is_one_word() -> None:
    """`%` begins a specifier and a backslash an escape; plain names stay as they are."""
    assert files.quoted("/srv/models-2.0") == "/srv/models-2.0"
    assert files.quoted("/srv/100%") == "/srv/100%%"
    assert files.quoted('/a "b" \\c') == '"/a \\"b\\" \\\\c"'


def test_one_file_or_a_drop_in_to_fill_in() -> None:
    """`service print NAME`: a file of this service, else the example; a name that is none lists all."""
    found = setup("/srv/a", owner=ALICE)
    assert "User=alice" in files.named("act.conf", found)
    assert files.named("nfs.conf", found) == files.template("dropins/nfs.conf.example")
    assert GPU not in {file.path for file in files.wanted(found)}
    with pytest.raises(UsageError, match=r"gpu\.conf.*lorad\.toml"):
        files.named("none.conf", found)
