"""What a job left out, and what else is to be known of its result: on standard error, in a few lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from loracore.jobs.faults import Fault

#: Lines of each kind; `--json` has all.
_MOST = 20


def tell_rest(faults: Sequence[Fault], warnings: Sequence[str], what: str = "modules") -> None:
    """`what`: the word for what was left out."""
    from loracore.paths import shown  # noqa: PLC0415 - not for --help

    for warning in warnings[:_MOST]:
        click.echo(f"warning: {shown(warning)}", err=True)
    for fault in faults[:_MOST]:
        click.echo(f"left out: {shown(fault.module)}: {shown(fault.reason)}", err=True)
    if len(faults) > _MOST:
        click.echo(f"… and {len(faults) - _MOST:,} more {what} were left out; --json names them", err=True)
