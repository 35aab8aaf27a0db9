"""The service does under systemd what docs/install.md says (SPEC section 4, `service`), in both profiles.

The tests share one machine; each begins with the profile that it is about.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest

from tests.builders.architectures import sd15
from tests.builders.weights import random_weights
from tests.builders.write import write_safetensors
from tests.system.machine import Machine, why_not
from tests.systemd.units import DROPINS

if reason := why_not():
    pytest.skip(reason, allow_module_level=True)
pytestmark = pytest.mark.timeout(900)

MODELS = "/srv/models"
CONFIG = "/etc/lorad/lorad.toml"
#: A name with all that means something to systemd, to TOML or to a shell.
ODD = '/srv/my "best" 100% mo:d\'els\\'
HOME = "/home/alice/models"
#: What `[dedupe] action` is in the configuration that is put in place.
REPORT = 'action = "report"'


def put(machine: Machine, path: str, seed: int, *, owner: int = 0) -> Path:
    """A small LoRA in the machine, whole at once."""
    place = machine.path(path)
    new = place.with_suffix(".part")
    write_safetensors(str(new), random_weights(sd15(4, width=16, every=8), seed))
    os.chown(new, owner, owner)
    return new.rename(place)


def edit(machine: Machine, old: str, new: str) -> None:
    """Change the configuration as a person does."""
    config = machine.path(CONFIG)
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))


def report(machine: Machine) -> None:
    machine.path(CONFIG).unlink(missing_ok=True)
    machine.install("--report", "--watch", MODELS)


def duplicates(machine: Machine) -> set[str]:
    found = machine.view("duplicates")["duplicates"]
    return {path for kept, others in found.items() for path in (kept, *others)}


def status(machine: Machine, name: str) -> list[str]:
    """A line of /proc/PID/status of the daemon, such as CapEff."""
    text = machine.tell("cat", f"/proc/{machine.pid()}/status")
    return next(line.split()[1:] for line in text.splitlines() if line.startswith(f"{name}:"))


def test_as_the_document_says(machine: Machine) -> None:
    """Three lines: the service runs, is enabled, and answers members of its group alone."""
    assert machine.tell("systemctl", "is-active", "lorad").strip() == "active"
    assert machine.tell("systemctl", "is-enabled", "lorad").strip() == "enabled"
    assert machine.show("ExecStart").startswith("{ path=/opt/lorad/bin/lorad ;")
    assert machine.loractl("status")["roots"][0]["path"] == MODELS
    machine.tell("useradd", "--create-home", "alice")
    stranger = ["setpriv", "--reuid=alice", "--regid=alice", "--init-groups", "/opt/lorad/bin/loractl", "status"]
    assert machine.run(*stranger).code == 3
    machine.tell("usermod", "-aG", "lorad", "alice")
    assert machine.run(*stranger).code == 0


def test_state_and_runtime_folders_are_the_services(machine: Machine) -> None:
    """They are made for the service's user and group alone; state is on a disk of its own here."""
    report(machine)
    for folder in ("/var/lib/lorad", "/run/lorad"):
        assert machine.tell("stat", "-c", "%U:%G %a", folder).split() == ["lorad:lorad", "750"]
    assert machine.tell("stat", "-c", "%U:%G %a", "/run/lorad/control.sock").split() == ["lorad:lorad", "660"]
    devices = machine.tell("stat", "-c", "%d", "/var/lib/lorad", MODELS).split()
    assert len(set(devices)) == 2


def test_report_finds_duplicates_and_can_change_nothing(machine: Machine) -> None:
    """The profile *report*: no capability, no network, a read-only file system, a filter of system calls."""
    report(machine)
    put(machine, f"{MODELS}/a.safetensors", 1)
    put(machine, f"{MODELS}/b.safetensors", 1)
    with machine.timed("two files that came, until they are in duplicates.json"):
        machine.until(lambda: duplicates(machine) == {f"{MODELS}/a.safetensors", f"{MODELS}/b.safetensors"})
    assert status(machine, "CapBnd") == status(machine, "CapEff") == ["0" * 16]
    assert status(machine, "NoNewPrivs") == ["1"]
    assert status(machine, "Seccomp") == ["2"]
    inside = ["nsenter", "-t", machine.pid(), "-m", "-n"]
    touched = machine.run(*inside, "touch", f"{MODELS}/new", "/usr/new", "/etc/lorad/new")
    assert touched.stderr.count("Read-only file system") == 3
    assert machine.tell(*inside, "ls", "/home", "/root") == "/home:\n\n/root:\n"
    networks = machine.tell(*inside, "cat", "/proc/net/dev").splitlines()[2:]
    assert [line.split(":")[0].strip() for line in networks] == ["lo"]


