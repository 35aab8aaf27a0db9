"""`loractl dedupe`, `undo`, `history`, `savings`, and their methods of both clients (SPEC sections 4, 5, 10)."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loracore import policy
from loracore.control import PlannedStep, SkippedFile
from loractl.view import plan as plans
from tests.daemon.control.acting import Acts, entry
from tests.daemon.control.serving import ODD, SECONDS, Served
from tests.integration.scanning import loractl as command


def as_json(served: Served, *arguments: object, code: int = 0) -> Any:
    ended = command(*arguments, "--json", "--socket", served.socket)
    assert ended.returncode == code, ended.stderr
    return json.loads(ended.stdout)


def on_terminal(served: Served, width: int, *arguments: str) -> tuple[int, str]:
    """The exit code, and all that a terminal of this width got to see."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "loractl.cli", *arguments, "--socket", served.socket],
        stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm", "COLUMNS": str(width)},
    )  # fmt: skip
    os.close(theirs)
    screen = b""
    try:
        while chunk := os.read(ours, 4096):
            screen += chunk
    except OSError:
        pass  # A terminal's way to say that nobody writes to it any more.
    os.close(ours)
    return process.wait(SECONDS), screen.decode()


def test_a_plan_as_json(acting: Served, acts: Acts) -> None:
    """What would be done, why which is kept, what it saves; nothing is done."""
    plan = as_json(acting, "dedupe", "--action", "symlink")
    assert (plan["action"], plan["complete"]) == ("symlink", True)
    folder = acting.library.folder
    assert {step["path"] for step in plan["steps"]} == {
        str(folder / name) for name in ("b.safetensors", "c.safetensors", os.fsdecode(ODD))
    }
    assert {(step["kept"], step["why"]) for step in plan["steps"]} == {(str(folder / "a.safetensors"), "is older")}
    assert plan["bytes"] == sum(step["bytes"] for step in plan["steps"])
    assert [row["reason"] for row in plan["skipped"]] == ["same inode already"]
    assert "cursor" not in plan
    assert acts.plans == []


def test_options_stand_in_place_of_the_configuration(acting: Served) -> None:
    """A folder of a path-prefix may be relative."""
    ended = subprocess.run(
        [sys.executable, "-m", "loractl.cli", "dedupe", "--json", "--action", "hardlink", "--level", "file",
         "--keep", "path-prefix:loras/b.safetensors", "--keep", "newest", "--socket", acting.socket],
        cwd=acting.library.folder.parent, capture_output=True, timeout=SECONDS, check=True,
    )  # fmt: skip
    plan = json.loads(ended.stdout)
    assert {step["kept"] for step in plan["steps"]} == {str(acting.library.folder / "b.safetensors")}
    assert {step["level"] for step in plan["steps"]} == {"file"}


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_plan_on_a_terminal(acting: Served, width: int) -> None:
    """At each width: action, file, reason, sum; names that are not UTF-8 as escapes."""
    code, screen = on_terminal(acting, width, "dedupe", "--action", "symlink")
    assert code == 0
    for word in ("symlink", "b.safetensors", r"odd \xff.safetensors", "is older", "--apply"):
        assert word in screen
    joined = " ".join(screen.split())
    assert "3 files in 1 set would be replaced by symbolic links" in joined
    assert "Left alone: 1 same inode already." in joined


def test_a_plan_in_a_pipe(acting: Served) -> None:
    """A line for each file with its whole path; what is said about it goes to standard error."""
    ended = command("dedupe", "--socket", acting.socket)
    assert ended.returncode == 0
    lines = ended.stdout.splitlines()
    assert len(lines) == 4
    assert lines[0].endswith(str(acting.library.folder / "a.safetensors"))
    assert all(line.startswith("report") for line in lines[1:])
    assert "--action" in ended.stderr
    assert "\x1b" not in ended.stdout


