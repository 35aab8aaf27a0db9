"""A start works with what the environment has, or says in one line what to give (SPEC sections 4 and 11)."""

from __future__ import annotations

import json
import os
import pty
import resource
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.builders import architectures
from tests.builders.weights import random_weights
from tests.builders.write import write_safetensors
from tests.integration.running import Running

_SECONDS = 30
#: A user that has no account.
_STRANGER = 54321
_LORAD, _LORACTL = [sys.executable, "-P", "-m", "lorad"], [sys.executable, "-P", "-m", "loractl.cli"]


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Two equal files, one of them with a name beyond ASCII."""
    folder = tmp_path / "loras"
    folder.mkdir()
    layers = random_weights(architectures.sd15(4, width=4, every=12), 1)
    for name in ("añ→é.safetensors", "b.safetensors"):
        write_safetensors(str(folder / name), layers)
    return folder


def run(
    command: Sequence[str], environment: Mapping[str, str | None] | None = None, **options: object
) -> subprocess.CompletedProcess[str]:
    """A command in our environment with these changes; None takes a variable out."""
    changed = {**os.environ, **(environment or {})}
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        command, env={name: value for name, value in changed.items() if value is not None}, capture_output=True,
        text=True, errors="surrogateescape", timeout=_SECONDS, check=False, **options,
    )  # fmt: skip


def refused(ran: subprocess.CompletedProcess[str], *words: str, status: int = 2) -> None:
    """In one line, which holds all words."""
    assert (ran.returncode, ran.stderr.count("\n")) == (status, 1), ran.stderr
    assert all(word in ran.stderr for word in words), ran.stderr


@pytest.mark.parametrize("option", ["--config", "--watch", "--state-dir", "--runtime-dir"])
def test_an_empty_option_of_the_daemon_is_refused(option: str) -> None:
    """It would stand for the current folder, or for the default in silence."""
    refused(run([*_LORAD, option, ""]), option, "empty")


@pytest.mark.parametrize(
    "arguments",
    [
        ["scan", ""], ["scan", "/", "--state-dir", ""], ["status", "--socket", ""], ["show", ""], ["metadata", ""],
        ["resize", "", "-o", "x", "--rank", "2"], ["resize", "x", "-o", "", "--rank", "2"],
        ["merge", "", "x", "-o", "y"], ["bake", "x", "--base", "", "-o", "y"], ["importance", "x", "-o", ""],
    ],
    ids=" ".join,
)  # fmt: skip
def test_an_empty_name_is_refused_by_the_client(arguments: list[str]) -> None:
    refused(run([*_LORACTL, *arguments]), "empty", "--help")


def test_empty_variables_are_none(library: Path, tmp_path: Path) -> None:
    """As the XDG base directories have it; relative ones, too."""
    for value in ("", "relative"):
        none = dict.fromkeys(("XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"), value)
        ran = run([*_LORACTL, "scan", str(library)], {**none, "HOME": str(tmp_path)}, cwd=tmp_path)
        assert ran.returncode == 0, ran.stderr
        assert not (tmp_path / "relative").exists()
    assert (tmp_path / ".local/state/lorad/duplicates.json").exists()
    refused(run([*_LORACTL, "status"], {"LORAD_SOCKET": "", "HOME": str(tmp_path)}), "no daemon at", status=3)


@pytest.mark.parametrize("home", [None, "", "relative"])
def test_without_a_home_folder_the_remedy_is_said(library: Path, tmp_path: Path, home: str | None) -> None:
    """Of a user without an account; nothing is made in the current folder, and --state-dir is enough."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("another user needs root and setpriv")
    other = ["setpriv", f"--reuid={_STRANGER}", f"--regid={_STRANGER}", "--clear-groups"]
    none = {"HOME": home, "XDG_STATE_HOME": None, "XDG_RUNTIME_DIR": None, "XDG_CONFIG_HOME": None}
    for command in ([*_LORAD, "--watch", str(library)], [*_LORACTL, "scan", str(library)]):
        refused(run([*other, *command], none, cwd=tmp_path), "home folder", "--state-dir")
    refused(run([*other, *_LORACTL, "status"], none, cwd=tmp_path), "no daemon", status=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loras"]


def test_the_home_folder_of_somebody_else_is_none(library: Path, tmp_path: Path) -> None:
    """Who changes to another user often leaves HOME as it was."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("another user needs root and setpriv")
    other = ["setpriv", f"--reuid={_STRANGER}", f"--regid={_STRANGER}", "--clear-groups"]
    theirs = tmp_path / "theirs"
    theirs.mkdir(0o700)
    ran = run([*other, *_LORAD, "--watch", str(library)], {"HOME": str(theirs)})
    refused(ran, "home folder", "--state-dir")


@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C"},
        {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "ascii", "COLUMNS": "200"},
        {"LC_ALL": "en_US.ISO-8859-1"},
    ],
    ids=["C", "C without UTF-8", "latin-1 output", "ASCII output", "latin-1"],
)
def test_other_encodings_than_utf8_work(
    library: Path, tmp_path: Path, environment: dict[str, str], latin: dict[str, str]
) -> None:
    """Names come out readable on the terminal, and in JSON as they are on the disk."""
    state = tmp_path / "state"
    ran = run([*_LORACTL, "scan", str(library), "--state-dir", str(state)], {**latin, **environment})
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "b.safetensors" in ran.stdout
    duplicates = json.loads((state / "duplicates.json").read_text("utf-8"))["duplicates"]
    assert duplicates == {str(library / "añ→é.safetensors"): [str(library / "b.safetensors")]}
    ran = run([*_LORACTL, "importance", str(library / "añ→é.safetensors"), "--local"], {**latin, **environment})
    assert (ran.returncode, "Traceback" in ran.stderr) == (0, False)


@pytest.fixture
def latin(tmp_path: Path) -> dict[str, str]:
    """Where the C library finds a locale in latin-1, if one can be made."""
    if shutil.which("localedef") is None:
        return {}
    command = ["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(tmp_path / "en_US.ISO-8859-1")]
    made = subprocess.run(command, capture_output=True, check=False)
    return {"LOCPATH": str(tmp_path)} if made.returncode == 0 else {}


@pytest.mark.parametrize(
    "content", ["\ufeff[watch]\nroots = []\n", "[watch]\r\nroots = []\r\n"], ids=["BOM", "CRLF"]
)
def test_a_configuration_by_other_editors_is_read(tmp_path: Path, content: str) -> None:
    with Running(tmp_path, [], through=["env"]) as daemon:
        daemon.config.write_bytes(content.encode())
        daemon.notices.forget()
        os.kill(daemon.pid, signal.SIGHUP)
        daemon.notices.wait_for("READY=1")
    assert "the configuration stays as it was" not in daemon.log.read_text()


def test_too_few_descriptors_are_told(tmp_path: Path) -> None:
    command = ["sh", "-c", 'ulimit -n 64; exec "$@"', "sh", *_LORAD, "--state-dir", str(tmp_path / "state")]
    refused(run([*command, "--runtime-dir", str(tmp_path / "run")]), "64 files", "LimitNOFILE", "ulimit -n")


def test_a_low_limit_of_descriptors_is_raised(tmp_path: Path) -> None:
    """As far as it may be."""
    with Running(tmp_path, [], through=["sh", "-c", 'ulimit -S -n 200; exec "$@"', "sh"]) as daemon:
        soft, hard = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
    assert soft == min(hard, 65536) > 200


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_folders_are_for_owner_and_group_under_any_umask(tmp_path: Path, umask: int) -> None:
    """And sockets; in the runtime folder there are no folders, which those who tidy would remove."""
    runtime, state = tmp_path / "run", tmp_path / "state"
    with Running(tmp_path, [], through=["sh", "-c", f'umask {umask:o}; exec "$@"', "sh"]) as daemon:
        assert stat.S_IMODE(daemon.state.stat().st_mode) == 0o750
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in daemon.runtime.glob("*.sock")}
        assert modes == {"control.sock": 0o660, "events.sock": 0o660}
        assert not any(path.is_dir() for path in daemon.runtime.iterdir())
    shutil.rmtree(state)
    command = [*_LORAD, "--runtime-dir", str(runtime), "--state-dir", str(state)]
    process = subprocess.Popen(["sh", "-c", f'umask {umask:o}; exec "$@"', "sh", *command], stderr=subprocess.PIPE)
    assert process.stderr is not None
    while b"ready" not in process.stderr.readline():
        pass
    assert stat.S_IMODE(runtime.stat().st_mode) == 0o750
    process.terminate()
    process.communicate(timeout=_SECONDS)


def test_a_terminal_that_closes_ends_a_daemon_in_it(tmp_path: Path) -> None:
    """As SSH's does; with a configuration, too."""
    assert _hung_up(tmp_path, []) == 0


def test_nohup_keeps_it(tmp_path: Path) -> None:
    assert _hung_up(tmp_path, ["nohup"]) is None


def _hung_up(tmp_path: Path, through: list[str]) -> int | None:
    """The exit status of a daemon whose terminal was closed; None where it goes on."""
    config, log = tmp_path / "lorad.toml", tmp_path / "log"
    config.write_text("")
    folders = ["--state-dir", str(tmp_path / "state"), "--runtime-dir", str(tmp_path / "run")]
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.pop("NOTIFY_SOCKET", None)
        # nohup writes there.
        os.chdir(tmp_path)
        with log.open("wb") as file:
            os.dup2(file.fileno(), 2)
        os.execvp((command := [*through, *_LORAD, "--config", str(config), *folders])[0], command)
    while not log.exists() or b" ready " not in log.read_bytes():
        pass
    os.close(terminal)
    if through:
        while b"configuration read again" not in log.read_bytes():
            pass
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
        return None
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_runtime_folder_that_was_tidied_away_is_still_ours(tmp_path: Path) -> None:
    """With all that is in it; another lorad is refused, and children that end are started again."""
    with Running(tmp_path, []) as daemon, daemon.client() as client:
        assert client.status().pid == daemon.pid
        for path in daemon.runtime.iterdir():
            if path.name != "notify":
                path.unlink()
        while not {"control.sock", "events.sock", "lock"} <= {path.name for path in daemon.runtime.iterdir()}:
            pass
        other = ["--state-dir", str(tmp_path / "other"), "--runtime-dir", str(daemon.runtime)]
        refused(run([*_LORAD, *other]), "another lorad", status=5)
        loader = daemon.child("lorad.pipeline.loader")
        loader.kill()
        while not all(child.state == "ready" for child in client.status().children):
            pass
        assert client.status().pid == daemon.pid
    assert daemon.ended()