def test_reload_takes_changes_over_or_none(machine: Machine) -> None:
    """`systemctl reload`: in the same process; a file with a mistake is refused whole, and the log names it."""
    report(machine)
    pid = machine.pid()
    machine.path("/srv/more").mkdir()
    edit(machine, f'"{MODELS}"', f'"{MODELS}", "/srv/more"')
    with machine.timed("systemctl reload"):
        machine.tell("systemctl", "reload", "lorad")
    assert [root["path"] for root in machine.loractl("status")["roots"]] == [MODELS, "/srv/more"]
    edit(machine, REPORT, 'action = "remove"')
    machine.run("systemctl", "reload", "lorad")
    machine.until(lambda: any("remove" in line["MESSAGE"] for line in machine.journal()))
    assert machine.loractl("status")["state"] != ""
    assert (machine.pid(), machine.show("ActiveState")) == (pid, "active")


def test_the_journal_has_priorities(machine: Machine) -> None:
    """`journalctl -p warning` shows a mistake in the configuration, and no line of ordinary work."""
    report(machine)
    edit(machine, REPORT, 'action = "remove"')
    machine.run("systemctl", "reload", "lorad")
    machine.until(lambda: [line for line in machine.journal() if line["PRIORITY"] in "34"])
    lines = [line for line in machine.journal() if line.get("_SYSTEMD_UNIT") == "lorad.service"]
    by_priority = {line["PRIORITY"]: line["MESSAGE"] for line in lines if line["_COMM"] != "(lorad)"}
    assert "6" in by_priority
    assert not [line for line in lines if re.match(r"<\d>", line["MESSAGE"])]


def test_killed_it_is_started_again(machine: Machine) -> None:
    """SIGKILL: systemd starts it again, no child is left over, and nothing is read again."""
    report(machine)
    put(machine, f"{MODELS}/a.safetensors", 1)
    machine.loractl("wait")
    pid = machine.pid()
    children = machine.tell("pgrep", "-P", pid).split()
    assert len(children) >= 3
    with machine.timed("kill -9, until it is ready again"):
        machine.tell("kill", "-9", pid)
        machine.until(lambda: machine.pid() not in (0, pid) and machine.show("ActiveState") == "active")
    assert machine.show("NRestarts") == "1"
    machine.loractl("wait")
    assert machine.loractl("status")["bytes_read"] == 0
    assert machine.run("ps", "-o", "pid=", "-p", ",".join(children)).stdout == ""


def test_hung_it_is_started_again_by_the_watchdog(machine: Machine) -> None:
    """SIGSTOP of the core: systemd ends it by its watchdog and starts it again, within a minute."""
    report(machine)
    pid = machine.pid()
    os.kill(_outside(machine, pid), signal.SIGSTOP)
    with machine.timed("SIGSTOP of the core, until it is ready again"):
        machine.until(lambda: machine.pid() not in (0, pid) and machine.show("ActiveState") == "active")
    assert "watchdog timeout" in machine.tell("journalctl", "-u", "lorad", "-n", "500").lower()
    assert machine.loractl("status")["roots"][0]["health"] == "watching"