def test_long_plans_end_with_a_count(acting: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sets that save most come first; `--all` shows the rest."""
    from rich.console import Console

    from loracore.control import Planned
    from loractl.view import plan_screen

    steps = [
        PlannedStep(b"/m/%d/b\x1b[31m" % number, b"/m/%d/a" % number, "file", "delete", number * 1000, "is older")
        for number in range(1, 31)
    ]
    skipped = [SkippedFile(b"/m/%d/c" % number, b"", "tensors", "not in scope") for number in range(5)]
    plan = Planned(1, True, "delete", steps, skipped, sum(step.bytes for step in steps))
    recorded = Console(record=True, width=100, file=io.StringIO())
    monkeypatch.setattr(plan_screen, "Console", lambda **options: recorded)
    plan_screen.show_plan(plan, everything=False)
    text = recorded.export_text(clear=True)
    assert "30/b\\x1b[31m" in text
    assert "\n10/" not in text
    assert "… and 10 more sets, 55.0 kB; --all shows them" in text
    assert "30 files in 30 sets would be taken away, 465.0 kB saved." in text
    assert "5 not in scope" in text
    plan_screen.show_plan(plan, everything=True)
    assert "1/b" in recorded.export_text()


def test_apply_does_the_plan(acting: Served, acts: Acts) -> None:
    applied = as_json(acting, "dedupe", "--apply", "--action", "symlink")
    assert (applied["done"], applied["refused"]) == (3, 0)
    assert {result["state"] for result in applied["results"]} == {"done"}
    assert [step.action for step in acts.plans[0].steps] == ["symlink"] * 3


def test_what_is_refused_ends_with_5_and_its_reason(acting: Served, acts: Acts) -> None:
    acts.refuses = {os.fsencode(acting.library.folder / "b.safetensors")}
    ended = command("dedupe", "--apply", "--action", "delete", "--socket", acting.socket)
    assert ended.returncode == 5
    assert "b.safetensors" in ended.stdout
    assert "it is open for writing" in ended.stdout
    assert "2 files done" in ended.stderr
    assert "1 refused" in ended.stderr
    assert as_json(acting, "dedupe", "--apply", "--action", "delete", code=5)["refused"] == 1


def test_a_policy_that_reports_is_not_applied(acting: Served) -> None:
    ended = command("dedupe", "--apply", "--socket", acting.socket)
    assert (ended.returncode, ended.stderr.count("\n")) == (5, 1)
    assert "[dedupe] action" in ended.stderr


def test_a_daemon_that_does_not_act_refuses(served: Served) -> None:
    for arguments in (["dedupe", "--apply", "--action", "delete"], ["undo", "--all"], ["history"], ["savings"]):
        assert command(*arguments, "--socket", served.socket).returncode == 5


def test_undo_by_id_and_all(acting: Served, acts: Acts) -> None:
    assert as_json(acting, "undo", "3", "1")["done"] == 2
    assert "2 actions undone" in command("undo", "--all", "--socket", acting.socket).stderr
    assert acts.undone == [[3, 1], None]
    ended = command("undo", "77", "3", "--socket", acting.socket)
    assert ended.returncode == 5
    assert "there is no action 77" in ended.stdout
    ended = command("undo", "77", "--socket", acting.socket)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1), "nothing else was asked for"
    assert "there is no action 77" in ended.stderr


def test_options_that_contradict_each_other_are_bad_input(acting: Served) -> None:
    """SPEC 4: exit 2 for wrong usage, with and without --apply."""
    for arguments in ([], ["--apply"]):
        given = ["--action", "hardlink", "--level", "tensors", "--socket", acting.socket]
        ended = command("dedupe", *arguments, *given)
        assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
        assert "equal byte for byte" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["undo"], "--all"),
        (["undo", "1", "--all"], "--all"),
        (["undo", "0"], "range"),
        (["undo", "9" * 30], "range"),
        (["undo", "x"], "x"),
        (["dedupe", "--action", "burn"], "--action"),
        (["dedupe", "--level", "inode"], "--level"),
        (["dedupe", "--keep", "best\x1b[31m"], r"best\x1b[31m is none of"),
        (["dedupe", "--keep", "path-prefix:"], "path-prefix"),
    ],
)
def test_wrong_usage_is_2(acting: Served, acts: Acts, arguments: list[str], word: str) -> None:
    ended = command(*arguments, "--socket", acting.socket)
    assert ended.returncode == 2
    assert word in ended.stderr
    assert "\x1b" not in ended.stderr
    assert acts.undone == []


def test_history_has_the_promised_form(acting: Served, acts: Acts) -> None:
    """SPEC section 4, to the letter; paths that are not UTF-8 survive."""
    written = as_json(acting, "history")
    assert list(written) == ["actions"]
    assert [list(action) for action in written["actions"]] == [
        ["id", "time", "action", "kept", "path", "bytes", "state"]
    ] * 3
    assert [(action["id"], action["state"]) for action in written["actions"]] == [
        (1, "done"), (2, "undone"), (3, "done"),
    ]  # fmt: skip
    assert os.fsencode(written["actions"][0]["path"]) == acts.entries[0].path
    plain = command("history", "--socket", acting.socket)
    assert plain.stdout.count(r"odd \xff.safetensors") == 3
    acts.entries = []
    assert as_json(acting, "history") == {"actions": []}
    assert "nothing was done" in command("history", "--socket", acting.socket).stderr


@pytest.mark.parametrize("width", [60, 120])
def test_history_on_a_terminal(acting: Served, acts: Acts, width: int) -> None:
    """The newest ones, with their ids; earlier ones are counted."""
    acts.entries = [entry(number) for number in range(1, 71)]
    code, screen = on_terminal(acting, width, "history")
    assert code == 0
    assert r"odd \xff.safetensors" in screen
    assert "20 earlier ones; --all shows them" in screen
    assert "2026-11-21 03:10:00" in screen


def test_savings(acting: Served, acts: Acts) -> None:
    written = as_json(acting, "savings")
    assert written["possible_bytes"] == acts.possible > 0
    assert written["by_action"] == {"symlink": 2_000_000, "quarantine": 1_000_000}
    plain = command("savings", "--socket", acting.socket).stdout
    for word in ("3.0 MB", "1.0 MB", "symlink", "possible"):
        assert word in plain


def test_rules_and_actions_complete() -> None:
    env = {**os.environ, "_LORACTL_COMPLETE": "bash_complete", "COMP_CWORD": "3"}
    program = str(Path(sys.executable).with_name("loractl"))
    for words, expected in (("--keep o", "oldest"), ("--keep p", "path-prefix:"), ("--action q", "quarantine")):
        env["COMP_WORDS"] = f"loractl dedupe {words}"
        ended = subprocess.run(program, env=env, capture_output=True, text=True, timeout=SECONDS, check=False)
        assert ended.stdout.split(",")[-1].strip() == expected


def test_words_for_every_action() -> None:
    """A plan of each reads as a sentence."""
    from loracore.control import Planned

    for action in policy.ACTIONS:
        step = PlannedStep(b"/b", b"/a", "file", action, 1000, "is older")
        words = " ".join(plans.plan_words(Planned(1, True, action, [step], [], 1000)))
        assert words.startswith("1 file in 1 set ")
        assert "1.0 kB" in words
    assert next(plans.plan_words(Planned(1, True, "delete", [], [], 0))) == "Nothing to do."
