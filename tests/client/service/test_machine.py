"""What the service is made for is looked up, and what cannot be is refused by name."""

from __future__ import annotations

import os
import pwd
import sys
from pathlib import Path

import pytest

from loracore.errors import MissingPackage, UsageError
from loractl.service import machine

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


def test_the_program_is_this_environments(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """ExecStart is the lorad beside the loractl that is run, and is there to be started."""
    found = machine.program()
    assert found == os.path.join(sys.prefix, "bin", "lorad")
    assert {sys.prefix, sys.base_prefix} <= set(machine.environment())
    monkeypatch.setattr(machine.sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(UsageError, match=r"lorad: not there.*pip install 'lorad\[daemon\]'"):
        machine.program()
    odd = tmp_path / 'a "b"'
    odd.mkdir()
    (odd / "lorad").symlink_to("/bin/true")
    monkeypatch.setattr(machine.sysconfig, "get_path", lambda _: str(odd))
    with pytest.raises(UsageError, match="systemd starts no program of such a name"):
        machine.program()


def test_a_missing_extra_names_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """The base install has no daemon to start, and the daemon no GPU."""
    monkeypatch.setattr(machine.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingPackage, match=r"pip install 'lorad\[daemon\]'"):
        machine.program()
    with pytest.raises(MissingPackage, match=r"pip install 'lorad\[gpu\]'"):
        machine.check_gpu()


def test_folders_are_absolute_and_none_is_inside_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative DIR is that of the shell; one that lies inside another one is covered by it."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert machine.folders(["a", "a/b", str(tmp_path / "a")], hiding=()) == (str(tmp_path / "a"),)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("none", "no such folder"),
        ("file", "no such folder"),
        ("line\nbreak", "printable"),
        ("\udcff", "printable"),
    ],
)
def test_a_folder_that_cannot_be_is_refused(name: str, word: str, tmp_path: Path) -> None:
    """Not there, no folder, or of a name that no unit file can hold."""
    path = tmp_path / name
    if name == "file":
        path.touch()
    elif name != "none":
        path.mkdir()
    with pytest.raises(UsageError, match=word) as refused:
        machine.folders([str(path)])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("folder", ["/", "/home"])
def test_a_folder_above_what_the_sandbox_hides_is_refused(folder: str) -> None:
    """The service would see an empty /home there, and say that there are no files."""
    with pytest.raises(UsageError, match="does not see /home"):
        machine.folders([folder])


def test_only_the_outermost_hidden_folders_are_bound(tmp_path: Path) -> None:
    """Names and what they lead to, so that a link to a Python below /home works as well."""
    (tmp_path / "home" / "python-3.11").mkdir(parents=True)
    (tmp_path / "home" / "python").symlink_to("python-3.11")
    env, link = tmp_path / "home" / "env", tmp_path / "home" / "python"
    paths = ["/usr", str(env / "lib"), str(env), str(link)]
    assert machine.hidden(paths, hiding=[str(tmp_path / "home")]) == [
        str(env), str(link), str(tmp_path / "home" / "python-3.11")
    ]  # fmt: skip


@needs_root
def test_the_owner_is_that_of_the_model_files(tmp_path: Path) -> None:
    """Files that are no models do not count; without any, the folder's owner does."""
    user = next(user for user in pwd.getpwall() if user.pw_uid)
    (tmp_path / "readme.txt").touch()
    (tmp_path / "sub").mkdir()
    os.chown(tmp_path, user.pw_uid, 0)
    assert machine.owner([str(tmp_path)]).user == user.pw_name
    model = tmp_path / "sub" / "a.safetensors"
    model.touch()
    with pytest.raises(UsageError, match=r"a\.safetensors: is root's, and lorad never acts as root"):
        machine.owner([str(tmp_path)])
    os.chown(model, 4_000_000_000, 0)
    with pytest.raises(UsageError, match="4000000000 has no name here"):
        machine.owner([str(tmp_path)])
    os.chown(model, user.pw_uid, 0)
    assert machine.owner([str(tmp_path)]).user == user.pw_name


@needs_root
def test_two_owners_are_refused_by_name(tmp_path: Path) -> None:
    """Only an owner can replace a file, so a service is for one of them; a link's owner does not count."""
    first, second = [user for user in pwd.getpwall() if user.pw_uid][:2]
    for name, user in (("a.safetensors", first), ("b.pt", second)):
        (tmp_path / name).touch()
        os.chown(tmp_path / name, user.pw_uid, user.pw_gid)
    with pytest.raises(UsageError, match="needs one owner") as refused:
        machine.owner([str(tmp_path)])
    for word in ("a.safetensors", "b.pt", first.pw_name, second.pw_name):
        assert word in str(refused.value)
    (tmp_path / "b.pt").unlink()
    (tmp_path / "b.pt").symlink_to("a.safetensors")
    assert machine.owner([str(tmp_path)]).user == first.pw_name
