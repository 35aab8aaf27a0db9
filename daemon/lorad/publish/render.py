"""The five JSON files (SPEC section 3) of a model's generation."""

from __future__ import annotations

from collections.abc import Iterator

from loracore.identity import bounded
from loracore.time import now_text
from lorad.publish.lines import encode, links_line, processed_line, signature, text, word_line
from lorad.publish.model import Model
from lorad.publish.views import FORMAT, VIEWS


def render(model: Model) -> Iterator[tuple[str, list[bytes]]]:
    """(name, content in parts) of all five, in their order."""
    head = f'{{"format": {FORMAT}, "generation": {model.generation}, "updated": "{now_text()}", '.encode()
    bodies = (
        _processed(model),
        _object("groups", model.groups.parts(text, signature)),
        _object("refined_groups", model.refined_groups.parts(text, signature)),
        _duplicates(model),
        _statistics(model),
    )
    for name, body in zip(VIEWS, bodies, strict=True):
        yield name, [head, *body, b"}\n"]


def _object(name: str, parts: Iterator[bytes]) -> Iterator[bytes]:
    """`"name": {…}`, an entry a line."""
    yield f'"{name}": {{'.encode()
    yield from parts
    yield b"}"


def _processed(model: Model) -> Iterator[bytes]:
    total = model.files_total
    processed = total - model.counts["pending"] - model.counts["grouped"]
    progress = {
        "files_total": total,
        "files_processed": processed,
        "percent": round(100 * processed / total, 2) if total else 100.0,
        "bytes_total": bounded(model.bytes_total),
        "bytes_read": _bytes_read(model),
    }
    yield b'"progress": ' + encode(progress) + b",\n"
    yield from _object("files", model.processed.parts(lambda path: processed_line(path, model.names[path])))


def _duplicates(model: Model) -> Iterator[bytes]:
    yield b'"complete": ' + encode(model.complete)
    yield b', "wasted_bytes": %d,\n' % bounded(model.wasted_bytes)
    yield from _object("duplicates", model.duplicates.parts(text, text))
    yield b",\n"
    yield from _object("levels", model.levels.parts(lambda path: word_line(path, model.level[path])))
    yield b",\n"
    yield from _object("links", model.links.parts(lambda path: links_line(path, model.names[path])))
    yield b",\n"
    yield from _object("functions", model.functions.parts(lambda path: word_line(path, "differs")))


def _statistics(model: Model) -> Iterator[bytes]:
    stages = {
        name: {
            **stage,
            "seconds": round(stage["seconds"], 6),
            "mb_per_s": round(stage["bytes"] / stage["seconds"] / 1e6, 2) if stage["seconds"] else None,
        }
        for name, stage in model.stages.items()
    }
    statuses = ("pending", "grouped", "unique", "duplicate", "failed", "ignored")
    body = {
        "stages": stages,
        "groups": model.layouts,
        "duplicate_sets": model.duplicate_sets,
        "wasted_bytes": bounded(model.wasted_bytes),
        "totals": {
            "files": model.files_total,
            **{status: model.counts[status] for status in statuses},
            "bytes_total": bounded(model.bytes_total),
            "bytes_read": _bytes_read(model),
        },
    }
    yield encode(body)[1:-1]


def _bytes_read(model: Model) -> int:
    return int(sum(stage["bytes"] for stage in model.stages.values()))
