"""`loractl dedupe`, `undo`, `free`, `history` and `savings`: what becomes of duplicates (SPEC section 5)."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

import click
from click.shell_completion import CompletionItem

from loracore.control import Applied, DedupeProgress, Freed, Planned, Undone
from loracore.paths import expanded, shown
from loracore.policy import ACTIONS, KEEP_RULES, LEVELS, PATH_PREFIX
from loractl.commands.options import Connect, asks_daemon
from loractl.view import forms, tables
from loractl.view import plan as plans

_REFUSED, _INTERRUPTED = 5, 130
_T = TypeVar("_T")


class KeepRule(click.ParamType):  # type: ignore[type-arg]  # generic in new versions of click alone
    """A keep rule; the folder of a path-prefix may be relative to the current one."""

    name = "rule"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        rule = str(value)
        if rule.startswith(PATH_PREFIX) and len(rule) > len(PATH_PREFIX):
            try:
                return PATH_PREFIX + os.path.abspath(expanded(rule.removeprefix(PATH_PREFIX)))
            except ValueError:
                self.fail("this user has no home folder: give a folder without ~.", param, ctx)
        if rule not in KEEP_RULES:
            self.fail(f"{shown(rule)} is none of {', '.join(KEEP_RULES)}, {PATH_PREFIX}DIR.", param, ctx)
        return rule

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(rule) for rule in (*KEEP_RULES, PATH_PREFIX) if rule.startswith(incomplete)]


@click.command()
@asks_daemon
@click.option("--apply", is_flag=True, help="Do it. Without, it is only shown.")
@click.option("--action", type=click.Choice(ACTIONS), help="What becomes of them. [default: as configured]")
@click.option(
    "--keep", "keep", multiple=True, type=KeepRule(), metavar="RULE",
    help=f"Which file of a set is kept: {', '.join(KEEP_RULES)} or {PATH_PREFIX}DIR. May be repeated; the "
    "first one that tells two files apart decides.",
)  # fmt: skip
@click.option(
    "--level",
    "levels",
    multiple=True,
    type=click.Choice(LEVELS),
    help="Only those that are the same in this way.",
)
@click.option("--now", is_flag=True, help="With --apply: remove at once what would be put aside for its grace.")
@click.option("--all", "everything", is_flag=True, help="Show the whole of a long plan.")
def dedupe(  # noqa: PLR0917 - click hands options over by name
    connect: Connect,
    as_json: bool,
    apply: bool,
    action: str | None,
    keep: tuple[str, ...],
    levels: tuple[str, ...],
    now: bool,
    everything: bool,
) -> None:
    """Show what the policy makes of the duplicates: what would be done, why which file is kept, what it saves.

    Nothing is changed without --apply. What goes is put aside first, in its own folder under a hidden name, and
    removed after its grace, by `loractl free`, or at once with --now; it comes back when the kept file is gone.
    What is not given is as in the [dedupe] table of the configuration; its scope and min_age always hold. Exit 0
    for a plan, and when all was done; 5 when something was refused; 2 for options that contradict each other.
    """
    if now and not apply:
        raise click.UsageError("--now goes with --apply.")
    if apply:
        _apply(connect, as_json, action or "", keep, levels, now=now)
    with connect() as daemon:
        plan = daemon.plan_dedupe(action or "", keep, levels)
    if as_json:
        forms.print_json({name: value for name, value in forms.form(plan).items() if name != "cursor"})
    else:
        _show_plan(plan, everything)


def _show_plan(plan: Planned, everything: bool) -> None:
    if sys.stdout.isatty():
        from loractl.view.plan_screen import show_plan  # noqa: PLC0415 - for a terminal alone

        show_plan(plan, everything=everything)
        return
    tables.print_plain(plans.PLAN_COLUMNS, plans.plan_rows(plans.by_kept(plan)))
    for line in plans.plan_words(plan):
        click.echo(line, err=True)


def _apply(
    connect: Connect, as_json: bool, action: str, keep: Sequence[str], levels: Sequence[str], *, now: bool
) -> NoReturn:
    with connect() as daemon:
        answer = _followed(
            "De-duplicating",
            as_json,
            lambda progress: daemon.apply_dedupe(action, keep, levels, now=now, progress=progress),
        )
    _show_outcome(answer, as_json, plans.applied_words(answer, now=now))


@click.command()
@asks_daemon
@click.argument("ids", nargs=-1, type=click.IntRange(1, 2**63 - 1), metavar="[ID...]")
@click.option("--all", "everything", is_flag=True, help="All that stands, instead of single actions.")
def undo(connect: Connect, as_json: bool, ids: tuple[int, ...], everything: bool) -> None:
    """Put back the files of the actions ID..., as `loractl history` numbers them.

    Content, name, mode, owner, times and extended attributes come back; where another file has taken the name, as
    `NAME (given back).EXT`. Exit 5 when one was refused; 2 when there is no such action. What is undone already is
    nothing to do. Edits of headers have ids of their own: `loractl edit --undo` takes those back.

    \b
    loractl undo 12               take back action 12
    loractl undo --all            take back all that can be taken back
    """  # noqa: D301 - click reads \b
    if everything == bool(ids):
        raise click.UsageError("Give the ID of an action, or --all.")
    with connect() as daemon:
        answer = _followed(
            "Undoing", as_json, lambda progress: daemon.undo(ids, all=everything, progress=progress)
        )
    _show_outcome(answer, as_json, plans.undone_words(answer))


@click.command()
@asks_daemon
@click.argument("ids", nargs=-1, type=click.IntRange(1, 2**63 - 1), metavar="[ID...]")
@click.option("--dry-run", is_flag=True, help="Only show it, and when each would be removed by itself.")
def free(connect: Connect, as_json: bool, ids: tuple[int, ...], dry_run: bool) -> None:
    """Remove what the actions ID... have put aside, as `loractl history` numbers them, before their time.

    Without an ID, all that is put aside but what lies in quarantine, which is removed by its ID alone.
    Before a file is removed, another one is read that may keep the same weights, and what is needed to make the
    removed one anew is written down: `loractl undo` still brings it back. What cannot be removed stays aside, and
    the table says why; the exit code is 5 then, and 2 when there is no such action.

    \b
    loractl free --dry-run        what is put aside, and until when
    loractl free 12 13            remove what actions 12 and 13 have put aside
    """  # noqa: D301 - click reads \b
    with connect() as daemon:
        if dry_run:
            files = list(daemon.hidden(ids))
            if as_json:
                forms.print_json({"files": [forms.form(file) for file in files]})
            elif files:
                tables.show_table(plans.HIDDEN_COLUMNS, plans.hidden_rows(files))
            click.echo(plans.hidden_words(files), err=True)
            return
        answer = _followed("Freeing", as_json, lambda progress: daemon.free(ids, progress=progress))
    _show_outcome(answer, as_json, plans.freed_words(answer))


def _followed(what: str, as_json: bool, act: Callable[[Callable[[DedupeProgress], None] | None], _T]) -> _T:
    """Have it done, with a progress bar where somebody looks."""
    bar = None
    if sys.stderr.isatty() and not as_json:
        from loractl.view.progress import ActProgress  # noqa: PLC0415 - for a terminal alone

        bar = ActProgress(what)
    try:
        return act(bar.update if bar else None)
    except KeyboardInterrupt:
        click.echo("loractl: the daemon goes on with it; `loractl history` shows what it does", err=True)
        sys.exit(_INTERRUPTED)
    finally:
        if bar:
            bar.close()


def _show_outcome(answer: Applied | Undone | Freed, as_json: bool, words: str) -> NoReturn:
    """Print it and leave."""
    if as_json:
        forms.print_json(forms.form(answer))
    else:
        refused = list(plans.refused_rows(answer.results))
        if refused:
            tables.show_table(plans.OUTCOME_COLUMNS, refused)
        click.echo(words, err=True)
    sys.exit(_REFUSED if answer.refused else 0)


@click.command()
@asks_daemon
@click.option("--all", "everything", is_flag=True, help="Show the whole of a long history.")
def history(connect: Connect, as_json: bool, everything: bool) -> None:
    """All actions, oldest first, with the ids for `loractl undo`."""
    with connect() as daemon:
        entries = list(daemon.history())
    if as_json:
        forms.print_json({"actions": [forms.form(entry) for entry in entries]})
    elif not entries:
        click.echo("nothing was done yet", err=True)
    elif sys.stdout.isatty():
        from loractl.view.plan_screen import show_history  # noqa: PLC0415 - for a terminal alone

        show_history(entries, everything=everything)
    else:
        tables.print_plain(plans.HISTORY_COLUMNS, plans.history_rows(entries))


@click.command()
@asks_daemon
def savings(connect: Connect, as_json: bool) -> None:
    """What the actions in force have saved, what is still put aside, and what could be saved now."""
    with connect() as daemon:
        answer = daemon.savings()
    if as_json:
        forms.print_json(forms.form(answer))
    else:
        columns = [tables.Column("what"), tables.Column("bytes", right=True), tables.Column("", folds=True)]
        tables.show_table(columns, plans.savings_rows(answer))
