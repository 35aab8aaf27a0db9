"""What `compare` and `extract` have in common: two open models, the output folder, and the walk."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from time import perf_counter
from typing import Any, get_args

from loracore.errors import UsageError
from loracore.jobs.change import Stored, Writing
from loracore.jobs.compare import Extraction, Model, Quality
from loracore.jobs.job import Context
from loracore.jobs.results import Fault
from loracore.paths import shown
from lorakit.difference import extracted, folder, pairs
from lorakit.difference.journal import Journal, Key, Record
from lorakit.difference.pairs import Paired
from lorakit.difference.walk import Wish, walk
from lorakit.models.shards import Hashed, hashed
from lorakit.models.weights import Weights
from lorakit.output.rounding import NAMES

#: More is no LoRA, and no file holds it.
_MAX_RANK = 4096


@dataclass(frozen=True)
class Session:
    """Two models that can be compared, and what was found before anything is computed."""

    models: tuple[Weights, Weights]
    paired: Paired
    writing: Writing
    key: Key
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Walked:
    """All finished layers, and the journal with their factors. `seconds`: of this run and those before it."""

    records: Mapping[str, Record]
    journal: Journal
    resumed: int
    seconds: float

    def give_up(self) -> None:
        """Nothing will be written: leave no folder behind that was not there before."""
        self.journal.remove()
        with contextlib.suppress(OSError):
            os.rmdir(self.journal.folder)


@contextmanager
def opened(base: bytes, finetuned: bytes, writing: Writing, question: Mapping[str, Any]) -> Iterator[Session]:
    """Open and pair two models, and look at the output folder. Raises FileError and UsageError."""
    if os.path.realpath(base) == os.path.realpath(finetuned):
        raise UsageError(f"{shown(base)}: it is given twice; give the base and what was trained from it")
    with Weights(base) as first, Weights(finetuned) as second:
        models = (first, second)
        paired = pairs.pair(first, second)
        if _inodes(first) == _inodes(second):
            raise UsageError(f"{shown(finetuned)}: its files are those of {shown(base)}; give two models")
        key = folder.key_of(models, question)
        note = folder.check(writing.path, models, key, force=writing.force)
        warnings = (*paired.warnings, *([note] if note else []))
        yield Session(models, paired, writing, key, warnings)


@contextmanager
def walked(session: Session, wish: Wish, context: Context) -> Iterator[Walked]:
    """Finish all layers. Leaving the context without an error removes the journal: the reports are written."""
    began = perf_counter()
    folder.made(session.writing.path)
    journal = Journal(session.writing.path, session.key)
    try:
        before = sum(record.seconds for record in journal.records.values())
        records = walk(session.paired.pairs, session.models, wish, journal, context)
        for model in session.models:
            model.check_unchanged()
        yield Walked(records, journal, len(journal.records), before + perf_counter() - began)
        journal.remove()
    finally:
        journal.close()


def _inodes(model: Weights) -> set[tuple[int, int]]:
    return {(each.dev, each.ino) for _, each in model.identities}


def check_rank(rank: int) -> None:
    """Raises UsageError."""
    if not 1 <= rank <= _MAX_RANK:
        raise UsageError(f"rank {rank}: give 1 to {_MAX_RANK}")


def check_quality(quality: str) -> None:
    """Raises UsageError."""
    if quality not in get_args(Quality):
        raise UsageError(f"there is no quality {quality!r}; there are {', '.join(get_args(Quality))}")


def extraction(
    session: Session, found: Walked, rank: int, quality: Quality, context: Context
) -> tuple[Extraction, tuple[bytes, ...]]:
    """Write the factors. Raises FileError and UsageError."""
    written = extracted.write(
        session.writing.path, session.models, found.records, found.journal,
        rank=rank, dtype=stored(session), quality=quality, read=_hashed(session, context),
    )  # fmt: skip
    told = Extraction(
        rank, written.modules, written.convention, written.dtype, written.error, quality, written.faults
    )
    return told, written.files


def _hashed(session: Session, context: Context) -> tuple[Hashed, ...]:
    """The hashes of all files that were read. Raises ChangedFile where one is not what was compared."""
    total = sum(source.size for model in session.models for _, source in model.files)
    done = 0

    def told(count: int) -> None:
        nonlocal done
        done += count
        context.progress(done, total, "hashing both models")

    found = [each for model in session.models for each in hashed(model.path, model.files, context, told)]
    for model in session.models:
        model.check_unchanged()
    return tuple(found)


def stored(session: Session) -> Stored:
    """The dtype that is asked for, or that most of the base's floats have."""
    if session.writing.dtype is not None:
        return session.writing.dtype
    counts = Counter(tensor.dtype for tensor in session.models[0].tensors.values() if tensor.dtype in NAMES)
    return NAMES[counts.most_common(1)[0][0]] if counts else "float32"


def model(weights: Weights) -> Model:
    tensors = weights.tensors.values()
    return Model(
        path=weights.path,
        files=len(weights.identities),
        layers=len(tensors),
        parameters=sum(prod(tensor.shape) for tensor in tensors),
        size=weights.nbytes,
        dtypes=dict(Counter(tensor.dtype for tensor in tensors)),
    )


def faults(session: Session, records: Mapping[str, Record]) -> tuple[Fault, ...]:
    """Layers that could not be compared: by their headers, by what they hold, or missing in one."""
    lone = [Fault(name, "only in the base") for name in session.paired.only_base]
    lone += [Fault(name, "only in the fine-tuned model") for name in session.paired.only_finetuned]
    broken = [Fault(one.name, one.fault) for one in records.values() if one.fault]
    return (*session.paired.faults, *broken, *lone)
