"""`loractl scan`: a private daemon runs once, and what it reports is followed to its end and printed.

The private daemon is a process of ours, which ends with us, however we end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from loracore.errors import LoraError, need
from loracore.framing import end_of, read
from loracore.messages import MAX_REPORT, REPORTS, FileFailed, Note, Progress, Refused, Report, Summary
from loracore.whole import regular


class Outcome(NamedTuple):
    """How a scan ended: with a summary, refused, or (neither) early. And the files that failed."""

    summary: Summary | None
    refused: Refused | None
    failures: list[FileFailed]


def _follow(reports: Iterable[Report], *, quiet: bool) -> Outcome:
    """Read all reports, showing progress."""
    failures: list[FileFailed] = []
    summary, refused, display = None, None, None
    if not quiet:
        from loractl.view.progress import ScanProgress  # noqa: PLC0415 - rich, for a terminal alone

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


def _print_json(summary: Summary, state_dir: str) -> None:
    duplicates = _found(state_dir)["duplicates"]
    print(json.dumps({**msgspec.structs.asdict(summary), "duplicates": duplicates}))


def _print_result(
    summary: Summary, failures: Sequence[FileFailed], *, folders: Sequence[str], state_dir: str
) -> None:
    from loractl.view.scan import show_scan  # noqa: PLC0415 - rich is not loaded for --json

    show_scan(summary, _found(state_dir), failures, folders=folders, state_dir=state_dir)


def _found(state_dir: str) -> dict[str, Any]:
    with open(os.path.join(state_dir, "duplicates.json"), encoding="utf-8", opener=regular) as file:
        found: dict[str, Any] = json.load(file)
    return found


#: Seconds that the process has to end by itself once its pipes are closed.
_PATIENCE = 10


class EmbeddedScan:
    """`python -m lorad.scan`, started at once. Use as a context; iterate for its reports."""

    def __init__(
        self, folders: Sequence[str], *, state_dir: str, loaders: int | None, hasher: str, follow: bool
    ) -> None:
        """Raises MissingPackage where the daemon's packages are not installed."""
        need("daemon", "scan")
        order = (state_dir, str(loaders or 0), hasher, str(int(follow)), *folders)
        # -P: a module in the folder we happen to be in must not be taken for one of ours.
        # In a session of its own, Ctrl-C reaches the client alone; the process ends as its pipe is closed.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "lorad.scan", *order],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def __enter__(self) -> EmbeddedScan:
        return self

    def __iter__(self) -> Iterator[Report]:
        try:
            yield from read(end_of(self._process.stdout), REPORTS, MAX_REPORT)
        except msgspec.DecodeError as error:
            raise LoraError(f"the daemon sent what is not a report: {error}") from error

    def __exit__(self, *exc: object) -> None:
        end_of(self._process.stdin).close()
        end_of(self._process.stdout).close()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def status(self) -> int | None:
        """The exit status, once it has ended."""
        return self._process.poll()


_NO_DAEMON = 3
_INTERRUPTED = 130


def run(
    folders: Sequence[str], *, state_dir: str, loaders: int | None, hasher: str, follow: bool, as_json: bool
) -> int:
    """Scan and print; the exit code."""
    try:
        with EmbeddedScan(folders, state_dir=state_dir, loaders=loaders, hasher=hasher, follow=follow) as embedded:
            outcome = _follow(embedded, quiet=as_json or not sys.stderr.isatty())
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
        _print_json(outcome.summary, state_dir)
    else:
        _print_result(outcome.summary, outcome.failures, folders=folders, state_dir=state_dir)
    return 1 if outcome.summary.failed else 0
