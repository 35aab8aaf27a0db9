"""One pass over the roots: the engine at work for `loractl scan`, and what it tells the client."""

from __future__ import annotations

import json
import os
import select
import sqlite3
import sys
import time
from typing import TYPE_CHECKING, BinaryIO

from loracore.causes import explained
from loracore.config import Dedupe
from loracore.control import Event, FileFailedEvent
from loracore.errors import StateError
from loracore.framing import write
from loracore.messages import FileFailed, Note, Summary
from loracore.paths import CATALOGUE, shown
from loracore.whole import regular
from lorad.catalog import Catalog
from lorad.index.engine import Engine
from lorad.library.keepers import rules_of
from lorad.pipeline.launch import Crew
from lorad.pipeline.pipeline import Pipeline
from lorad.pipeline.protocol import Using

if TYPE_CHECKING:
    from lorad.scan.__main__ import Options

#: Seconds between two reports of progress.
_REPORT = 0.1


def one_pass(options: Options, crew: Crew, reports: BinaryIO, started: float) -> None:
    """Look through the roots once, until all is told apart and published, or the client is gone."""

    def told(name: str, reason: str) -> None:
        write(reports, Note(f"the {name} process was {reason} and is started again"))

    def uses(using: Using) -> None:
        if using.worse:
            write(reports, Note(using.note))

    pipeline = Pipeline(crew, told=told, uses=uses)
    try:
        _pass(options, pipeline, reports, started)
    except sqlite3.Error as error:
        where = os.path.join(options.state_dir, CATALOGUE)
        raise StateError(f"{where}: {explained(error, where)}, or give another --state-dir") from error
    finally:
        pipeline.stop()


def _pass(options: Options, pipeline: Pipeline, reports: BinaryIO, started: float) -> None:

    def tell(event: Event) -> None:
        if isinstance(event, FileFailedEvent):
            write(reports, FileFailed(event.path, event.reason))

    catalog = Catalog(options.state_dir, lists=False)
    engine = Engine(
        catalog,
        pipeline,
        options.roots,
        follow=options.follow,
        state_dir=os.fsencode(options.state_dir),
        tell=tell,
        remind=True,
        mistake=lambda path, traceback: print(f"{shown(path)}: {traceback}", file=sys.stderr),
    )
    engine.commits.keep_by(rules_of(Dedupe(), os.fsencode))
    for root in options.roots:
        engine.sweeps.add(root)
    next_report = 0.0
    while not engine.finished:
        engine.step(_REPORT)
        if engine.commits.trouble:
            raise StateError(engine.commits.trouble)
        if time.monotonic() >= next_report:
            write(reports, engine.progress())
            next_report = time.monotonic() + _REPORT
            if _client_gone():
                break
    else:
        engine.tidy()
        write(reports, engine.progress())
        write(reports, _summary(engine, catalog, options.state_dir, time.monotonic() - started))
    catalog.close()


def _summary(engine: Engine, catalog: Catalog, state_dir: str, seconds: float) -> Summary:
    try:
        with open(os.path.join(state_dir, "duplicates.json"), encoding="utf-8", opener=regular) as file:
            duplicates = json.load(file)
    except ValueError as error:
        raise StateError(f"{state_dir}/duplicates.json: not as it was written; remove it, scan again") from error
    progress = engine.progress()
    return Summary(
        files=len(engine.files.by_path),
        failed=progress.failed,
        groups=engine.groups,
        duplicate_sets=len(duplicates["duplicates"]),
        wasted_bytes=duplicates["wasted_bytes"],
        bytes_total=progress.bytes_total,
        bytes_read=progress.bytes_read,
        seconds=round(seconds, 6),
        generation=catalog.generation,
    )


def _client_gone() -> bool:
    """Whether standard input was closed. Nothing is ever sent on it."""
    readable, _, _ = select.select([0], [], [], 0)
    return bool(readable) and not os.read(0, 1)
