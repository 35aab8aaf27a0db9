"""Jobs in rows. No terminal, no rich."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from loracore.control import JobState
from loracore.paths import shown
from loractl.tables import Column, Row
from loractl.units import duration

COLUMNS = [
    Column("id", right=True),
    Column("job"),
    Column("state"),
    Column("done", right=True),
    Column("time", right=True),
    Column("about", folds=True),
]


def rows(jobs: Iterable[JobState]) -> Iterator[Row]:
    for job in jobs:
        share = f"{min(1.0, job.done / job.total):.0%}" if job.state == "running" and job.total > 0 else ""
        about = [job.summary, job.what if job.state == "running" else job.error]
        text = ": ".join(shown(part) for part in about if part)
        yield str(job.id), shown(job.name), job.state, share, duration(job.seconds), text
