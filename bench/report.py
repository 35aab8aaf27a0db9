"""Tables of results: on the terminal, as Markdown to quote, as JSON to compare."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from rich.console import Console
from rich.table import Table

from bench.contest import Row
from bench.truth import Truth

_COLUMNS = (
    "tool", "warm s", "cold s", "peak MiB", "read MB", "× bound",
    "found", "missed", "wrong", "speed-up",
)  # fmt: skip

_LEGEND = (
    "Warm: median of the runs, after one that is not counted. Cold: page cache dropped before, the programs "
    "themselves warm. Peak: summed PSS of all processes. Read: what system calls read of the corpus's files, by "
    "strace; for load + SHA-256, which maps safetensors, also the bytes that it loads of those. × bound: that "
    "over the least that must be read to find all. Speed-up: against load + SHA-256, warm."
)


@dataclass
class Report:
    """The results of one sitting: `machine` and `versions` as text, rows under the corpus they belong to."""

    date: str
    machine: Mapping[str, str]
    versions: Mapping[str, str]
    notes: Sequence[str] = ()
    corpora: dict[str, tuple[Truth, list[Row]]] = field(default_factory=dict)

    def add(self, truth: Truth, rows: list[Row]) -> None:
        self.corpora[truth.name] = (truth, rows)


def print_table(console: Console, truth: Truth, rows: Sequence[Row]) -> None:
    table = Table(title=_title(truth), title_justify="left")
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column == "tool" else "right")
    for cells in _cells(rows):
        table.add_row(*cells)
    console.print(table)


def to_markdown(report: Report) -> str:
    lines = [f"# Benchmark of {report.date}", ""]
    lines += [f"- {name}: {value}" for name, value in {**report.machine, **report.versions}.items()]
    lines += ["", _LEGEND, *report.notes]
    for truth, rows in report.corpora.values():
        lines += ["", f"## {_title(truth)}", "", _markdown_row(_COLUMNS)]
        lines.append(_markdown_row(["---", *["---:"] * (len(_COLUMNS) - 1)]))
        lines += [_markdown_row(cells) for cells in _cells(rows)]
    return "\n".join(lines) + "\n"


def to_json(report: Report) -> str:
    corpora = {
        name: {
            "files": len(truth.members),
            "bytes_total": truth.bytes_total,
            "lower_bound": truth.lower_bound,
            "duplicates": truth.duplicates,
            "rows": [asdict(row) for row in rows],
        }
        for name, (truth, rows) in report.corpora.items()
    }
    head = {"date": report.date, "machine": dict(report.machine), "versions": dict(report.versions)}
    return json.dumps({**head, "notes": list(report.notes), "corpora": corpora}, indent=2) + "\n"


def _title(truth: Truth) -> str:
    return (
        f"{truth.name}: {len(truth.members)} files, {truth.bytes_total / 1e6:,.0f} MB, "
        f"{truth.duplicates} duplicates, lower bound {truth.lower_bound / 1e6:,.1f} MB"
    )


def _cells(rows: Sequence[Row]) -> list[list[str]]:
    plain = next((row.warm for row in rows if row.tool == "load + SHA-256"), None)
    return [
        [
            row.tool,
            f"{row.warm:.2f}",
            "–" if row.cold is None else f"{row.cold:.2f}",
            f"{row.peak_bytes / 2**20:.1f}" if row.peak_bytes else "–",
            f"{row.bytes_read / 1e6:.1f}",
            f"{max(0.0, row.excess):.2f}",
            str(row.found),
            str(row.missed),
            str(row.wrong),
            "–" if plain is None else f"{plain / row.warm:.1f}×",
        ]
        for row in rows
    ]


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
