"""`python -m bench`: `loractl scan` and its peers on the corpora, one table each, in one run."""

from __future__ import annotations

import argparse
import datetime
import os
import sys

from rich.console import Console

from bench.contest import Plan, Row, ToolFailedError, compete, compete_again
from bench.corpus import make
from bench.machine import describe
from bench.measure import can_drop_caches
from bench.peers import Tool, loractl, peers
from bench.recipes import RECIPES, Scale
from bench.report import Report, print_table, to_json, to_markdown
from bench.truth import Truth

_CHOICES = sorted(RECIPES)
_QUICK = Scale(width=4, count=4, files=1000)


def main() -> int:
    options = _options()
    console = Console(width=None if sys.stdout.isatty() else 140)
    tools = [tool for tool in [loractl(), *peers()] if not options.tool or tool.name in options.tool]
    missing = [f"Not installed, so not measured: {tool.name}." for tool in tools if not tool.installed]
    tools = [tool for tool in tools if tool.installed]
    report = Report(
        date=datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        machine=describe(options.folder),
        versions={tool.name: tool.version_line() for tool in tools},
        notes=[*missing, *([] if can_drop_caches() else ["Cold not measured: dropping caches needs root."])],
    )
    plan = Plan(runs=options.runs, cold_runs=options.cold_runs)
    for name in options.corpus or _CHOICES:
        with console.status(f"making {name}"):
            truth = make(name, options.folder, _QUICK if options.quick else None)
        rows = _contest(console, truth, tools, plan)
        print_table(console, truth, rows)
        report.add(truth, rows)
    for note in report.notes:
        console.print(note)
    if options.output:
        _write(options.output, report)
    return 0


def _contest(console: Console, truth: Truth, tools: list[Tool], plan: Plan) -> list[Row]:
    rows = []
    for tool in tools:
        with console.status(f"{truth.name}: {tool.name}"):
            try:
                rows.append(compete(tool, truth, plan))
                if tool.name == loractl().name:
                    rows.append(compete_again(truth, plan))
            except ToolFailedError as error:
                console.print(f"[red]{tool.name} left out:[/red] {error}")
    return rows


def _write(path: str, report: Report) -> None:
    """Markdown under the given name, JSON beside it."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    for name, text in ((path, to_markdown(report)), (f"{os.path.splitext(path)[0]}.json", to_json(report))):
        with open(name, "w", encoding="utf-8") as file:
            file.write(text)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--corpus", nargs="+", choices=_CHOICES, metavar="NAME", help=f"of {', '.join(_CHOICES)}")
    parser.add_argument("--tool", nargs="+", metavar="NAME", help="only these tools, by their name in the table")
    parser.add_argument("--folder", default="bench/.corpora", help="where the corpora lie (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="warm runs whose median counts (default: %(default)s)")
    parser.add_argument("--cold-runs", type=int, default=1, help="cold runs (default: %(default)s)")
    parser.add_argument(
        "--quick", action="store_true", help="smaller files and fewer of them, to try the bench out"
    )
    parser.add_argument("-o", "--output", metavar="FILE.md", help="write Markdown here and JSON beside it")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
