"""The log, as processes write it to their standard error."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

HOSTILE = r'b"/m/a\x1b[31m\n<0>fake\xff.pt"'
HOSTILE_SHOWN = r"/m/a\x1b[31m\n<0>fake\xff.pt"


def logged(code: str, form: str | None = None, environ: dict[str, str] | None = None) -> list[str]:
    """The lines that a process logs by `code`, where `log` is a logger."""
    program = f"from lorad.supervisor.logs import get_logger, set_up\nset_up({form!r})\nlog = get_logger()\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", program], stderr=subprocess.PIPE, env={**os.environ, **(environ or {})}, check=False
    )
    text = done.stderr.decode("utf-8")
    assert text.endswith("\n")
    return text.split("\n")[:-1]


def test_json_has_an_object_a_line() -> None:
    """`time`, `level` and `event`, then the values, with their types."""
    (line,) = logged("log.warning('child restarted', child='loader-0', deaths=2, waits=1.5, gone=None)", "json")
    found = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found.pop("time"))
    assert list(found) == ["level", "event", "child", "deaths", "waits", "gone"]
    assert list(found.values()) == ["warning", "child restarted", "loader-0", 2, 1.5, None]


def test_console_is_for_people() -> None:
    """Time, level, event, values; quotes where they are needed; no colours outside a terminal."""
    (line,) = logged("log.info('ready', roots=['/m'], name='a b', empty='')")
    assert re.fullmatch(r'\d\d:\d\d:\d\d info    ready roots=\["/m"\] name="a b" empty=""', line)


def test_a_terminal_gets_colours() -> None:
    """And no other; NO_COLOR is obeyed."""
    for no_colour, expected in (("", True), ("1", False)):
        ours, theirs = pty.openpty()
        environ = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
        if no_colour:
            environ["NO_COLOR"] = no_colour
        code = "from lorad.supervisor.logs import get_logger, set_up; set_up(); get_logger().error('x')"
        subprocess.run([sys.executable, "-c", code], stderr=theirs, env=environ, check=True)
        assert (b"\x1b[31m" in os.read(ours, 4096)) == expected
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_line_stays_one_line(form: str) -> None:
    """Names, keys, errors and events of others neither break lines nor write to the terminal."""
    lines = logged(
        f"""
hostile = {HOSTILE}
for value in (hostile, hostile.decode("utf-8", "surrogateescape"), [hostile], {{hostile: 1}}, "\\ud800\\n"):
    log.error("failed", path=value)
log.error("a\\nb", **{{"k\\n": 1, "stack": "x", "exception": "y"}})
try:
    raise ValueError("first\\nsecond")
except ValueError:
    log.exception("broken")
log.info("x" * 1_000_000)
""",
        form,
    )
    assert len(lines) == 8
    assert all(line.isprintable() for line in lines)
    assert max(map(len, lines)) < 10_000
    if form == "json":
        found = [json.loads(line) for line in lines]
        assert found[0]["path"] == found[1]["path"] == HOSTILE_SHOWN
        assert found[2]["path"] == [HOSTILE_SHOWN]
        assert found[6]["level"] == "error"
        assert found[6]["error"] == r"ValueError: first\nsecond"
        assert "Traceback" in found[6]["traceback"]
    else:
        assert all("\n" not in line and HOSTILE_SHOWN in line for line in lines[:2])


def journal(folder: Path, code: str, form: str | None = None) -> list[str]:
    """The same, where standard error is what JOURNAL_STREAM says."""
    path = folder / "journal"
    with path.open("wb") as file:
        found = os.fstat(file.fileno())
        program = (
            f"from lorad.supervisor.logs import get_logger, set_up\nset_up({form!r})\nlog = get_logger()\n{code}"
        )
        environ = {**os.environ, "JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        subprocess.run([sys.executable, "-c", program], stderr=file, env=environ, check=True)
    return path.read_text().splitlines()


def test_the_journal_gets_priorities(tmp_path: Path) -> None:
    """Where standard error is the journal, lines begin with their priority, and it notes the time itself."""
    lines = journal(
        tmp_path,
        "log.debug('no'); log.info('a', n=1); log.warning('b'); log.error('c'); log.critical('d')",
    )
    assert lines == ["<6>a n=1", "<4>b", "<3>c", "<2>d"]


def test_json_stays_json_in_the_journal(tmp_path: Path) -> None:
    """Who asks for JSON gets nothing else."""
    (line,) = journal(tmp_path, "log.info('a')", "json")
    assert json.loads(line)["event"] == "a"


def test_another_stream_is_not_the_journal() -> None:
    """JOURNAL_STREAM is inherited by everybody; only its own stream counts."""
    (line,) = logged("log.info('a')", environ={"JOURNAL_STREAM": "8:12345"})
    assert not line.startswith("<")


def test_others_speak_through_the_same_log() -> None:
    """`logging`, warnings, and errors that nobody caught, also in threads."""
    lines = logged(
        """
import logging, threading, warnings
logging.getLogger("watchdog").warning("two\\nlines %s", 3)
logging.getLogger("watchdog").info("not this")
logging.getLogger("watchdog").log(35, "between")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("x").exception("division")
warnings.warn("beware")
thread = threading.Thread(target=lambda: [][0], name="worker")
thread.start()
thread.join()
raise OSError("unexpected")
""",
        "json",
    )
    found = [json.loads(line) for line in lines]
    assert [(each["level"], each["event"]) for each in found[:3]] == [
        ("warning", r"two\nlines 3"), ("warning", "between"), ("error", "division")
    ]  # fmt: skip
    assert found[2]["error"] == "ZeroDivisionError: division by zero"
    assert "beware" in found[3]["event"]
    assert (found[4]["level"], found[4]["thread"]) == ("critical", "worker")
    assert found[5]["error"] == "OSError: unexpected"
    assert len(found) == 6


@pytest.mark.parametrize("where", ["nobody reads", "full", "closed"])
def test_a_log_that_cannot_be_written_is_lost_alone(where: str) -> None:
    """The daemon goes on when nobody reads its log, or no disk takes it."""
    code = (
        "from lorad.supervisor.logs import get_logger, set_up; set_up()\n"
        "for _ in range(3): get_logger().error('x')\nprint('goes on')"
    )
    read, write = os.pipe()
    os.close(read)
    with open("/dev/full", "wb") as full, os.fdopen(write, "wb") as unread:
        command = [sys.executable, "-c", code]
        if where == "closed":
            command = ["sh", "-c", 'exec "$@" 2>&-', "sh", *command]
        stderr = full if where == "full" else unread
        done = subprocess.run(command, stderr=stderr, stdout=subprocess.PIPE, check=True)
    assert done.stdout == b"goes on\n"


def test_processes_that_share_a_log_do_not_mix_lines(tmp_path: Path) -> None:
    """A line is one write."""
    code = "from lorad.supervisor.logs import get_logger, set_up; set_up('json'); log = get_logger()\n"
    code += "for n in range(300): log.info('x' * 500, n=n)"
    path = tmp_path / "log"
    with path.open("ab") as file:
        processes = [subprocess.Popen([sys.executable, "-c", code], stderr=file) for _ in range(2)]
        assert [process.wait() for process in processes] == [0, 0]
    assert [json.loads(line)["level"] for line in path.read_text().splitlines()] == ["info"] * 600


def test_the_log_imports_nothing_heavy() -> None:
    """It is part of every start."""
    code = "import sys, lorad.supervisor.logs; print('torch' in sys.modules, 'numpy' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code]) == b"False False\n"
