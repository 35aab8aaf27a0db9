"""`loractl scan`: runs a private daemon once and shows what it found."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from loractl.embedded import EmbeddedScan

_NO_DAEMON = 3
_INTERRUPTED = 130


def run(
    folders: Sequence[str], *, state_dir: str, loaders: int | None, hasher: str, follow: bool, as_json: bool
) -> int:
    """Scan and print; the exit code."""
    try:
        with EmbeddedScan(folders, state_dir=state_dir, loaders=loaders, hasher=hasher, follow=follow) as embedded:
            from loractl import reports  # noqa: PLC0415 - imported while the process starts

            outcome = reports.follow(embedded, quiet=as_json or not sys.stderr.isatty())
    except KeyboardInterrupt:
        print(f"loractl: stopped; what was learnt is kept in {state_dir}, scan again to go on", file=sys.stderr)
        return _INTERRUPTED
    if outcome.refused is not None:
        print(f"loractl: {outcome.refused.reason}", file=sys.stderr)
        return outcome.refused.exit_code
    if outcome.summary is None:
        print(f"loractl: the scanning process ended early, with status {embedded.status}", file=sys.stderr)
        return _NO_DAEMON
    if as_json:
        reports.print_json(outcome.summary, state_dir)
    else:
        reports.print_result(outcome.summary, outcome.failures, folders=folders, state_dir=state_dir)
    return 1 if outcome.summary.failed else 0
