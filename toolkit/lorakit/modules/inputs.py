"""What a job that changes LoRAs says of those it read, and how it goes through their modules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from loracore.adapter import Adapter, Module
from loracore.errors import FileError, LoraError, MalformedFile, UsageError
from loracore.jobs.change import Changed, Input, Writing
from loracore.jobs.job import Context
from lorakit.modules.matrices import Opened, weight
from lorakit.modules.survey import BEYOND, BEYOND_TEXT, survey
from lorakit.output.rounding import NAMES, Unstorable

R = TypeVar("R")
T = TypeVar("T")


class _Stopped(Exception):
    """Carries an error through a survey, which would leave its module out."""

    def __init__(self, error: FileError) -> None:
        super().__init__(str(error))
        self.error = error


def each(
    file: Opened, modules: Sequence[Module], work: Callable[[Module], R], context: Context
) -> dict[Module, R]:
    """Do `work` on each module, on the context's threads. The first error ends it.

    Raises what `work` raises; an error of a module names the file.
    """

    def named(module: Module) -> R:
        with naming(file.adapter.path):
            return work(module)

    labels = {file.label(module): module for module in modules}
    path = file.adapter.path
    found = through(modules, name=file.label, files=lambda _: path, weight=weight, work=named, context=context)
    return {labels[name]: result for name, result in found.items()}


def through(
    items: Sequence[T],
    *,
    name: Callable[[T], str],
    files: Callable[[T], str],
    weight: Callable[[T], float],
    work: Callable[[T], R],
    context: Context,
) -> dict[str, R]:
    """What `work` makes of each item, by name, on the context's threads. The first error ends it.

    `files` tells for an error which files an item is of.
    """

    def one(item: T, _: object) -> R:
        try:
            return work(item)
        except FileError as error:
            # Without a cause: the error is raised again below, and would be its own.
            raise _Stopped(error) from None
        except BEYOND:
            raise _Stopped(MalformedFile(f"module {name(item)[:200]!r} {BEYOND_TEXT}", files(item))) from None
        except Unstorable as error:
            raise UsageError(f"{files(item)}: {error}") from error

    try:
        return survey(items, name=name, weight=weight, work=one, context=context).results
    except _Stopped as stopped:
        first = stopped.error
    raise first


@contextmanager
def naming(path: str) -> Iterator[None]:
    """An error in a file's weights names the file."""
    try:
        yield
    except MalformedFile as error:
        error.path = error.path or path
        raise


def described(path: bytes, adapter: Adapter, *, hashed: bool) -> Input:
    """What was read; with its SHA-256, which takes a read of it. Raises FileError."""
    return Input(
        path=path,
        family=adapter.family,
        convention=adapter.convention,
        modules=len(adapter.modules),
        ranks=counted(module.rank for module in adapter.modules),
        dtypes=tuple(sorted({NAMES.get(layer.dtype, layer.dtype) for layer in adapter.layers.values()})),
        sha256=adapter.sha256() if hashed else "",
    )


def check_unchanged(adapters: Iterable[Adapter]) -> None:
    """To be called when all is read, before the result gets its name. Raises ChangedFile."""
    for adapter in adapters:
        adapter.check_unchanged()


def counted(ranks: Iterable[int | None]) -> dict[str, int]:
    """How many modules have each rank, as results tell it."""
    found = Counter(ranks)
    numbers = sorted(rank for rank in found if rank is not None)
    without = {"none": found[None]} if None in found else {}
    return {str(rank): found[rank] for rank in numbers} | without


def checked(operation: str, writing: Writing, work: Callable[[], Changed]) -> Changed:
    """What `work` gives; for a check, an error is a part of the answer. Raises LoraError otherwise."""
    if not writing.check:
        return work()
    try:
        return work()
    except LoraError as error:
        return Changed(operation, False, False, (), (), errors=(str(error),))
