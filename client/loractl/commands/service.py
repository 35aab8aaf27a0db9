"""`loractl service`: lorad as a service of systemd, from what the package brings."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

import loractl
from loracore.config import SYSTEM_CONFIG, load_config
from loracore.control import CONTROL_SOCKET, Finding
from loracore.errors import UsageError
from loracore.paths import SYSTEM_RUNTIME_DIR
from loractl.commands.options import json_option
from loractl.service import files, machine, place
from loractl.service.place import Step
from loractl.view.forms import form, print_json
from loractl.view.tables import Column, show_table

_YES = click.option("--yes", "-y", is_flag=True, help="Do not ask before it is done.")


def _describes(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say what the service is to be."""
    for option in (
        click.option("--gpu/--no-gpu", default=None, help="It may use NVIDIA GPUs. [default: as it is, or not]"),
        click.option(
            "--act/--report", default=None,
            help="act: it runs as the owner of the files, and may change them. report: it changes nothing in DIR. "
            "[default: as it is, or report]",
        ),
        click.option(
            "--watch", metavar="DIR", multiple=True, type=click.Path(),
            help="A folder to look after; may be repeated. [default: as configured]",
        ),
    ):  # fmt: skip
        function = option(function)
    return function


@click.group()
def service() -> None:
    """Make lorad a service of systemd, for this machine and by this installation.

    \b
    loractl service install --watch /srv/models            # reads the folder, changes nothing in it
    loractl service install --watch /srv/models --act      # may de-duplicate there, as the owner of the files
    """  # noqa: D301 - click reads \b


@service.command()
@_describes
@_YES
@json_option
def install(watch: tuple[str, ...], act: bool | None, gpu: bool | None, yes: bool, as_json: bool) -> None:
    """Put unit, user, configuration and drop-ins in place, and start the service.

    Shows what it does and asks first. Again, it takes over what is new: after an upgrade, or for other options. A
    file that was edited is never overwritten.

    \b
    loractl service install --watch /srv/models --watch /data/loras
    loractl service install --act --yes
    """  # noqa: D301 - click reads \b
    _need_root()
    place.need_systemd()
    setup = place.setup(watch, act, gpu)
    if not setup.folders:
        raise UsageError("say which folders to look after: --watch DIR")
    if gpu:
        machine.check_gpu()
    steps, commands = place.putting(files.wanted(setup)), place.commands()
    for folder in machine.hidden(setup.environment)[:1]:
        click.echo(f"{folder}: its owner decides what the service runs; /opt is a safer place for lorad", err=True)
    _agree(steps, commands, yes, as_json)
    place.take(steps)
    for command in commands:
        place.run(command)
    config = load_config(SYSTEM_CONFIG)
    problems = _problems(config.runtime_dir or SYSTEM_RUNTIME_DIR)
    if as_json:
        told = {"program": setup.program, "user": setup.user, "folders": list(setup.folders)}
        print_json({**told, "files": _listed(steps), "problems": [form(problem) for problem in problems]})
        return
    click.echo("lorad runs. `loractl status` shows what it does, `journalctl -u lorad` what happened.")
    if setup.owner is not None and config.dedupe.action == "report":
        click.echo(
            f"It changes no file yet: set [dedupe] action in {SYSTEM_CONFIG}, then `systemctl reload lorad`."
        )
    for problem in problems:
        click.echo(f"{problem.name}: {problem.text}; {problem.remedy}", err=True)


@service.command("print")
@click.argument("name", metavar="[FILE]", required=False)
@_describes
@json_option
def print_(name: str | None, watch: tuple[str, ...], act: bool | None, gpu: bool | None, as_json: bool) -> None:
    """Show the files that `install` would put in place, or one of them, or a drop-in to fill in by hand.

    \b
    loractl service print --watch /srv/models --act
    loractl service print nfs.conf > /etc/systemd/system/lorad.service.d/nfs.conf
    """  # noqa: D301 - click reads \b
    setup = place.setup(watch, act, gpu)
    if name is not None:
        found = [("", files.named(name, setup))]
    else:
        found = [(file.path, file.text) for file in files.wanted(setup)]
    if as_json:
        print_json({"files": [{"path": path or name, "text": text} for path, text in found]})
        return
    for path, text in found:
        click.echo(f"### {path}\n{text}" if path else text, nl=bool(path))


@service.command()
@_YES
@json_option
def uninstall(yes: bool, as_json: bool) -> None:
    """Stop the service, and remove what `install` put in place.

    Edited files, the state folder with all that was learnt, and the user stay. So does what was hidden or
    quarantined among the models: `loractl undo --all` takes it back before.

    \b
    loractl service uninstall
    loractl service uninstall --yes --json
    """  # noqa: D301 - click reads \b
    _need_root()
    place.need_systemd()
    steps, commands = place.removing(), place.commands(removes=True)
    if steps:
        _agree(steps, commands, yes, as_json)
    for command in commands:
        place.run(command)
    place.take(steps)
    if steps:
        place.run(["systemctl", "daemon-reload"])
    left = [step.path for step in steps if step.do == "leave"]
    left += [place.STATE_DIR] if os.path.isdir(place.STATE_DIR) else []
    if as_json:
        print_json({"files": _listed(steps), "left": left})
        return
    click.echo("The service is removed." if steps else "There is nothing to remove.")
    if left:
        click.echo(f"Left: {' '.join(map(shlex.quote, left))}, and the user lorad (userdel lorad)", err=True)


def _need_root() -> None:
    if os.geteuid() != 0:
        ours = [os.path.join(os.path.dirname(sys.executable), "loractl"), *sys.argv[1:]]
        raise UsageError(f"needs root: sudo {shlex.join(ours)}")


def _agree(steps: Sequence[Step], commands: Sequence[Sequence[str]], yes: bool, as_json: bool) -> None:
    """Show what is going to be done, and ask where somebody can answer. Raises UsageError, or ends."""
    if not yes and (as_json or not sys.stdin.isatty()):
        raise UsageError("nobody is there to be asked: give --yes")
    if as_json:
        return
    rows = [(step.do, step.path, step.why) for step in steps]
    rows += [("run", " ".join(command), "") for command in commands]
    show_table([Column("do"), Column("file or command", folds=True), Column("what for", folds=True)], rows)
    if not yes and not click.confirm("Do it?", err=True):
        click.echo("Nothing was changed.", err=True)
        sys.exit(0)


def _listed(steps: Sequence[Step]) -> list[dict[str, str]]:
    return [{"do": step.do, "path": step.path} for step in steps]


def _problems(runtime_dir: str) -> list[Finding]:
    """What `doctor` finds wrong from inside the service."""
    with loractl.Client(os.path.join(runtime_dir, CONTROL_SOCKET)) as daemon:
        return [finding for finding in daemon.doctor().findings if finding.level == "problem"]
