"""`loractl scan`: runs a private daemon once and shows what it found."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import msgspec

from loracore.messages import FileFailed, Note, Progress, Refused, Summary
from loractl.embedded import EmbeddedScan

_NO_DAEMON = 3
_INTERRUPTED = 130


def run(
    folders: Sequence[str], *, state_dir: str, loaders: int | None, hasher: str, follow: bool, as_json: bool
) -> int:
    """Scan and print; the exit code."""
    arguments = ["--state-dir", state_dir, "--hasher", hasher]
    arguments += ["--loaders", str(loaders)] if loaders else []
    arguments += ["--follow-symlinks"] if follow else []
    try:
        with EmbeddedScan([*arguments, "--", *folders]) as embedded:
            summary, failures = _follow(embedded, quiet=as_json or not sys.stderr.isatty())
    except KeyboardInterrupt:
        print(f"loractl: stopped; what was learnt is kept in {state_dir}, scan again to go on", file=sys.stderr)
        return _INTERRUPTED
    if isinstance(summary, Refused):
        print(f"loractl: {summary.reason}", file=sys.stderr)
        return summary.exit_code
    if summary is None:
        print(f"loractl: the scanning process ended early, with status {embedded.status}", file=sys.stderr)
        return _NO_DAEMON
    with open(os.path.join(state_dir, "duplicates.json"), encoding="utf-8") as file:
        found: dict[str, Any] = json.load(file)
    if as_json:
        print(json.dumps({**msgspec.structs.asdict(summary), "duplicates": found["duplicates"]}))
    else:
        from loractl.show import show_scan  # noqa: PLC0415 - rich is not loaded where nobody looks

        show_scan(summary, found, failures, folders=folders, state_dir=state_dir)
    return 1 if summary.failed else 0


def _follow(embedded: EmbeddedScan, *, quiet: bool) -> tuple[Summary | Refused | None, list[FileFailed]]:
    """Read all reports, showing progress; (how it ended, the files that failed)."""
    failures: list[FileFailed] = []
    ended: Summary | Refused | None = None
    display = None
    if not quiet:
        from loractl.show import ScanProgress  # noqa: PLC0415 - rich is not loaded where nobody looks

        display = ScanProgress()
    try:
        for report in embedded:
            match report:
                case Progress() if display:
                    display.update(report)
                case FileFailed():
                    failures.append(report)
                case Note(text):
                    print(f"loractl: {text}", file=sys.stderr)
                case Summary() | Refused():
                    ended = report
    finally:
        if display:
            display.close()
    return ended, failures
