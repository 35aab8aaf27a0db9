"""What a status says, in words and rows; `status_screen` and `tables` show them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from loracore.control import Hashing, Hidden, Status
from loracore.paths import shown
from loractl.view.tables import Column, Row, duration, size


class Section(NamedTuple):
    """A part of the status with a row for each thing."""

    title: str
    columns: list[Column]
    rows: list[Row]


def progress(status: Status) -> tuple[int, int, float]:
    """Files processed, all files, percent."""
    done, total = status.files_processed, status.files_total
    return done, total, 100 * done / total if total else 100.0


def headline(status: Status) -> str:
    return f"lorad {status.version} {status.state}, up {duration(status.uptime_seconds)}, pid {status.pid}"


def numbers(status: Status) -> Iterator[tuple[str, str]]:
    """Names and values, in the order of interest."""
    order = ("pending", "grouped", "unique", "duplicate", "failed", "ignored")
    names = [*order, *sorted(status.files.keys() - set(order))]
    counts = [f"{name} {status.files[name]:,}" for name in names if status.files.get(name)]
    yield "files", ", ".join(counts) or "none"
    if status.duplicate_files:
        yield "duplicates", f"{status.duplicate_files:,} files"
    yield "read", f"{size(status.bytes_read)} of {size(status.bytes_total)}"
    yield "rate", f"{status.files_per_second:,.1f} files/s, {size(status.bytes_per_second)}/s"
    waiting = [f"{name} {count:,}" for name, count in status.queues.items() if count]
    yield "waiting", ", ".join(waiting) or "nothing"
    yield "hasher", f"{status.hasher} ({status.hasher_note})" if status.hasher_note else status.hasher
    if status.hidden.files or status.hidden.unknown:
        yield "put aside", _hidden(status.hidden)
    for disk in status.hidden.full:
        yield "nearly full", disk
    if status.hashing.on_arrival:
        yield "hashes", _hashing(status.hashing)
    yield "watch", status.watch
    yield "core", f"{status.cpu_percent:.0f} % of a core, {size(status.rss_bytes)}"
    behind = status.generation - status.published
    late = f" (the JSON files are at {status.published:,})" if behind else ""
    yield "generation", f"{status.generation:,}{late}"
    yield "state", shown(status.state_dir)


def _hidden(hidden: Hidden) -> str:
    text = f"{hidden.files:,} files, {size(hidden.bytes)}"
    if hidden.next_due:
        text += f", the next is removed {hidden.next_due[:16].replace('T', ' ')}"
    if hidden.waiting:
        text += f"; {hidden.waiting:,} wait: {shown(hidden.reason)}"
    if hidden.unknown:
        text += f"; {hidden.unknown:,} more are in no journal here: see `loractl free --dry-run`"
    return text


def _hashing(hashing: Hashing) -> str:
    text = f"{hashing.hashed:,} of {hashing.hashed + hashing.waiting:,} files hashed"
    if hashing.failed:
        text += f", {hashing.failed:,} cannot be"
    if hashing.path:
        text += f", now {shown(os.path.basename(hashing.path))}"
    return f"{text} ({shown(hashing.trouble)})" if hashing.trouble else text


def sections(status: Status) -> Iterator[Section]:
    if status.roots:
        columns = [Column("folder", folds=True), Column("health"), Column("folders", right=True), Column("why")]
        rows = [(shown(root.path), root.health, f"{root.folders:,}", shown(root.reason)) for root in status.roots]
        yield Section("Watched", columns, list(rows))
    if status.children:
        columns = [
            Column("process"), Column("pid", right=True), Column("state"), Column("restarts", right=True),
            Column("cpu", right=True), Column("memory", right=True), Column("silent", right=True),
        ]  # fmt: skip
        children = [
            (
                child.name, str(child.pid), child.state, str(child.restarts), f"{child.cpu_percent:.0f} %",
                size(child.rss_bytes), f"{child.silent_seconds:.1f} s",
            )
            for child in status.children
        ]  # fmt: skip
        yield Section("Processes", columns, list(children))
    if status.errors:
        columns = [Column("time"), Column("error", folds=True), Column("file", folds=True)]
        errors = [(error.time, shown(error.text), shown(error.path)) for error in status.errors]
        yield Section("Last errors", columns, list(errors))


def one_line(status: Status) -> str:
    """A status in a line, for a log."""
    done, total, percent = progress(status)
    rate = f"{size(status.bytes_per_second)}/s"
    return f"{status.state}  {percent:.1f} %  {done:,}/{total:,} files  {rate}  watch {status.watch}"
