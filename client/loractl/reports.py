"""What a scan reports, followed to its end and printed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from loracore.messages import FileFailed, Note, Progress, Refused, Report, Summary
from loracore.whole import regular


class Outcome(NamedTuple):
    """How a scan ended: with a summary, refused, or (neither) early. And the files that failed."""

    summary: Summary | None
    refused: Refused | None
    failures: list[FileFailed]


def follow(reports: Iterable[Report], *, quiet: bool) -> Outcome:
    """Read all reports, showing progress."""
    failures: list[FileFailed] = []
    summary, refused, display = None, None, None
    if not quiet:
        from loractl.show import ScanProgress  # noqa: PLC0415 - rich is not loaded where nobody looks

        display = ScanProgress()
    try:
        for report in reports:
            match report:
                case Progress() if display:
                    display.update(report)
                case FileFailed():
                    failures.append(report)
                case Note(text):
                    print(f"loractl: {text}", file=sys.stderr)
                case Summary():
                    summary = report
                case Refused():
                    refused = report
    finally:
        if display:
            display.close()
    return Outcome(summary, refused, failures)


def print_json(summary: Summary, state_dir: str) -> None:
    duplicates = _found(state_dir)["duplicates"]
    print(json.dumps({**msgspec.structs.asdict(summary), "duplicates": duplicates}))


def print_result(
    summary: Summary, failures: Sequence[FileFailed], *, folders: Sequence[str], state_dir: str
) -> None:
    from loractl.show import show_scan  # noqa: PLC0415 - rich is not loaded where nobody looks

    show_scan(summary, _found(state_dir), failures, folders=folders, state_dir=state_dir)


def _found(state_dir: str) -> dict[str, Any]:
    with open(os.path.join(state_dir, "duplicates.json"), encoding="utf-8", opener=regular) as file:
        found: dict[str, Any] = json.load(file)
    return found