def _outside(machine: Machine, pid: int) -> int:
    """The number that this process has for a process of the machine."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            numbers = re.search(r"^NSpid:\s+\d+\s+(\d+)$", (folder / "status").read_text(), re.MULTILINE)
            if numbers and int(numbers[1]) == pid and os.path.samefile(folder / "root", machine.root):
                return int(folder.name)
        except OSError:
            continue
    raise AssertionError(pid)


def test_it_stops_under_load(machine: Machine) -> None:
    """`systemctl stop` while layers are digested: it ends by itself, in time, and goes on at the next start."""
    report(machine)
    for name in ("one", "two"):
        _sparse(machine.path(f"{MODELS}/{name}.safetensors"), 1000)
    machine.until(lambda: machine.loractl("status")["bytes_read"] > 1 << 30)
    assert machine.loractl("status")["state"] == "reading"
    with machine.timed("systemctl stop while 134 GB are digested"):
        machine.tell("systemctl", "stop", "lorad")
    assert (machine.show("Result"), machine.show("ExecMainStatus")) == ("success", "0")
    for name in ("one", "two"):
        machine.path(f"{MODELS}/{name}.safetensors").unlink()
    with machine.timed("systemctl start"):
        machine.tell("systemctl", "start", "lorad")
    machine.loractl("wait")
    assert machine.loractl("audit")["differences"] == []


def _sparse(path: Path, layers: int) -> None:
    """A file of so many layers of 64 MiB, all holes."""
    size = 64 << 20
    rows = {
        f"layer{number}": {
            "dtype": "F32",
            "shape": [size // 4],
            "data_offsets": [number * size, (number + 1) * size],
        }
        for number in range(layers)
    }
    header = json.dumps(rows).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + layers * size)


@pytest.mark.parametrize("folder", [MODELS, ODD, HOME])
def test_act_replaces_files_in_the_sandbox(machine: Machine, folder: str) -> None:
    """The profile *act*: as the owner of the files, without capabilities, also below /home and under any name."""
    report(machine)
    alice = int(machine.tell("id", "-u", "alice"))
    machine.path(folder).mkdir(exist_ok=True)
    machine.tell("chown", "-R", "alice:", folder)
    machine.tell("chmod", "700", "/home/alice")
    kept = put(machine, f"{folder}/kept.safetensors", 2, owner=alice)
    found = machine.install("--act", "--watch", folder)
    assert (found["user"], machine.show("User"), machine.show("Group")) == ("alice", "alice", "alice")
    assert status(machine, "CapEff") == ["0" * 16]
    edit(machine, REPORT, 'action = "hardlink"')
    machine.tell("systemctl", "reload", "lorad")
    machine.loractl("wait")
    with machine.timed(f"a copy that came, until it is a hard link ({folder})"):
        copy = put(machine, f"{folder}/kept copy.safetensors", 2, owner=alice)
        machine.until(lambda: copy.exists() and copy.stat().st_ino == kept.stat().st_ino)
    assert (copy.stat().st_uid, copy.stat().st_nlink) == (alice, 2)
    inside = ["nsenter", "-t", machine.pid(), "-m", "setpriv", "--reuid=alice", "--regid=alice", "--clear-groups"]
    assert machine.run(*inside, "touch", f"{folder}/new").code == 0, "its root is writable"
    assert "Read-only" in machine.run(*inside, "touch", "/srv/more/new").stderr, "and nothing else"
    assert machine.tell("stat", "-c", "%U", "/var/lib/lorad").strip() == "alice"
    machine.loractl("undo", "--all")
    assert (copy.stat().st_nlink, kept.stat().st_nlink) == (1, 1)


def test_a_program_in_a_home_is_seen(machine: Machine) -> None:
    """An environment below /root, which is closed to all others and hidden from the service: it runs."""
    report(machine)
    machine.tell("cp", "-a", "/opt/lorad", "/root/lorad")
    for script in machine.path("/root/lorad/bin").glob("lora*"):
        script.write_text(script.read_text().replace("/opt/lorad", "/root/lorad"))
    ended = machine.run("/root/lorad/bin/loractl", "service", "install", "--yes")
    assert ended.code == 0, ended
    assert (
        ended.stderr == "/root/lorad: its owner decides what the service runs; /opt is a safer place for lorad\n"
    )
    assert machine.show("ExecStart").startswith("{ path=/root/lorad/bin/lorad ;")
    assert machine.loractl("status")["roots"][0]["health"] == "watching"
    machine.install()
    assert not machine.path("/etc/systemd/system/lorad.service.d").exists()
    shutil.rmtree(machine.path("/root/lorad"))


def test_it_is_back_after_a_reboot(machine: Machine) -> None:
    """Enabled: it starts by itself, with all that it knew, and reads nothing again."""
    report(machine)
    put(machine, f"{MODELS}/a.safetensors", 1)
    machine.loractl("wait")
    machine.reboot()
    machine.until(lambda: machine.show("ActiveState") == "active")
    machine.loractl("wait")
    found = machine.loractl("status")
    assert found["files_total"] > 0
    assert found["bytes_read"] == 0


def test_what_is_wrong_is_said_at_once(machine: Machine) -> None:
    """A folder that the service may not read: `install` says what `doctor` finds from inside the sandbox."""
    report(machine)
    closed = machine.path("/srv/closed")
    closed.mkdir(mode=0o700)
    machine.path(CONFIG).unlink()
    ended = machine.service("install", "--yes", "--watch", "/srv/closed")
    assert ended.code == 0
    assert "folder /srv/closed: cannot be read; let the daemon's user read it: setfacl" in ended.stderr
    closed.rmdir()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--watch", "/srv/none"], "/srv/none: no such folder"),
        (["--watch", "/home"], "does not see /home"),
        (["--act", "--watch", "/etc"], "is root's, and lorad never acts as root"),
        (["--gpu"], "pip install 'lorad[gpu]'"),
    ],
)
def test_bad_input_is_one_line_and_changes_nothing(machine: Machine, arguments: list[str], words: str) -> None:
    """Exit 2, and the service goes on as it was."""
    report(machine)
    pid, before = machine.pid(), machine.path(CONFIG).read_text()
    ended = machine.service("install", "--yes", *arguments)
    assert (ended.code, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert words in ended.stderr
    assert (machine.pid(), machine.path(CONFIG).read_text()) == (pid, before)


def test_a_service_that_does_not_start_says_why(machine: Machine) -> None:
    """Its own last words, in the error."""
    report(machine)
    edit(machine, 'state_dir = ""', f'state_dir = "{MODELS}"')
    ended = machine.service("install", "--yes")
    assert ended.code == 2
    assert ended.stderr.count("\n") == 1
    assert f"{MODELS}: the state folder cannot be watched" in ended.stderr


def test_every_drop_in_is_good_syntax(machine: Machine) -> None:
    """`systemd-analyze verify` has nothing to say of the unit with each of them, that for GPUs included."""
    report(machine)
    place = machine.path("/etc/systemd/system/lorad.service.d")
    place.mkdir(exist_ok=True)
    for dropin in DROPINS:
        name = dropin.name.removesuffix(".example")
        (place / name).write_text(machine.service("print", name).stdout)
        ended = machine.run("systemd-analyze", "verify", "--man=no", "lorad.service")
        assert (name, *ended) == (name, 0, "", "")
        (place / name).unlink()


def test_edited_files_stay(machine: Machine) -> None:
    """An edited unit is refused by name; uninstalling leaves it, the edited configuration and the state."""
    report(machine)
    edit(machine, REPORT, 'action = "hardlink"')
    unit = machine.path("/etc/systemd/system/lorad.service")
    unit.write_text(unit.read_text() + "# mine\n")
    ended = machine.service("install", "--yes")
    assert (ended.code, ended.stderr.count("\n")) == (2, 1)
    assert ended.stderr.startswith("loractl: /etc/systemd/system/lorad.service: was edited")
    ended = machine.service("uninstall", "--yes")
    assert ended.code == 0
    for path in (CONFIG, "/etc/systemd/system/lorad.service", "/var/lib/lorad"):
        assert path in ended.stderr
        assert machine.path(path).exists()
    assert machine.run("systemctl", "is-active", "lorad").stdout.strip() == "inactive"
    unit.unlink()
    machine.path(CONFIG).unlink()


def test_uninstalled_it_is_gone(machine: Machine) -> None:
    """No file of it is left but the state, and again is nothing to do."""
    report(machine)
    assert machine.service("uninstall", "--yes", "--json").code == 0
    assert (
        machine.tell("sh", "-c", "find /etc -path '*lorad*'; systemctl list-units --all --plain lorad*").count(
            "lorad"
        )
        == 0
    )
    assert machine.path("/var/lib/lorad").exists()
    assert machine.service("uninstall", "--yes").stdout == "There is nothing to remove.\n"
