"""The commands that ask a daemon: what they print and how they end (SPEC section 4)."""

from __future__ import annotations

import json
import os
import pty
import queue
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest

from loracore.control import FileGone, PublishedEvent, Refusal
from loractl import cli
from tests.daemon.control.serving import ODD, SECONDS, STATUS, Library, Served, serving
from tests.integration.scanning import loractl, view


def as_json(served: Served, *arguments: object, code: int = 0) -> Any:
    ended = loractl(*arguments, "--json", "--socket", served.socket)
    assert ended.returncode == code, ended.stderr
    return json.loads(ended.stdout)


def text(served: Served, *arguments: object, code: int = 0) -> str:
    ended = loractl(*arguments, "--socket", served.socket)
    assert ended.returncode == code, ended.stderr
    return ended.stdout


def start(served: Served, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-u", "-m", "loractl.cli", *arguments, "--socket", served.socket]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_json_is_that_of_the_json_files(served: Served) -> None:
    """The same names and shapes, so that a script reads either."""
    state = served.library.state
    duplicates = as_json(served, "duplicates")
    written = view(state, "duplicates")
    for key in ("generation", "complete", "wasted_bytes", "duplicates", "levels"):
        assert duplicates[key] == written[key]
    groups = as_json(served, "groups")
    assert groups["groups"] == view(state, "groups")["groups"]
    files = view(state, "processed")["files"]
    assert as_json(served, "failed")["failed"] == {
        path: row["error"] for path, row in files.items() if row["status"] == "failed"
    }
    for name in ("a.safetensors", os.fsdecode(ODD), "bad.safetensors"):
        path = str(served.library.folder / name)
        shown = as_json(served, "show", path)
        assert {key: shown[key] for key in files[path]} == {**files[path], "load_seconds": shown["load_seconds"]}
        assert shown["path"] == path
    found = as_json(served, "find", next(iter(groups["groups"]))[:8])
    assert {match["kind"] for match in found["matches"]} == {"layout"}


def test_status_as_json_and_as_text(served: Served) -> None:
    status = as_json(served, "status")
    assert status["state"] == "idle"
    assert status["roots"] == [{"path": "/loras", "health": "watching", "reason": "", "folders": 4}]
    assert status["files"] == STATUS.files
    plain = text(served, "status")
    for word in ("idle", "6 of 6 files", "unique 2", "/loras", "loader-0", "it broke", "cpu", "watching"):
        assert word in plain
    assert "\x1b" not in plain


def test_status_on_a_terminal(served: Served) -> None:
    """Tables and a bar, and nothing that a hostile name puts into it."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "loractl.cli", "status", "--socket", served.socket]
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    screen = b""
    try:
        while chunk := os.read(ours, 4096):
            screen += chunk
    except OSError:
        pass  # A terminal's way to say that nobody writes to it any more.
    os.close(ours)
    assert process.wait(SECONDS) == 0
    for word in ("100.0 %", "loader-0", "Watched", "Last errors"):
        assert word.encode() in screen


def test_wait_prints_the_generation(served: Served) -> None:
    assert as_json(served, "wait") == {"generation": 7}
    assert text(served, "wait", "--timeout", "20") == "generation 7\n"


def test_plain_columns_where_nobody_looks(served: Served) -> None:
    """Names are shown whole, escaped where they are not UTF-8."""
    shown = text(served, "duplicates")
    assert str(served.library.folder / "a.safetensors") in shown
    assert r"odd \xff.safetensors" in shown
    assert text(served, "groups").count("safetensors") == 7
    assert "bad.safetensors" in text(served, "failed")
    assert "duplicate" in text(served, "show", served.library.folder / "a.safetensors")
    assert "GPU" in text(served, "doctor", code=as_code(served))


def as_code(served: Served) -> int:
    """What `doctor` ends with on this machine."""
    return loractl("doctor", "--socket", served.socket).returncode


def test_audit_ends_with_1_for_differences(served: Served) -> None:
    assert as_json(served, "audit") == {"files": 9, "differences": [], "omitted": 0}
    new = served.library.folder / "new.safetensors"
    new.write_bytes(b"x")
    try:
        (difference,) = as_json(served, "audit", code=1)["differences"]
        assert (difference["path"], difference["what"]) == (str(new), "unknown")
    finally:
        new.unlink()


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["show", "/no/such/file"], 2, "no such file"),
        (["show", "/"], 2, "folder"),
        (["find", "xyz"], 2, "hex digits"),
        (["find", "abc"], 2, "hex digits"),
        (["duplicates", "--level", "all"], 2, "--level"),
        (["show"], 2, "FILE"),
        (["wait", "--timeout", "-1"], 2, "--timeout"),
        (["wait", "--timeout", "nan"], 2, "--timeout"),
        (["wait", "--timeout", "1e300"], 2, "--timeout"),
        (["events", "--kind", "everything"], 2, "--kind"),
        (["nonsense"], 2, "nonsense"),
    ],
)
def test_errors_are_one_line_with_an_exit_code(served: Served, arguments: list[str], code: int, word: str) -> None:
    ended = loractl(*arguments, *(["--socket", served.socket] if arguments != ["nonsense"] else []))
    assert ended.returncode == code
    assert word in ended.stderr
    assert "Traceback" not in ended.stderr


def test_no_daemon_is_3_and_says_how_to_start_it(tmp_path: Path) -> None:
    for command in ("status", "wait", "groups", "events", "audit", "doctor"):
        ended = loractl(command, "--socket", tmp_path / "none.sock")
        assert ended.returncode == 3
        assert ended.stderr.count("\n") == 1
        assert "lorad --watch DIR" in ended.stderr


def test_a_timeout_is_4_and_a_refusal_5(served: Served) -> None:
    held = served.held = queue.Queue()
    assert loractl("wait", "--timeout", "0.1", "--socket", served.socket).returncode == 4
    held.get(timeout=SECONDS)
    waiting = start(served, "wait")
    held.get(timeout=SECONDS).reply(Refusal("busy", "later \x1b[31m"))
    _, errors = waiting.communicate(timeout=SECONDS)
    assert (waiting.returncode, errors) == (5, b"loractl: later \\x1b[31m\n")


def test_events_stream_until_interrupted(served: Served) -> None:
    """An object a line; Ctrl-C ends with 130 and no word."""
    process = start(served, "events", "--json", "--kind", "gone")
    assert process.stdout is not None
    _until_it_listens(served)
    served.server.tell(PublishedEvent(1))
    served.server.tell(FileGone(b"/odd \xff"))
    event = json.loads(process.stdout.readline())
    assert event["kind"] == "gone"
    assert os.fsencode(event["path"]) == b"/odd \xff"
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=SECONDS)
    assert (process.returncode, rest, errors) == (130, b"", b"")


def _until_it_listens(served: Served) -> None:
    """Events that nobody listens to are only counted, so that says when somebody does."""
    deadline = time.monotonic() + SECONDS
    while not served.server._events.heard:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_events_as_text(served: Served) -> None:
    process = start(served, "events")
    assert process.stdout is not None
    _until_it_listens(served)
    served.server.tell(FileGone(b"/odd \xff\x1b[31m"))
    line = process.stdout.readline()
    assert b"gone" in line
    assert rb"/odd \xff\x1b[31m" in line
    process.terminate()
    process.communicate(timeout=SECONDS)


def test_status_follows_until_the_daemon_ends(library: Library, tmp_path: Path) -> None:
    """An object a line; then exit 3."""
    with serving(library, tmp_path / "run") as served:
        process = start(served, "status", "--follow", "--json")
        assert process.stdout is not None
        first, second = (json.loads(process.stdout.readline()) for _ in range(2))
        assert first["uptime_seconds"] < second["uptime_seconds"]
    _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 3
    assert b"still running" in errors


def test_a_reader_that_goes_away_is_no_error(served: Served) -> None:
    process = start(served, "status", "--follow", "--json")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert process.wait(SECONDS) == 128 + signal.SIGPIPE
    process.stderr.close()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    ended = loractl("completion", shell)
    assert ended.returncode == 0
    assert "_LORACTL_COMPLETE" in ended.stdout


def test_completion_knows_commands_and_levels() -> None:
    env = {**os.environ, "_LORACTL_COMPLETE": "bash_complete", "COMP_CWORD": "3"}
    env["COMP_WORDS"] = "loractl duplicates --level t"
    command = [str(Path(sys.executable).with_name("loractl"))]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert "tensors" in ended.stdout


@pytest.mark.parametrize("command", cli.cli.list_commands(click.Context(cli.cli)))
def test_every_command_explains_itself(command: str) -> None:
    """A page of help for each, and --json for all that print."""
    ended = loractl(command, "--help")
    assert ended.returncode == 0
    assert len(ended.stdout.splitlines()) > 5
    assert "\\b" not in ended.stdout
    if command not in ("service", "keys", "completion"):
        assert "--json" in ended.stdout


def test_keys_are_made_shown_and_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The secret key is readable by its owner alone, and never printed."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    made = loractl("keys", "make")
    assert made.returncode == 0
    key = made.stdout.strip()
    secret = tmp_path / "config" / "lorad" / "client.key_secret"
    assert secret.stat().st_mode & 0o077 == 0
    assert loractl("keys", "make").returncode == 2
    keys_dir = tmp_path / "keys"
    assert loractl("keys", "allow", key, "--name", "me", "--keys-dir", keys_dir).returncode == 0
    assert loractl("keys", "allow", "garbage", "--keys-dir", keys_dir).returncode == 2
    assert loractl("keys", "allow", key, "--name", "../me", "--keys-dir", keys_dir).returncode == 2
    shown = json.loads(loractl("keys", "show", "--json", "--keys-dir", keys_dir).stdout)["keys"]
    assert {(one["kind"], one["name"], one["key"]) for one in shown} == {
        ("ours", "client", key),
        ("allowed", "me", key),
    }
    hyphen = "-boWy0dL7#<kw?h65:ucBGB1^C}UPx.>)wnk5hx."
    assert loractl("keys", "allow", hyphen, "--name", "other", "--keys-dir", keys_dir).returncode == 0
    assert "secret-key" in secret.read_text()
    secret_key = secret.read_text().rpartition('secret-key = "')[2].split('"')[0]
    assert secret_key not in made.stdout + made.stderr + str(shown)
