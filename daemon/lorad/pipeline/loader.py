"""The loader process: opens files, checks that they are what the core knows, reads headers and pieces.

It is expendable: a file that crashes it costs a restart. It never imports torch.
"""

from __future__ import annotations

import errno
import os
import stat
import time
import traceback
import zlib
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial

import msgspec

from loracore.adapter.function import header_function
from loracore.causes import explained
from loracore.errors import ChangedFile, FileError, UnknownFormat
from loracore.tensorfile import Container, Layer, Source, name_for_reader, read_container, residue
from loracore.tensorfile.strided import gather
from loracore.tensorfile.ziprecords import record_start
from lorad.pipeline.arena import Arena
from lorad.pipeline.endpoint import CoreGoneError, Line, take_place
from lorad.pipeline.facts import FactsReader
from lorad.pipeline.protocol import (
    LANES,
    OUR_MISTAKE,
    OWN_LANE,
    Cancel,
    Credit,
    Done,
    Forget,
    Header,
    Identity,
    Outcome,
    ReadHeaders,
    ReadPieces,
    ReadResidue,
    Run,
    Target,
    Trouble,
)
from lorad.pipeline.writer import PieceWriter

#: Signatures that a loader remembers to have sent the body of.
_KNOWN = 50_000
#: Containers of pickles that a loader keeps, a megabyte each at most for real files.
_PICKLED = 32
#: Characters of a reason, and of the end of a traceback.
_TEXT = 4000
Task = ReadHeaders | ReadPieces | ReadResidue
_RUNS = msgspec.msgpack.Decoder(list[Run])


class _Cancelled(Exception):
    """The core wants nothing more of the present task."""


class Loader:
    """Carries out the core's tasks. Between two slabs or files, one gives way to those of lower lanes."""

    def __init__(self, line: Line, arena: Arena, index: int, *, facts: bool = True) -> None:
        self._line = line
        self._arena = arena
        self._index = index
        self._credits: list[int] = []
        self._waiting: list[deque[Task]] = [deque() for _ in range(LANES)]
        self._writers: dict[int, PieceWriter] = {}
        #: Those under way: each gave way to the next one.
        self._tasks: list[int] = []
        self._cancelled: set[int] = set()
        self._known: set[bytes] = set()
        self._facts = FactsReader() if facts else None
        #: Containers without a residue yet, by their file's identity: it may be asked for soon.
        self._pickled: OrderedDict[Identity, Container] = OrderedDict()

    def run(self) -> None:
        for message in self._line.messages():
            self._take(message)
            self._work(len(self._waiting))

    def _take(self, message: object) -> None:
        match message:
            case Credit():
                self._credits.extend(message.slabs)
            case Forget():
                self._known.clear()
            case Cancel():
                if message.task in self._tasks or any(
                    task.task == message.task for lane in self._waiting for task in lane
                ):
                    self._cancelled.add(message.task)
            case ReadHeaders() | ReadPieces() | ReadResidue():
                self._waiting[message.lane].append(message)

    def _work(self, lanes: int) -> None:
        """Do all that waits in the first lanes."""
        while (tasks := next(filter(None, self._waiting[:lanes]), None)) is not None:
            self._do(tasks.popleft())

    def _between(self, lane: int) -> None:
        """A task of this lane has got a step further. Raises _Cancelled."""
        self._arena.step(self._index)
        if not lane:
            return
        while (message := self._line.receive(wait=False)) is not None:
            self._take(message)
        task, marked = self._tasks[-1], self._arena.marked(self._index)
        self._work(lane)
        self._arena.mark(self._index, *marked)
        if task in self._cancelled:
            self._cancelled.remove(task)
            raise _Cancelled

    def _take_slab(self, lane: int, wait: bool) -> int | None:
        if lane >= OWN_LANE:
            return None
        while not self._credits:
            message = self._line.receive(wait=wait)
            if message is None:
                return None
            self._take(message)
        return self._credits.pop()

    def _writer(self, lane: int) -> PieceWriter:
        if lane not in self._writers:
            self._writers[lane] = PieceWriter(
                self._arena, self._line.send, partial(self._take_slab, lane), partial(self._between, lane)
            )
        return self._writers[lane]

    def _do(self, task: Task) -> None:
        targets = [task.target] if isinstance(task, ReadResidue) else task.targets
        writer = self._writer(task.lane)
        writer.task = task.task
        self._tasks.append(task.task)
        outcomes = []
        for position, target in enumerate(targets):
            self._arena.mark(self._index, task.task, position)
            outcomes.append(self._read(task, position, target, writer))
        self._arena.mark(self._index, 0, 0)
        self._tasks.pop()
        self._cancelled.discard(task.task)
        self._line.send(Done(task.task, outcomes, writer.end()))

    def _read(self, task: Task, position: int, target: Target, writer: PieceWriter) -> Outcome:
        started, read_ns = time.perf_counter(), time.time_ns()
        runs = _RUNS.decode(task.runs[position]) if isinstance(task, ReadPieces) else []
        expected = writer.ended + sum(len(run.lengths) for run in runs)
        trouble, header, digest, source = None, None, None, None
        try:
            self._between(task.lane)
            with opened(target) as source:
                match task:
                    case ReadHeaders():
                        header = self._header(source, target)
                    case ReadPieces():
                        self._pieces(source, target, runs, task.sequential, writer)
                    case ReadResidue():
                        source.stepped = partial(self._between, task.lane)
                        known = self._pickled.get(target.identity)
                        digest = residue(
                            source, known or read_container(source, name_for_reader(source, target.path))
                        )
        except _Cancelled:
            trouble = _trouble("cancelled", "")
        except UnknownFormat as error:
            trouble = _trouble("ignored", error.reason)
        except ChangedFile as error:
            trouble = _trouble("changed", error.reason)
        except FileError as error:
            trouble = _trouble("failed", error.reason)
        except OSError as error:
            trouble = _trouble("changed" if error.errno in _NOT_THERE else "unreadable", explained(error))
        except MemoryError:
            trouble = _trouble("unreadable", "reading it needs more memory than there is")
        except CoreGoneError:
            raise
        except Exception:
            # A mistake that one file brings up is that file's.
            trouble = _trouble("failed", OUR_MISTAKE, traceback.format_exc())
        while writer.ended < expected:
            # Every piece gets a digest, so that those of the task's other files keep their places.
            with suppress(_Cancelled):
                writer.wrote(0, ends=True)
        cost = source.bytes_read if source else 0
        return Outcome(time.perf_counter() - started, cost, read_ns, trouble, header, digest)

    def _header(self, source: Source, target: Target) -> Header:
        os.posix_fadvise(source.fd, 0, 0, os.POSIX_FADV_RANDOM)
        container = read_container(source, name_for_reader(source, target.path))
        if container.residue is None:
            self._pickled[target.identity] = container
            if len(self._pickled) > _PICKLED:
                self._pickled.popitem(last=False)
        layout, arrangement = container.layout.signature, container.arrangement_signature
        header = Header(
            layout_signature=layout,
            layout=None if layout in self._known else zlib.compress(container.layout.encoded, 1),
            arrangement_signature=arrangement,
            arrangement=None if arrangement in self._known else zlib.compress(container.arrangement.encode(), 1),
            base=container.base,
            format=container.format,
            residue=container.residue,
            function=header_function(container.metadata, [layer.name for layer in container.layout.layers]),
            metadata=sum(len(key) + len(value) for key, value in container.metadata.items()),
            facts=self._facts(container, target.path) if self._facts else None,
        )
        if len(self._known) > _KNOWN:
            # The core gets some again, which it does not mind.
            self._known.clear()
        self._known.update((layout, arrangement))
        return header

    def _pieces(
        self, source: Source, target: Target, runs: Sequence[Run], sequential: bool, writer: PieceWriter
    ) -> None:
        """Write the pieces to slabs, each run in large reads."""
        os.posix_fadvise(source.fd, 0, 0, os.POSIX_FADV_SEQUENTIAL if sequential else os.POSIX_FADV_RANDOM)
        for run in runs:
            start = target.base if run.record is None else _record_start(source, run.record)
            start += run.offset
            if run.strides is not None:
                self._gathered(source, start, run, writer)
            elif start + sum(run.lengths) > source.size:
                raise ChangedFile("it became shorter since its header was read")
            else:
                self._copy(source, start, run.lengths, writer)

    def _copy(self, source: Source, offset: int, lengths: Sequence[int], writer: PieceWriter) -> None:
        """Read pieces that lie back to back from `offset`, as many at once as the memory holds whole."""
        position, rest = 0, lengths[0]
        while position < len(lengths):
            view = writer.space(rest)
            whole, count, after = position, 0, rest
            while whole < len(lengths) and count + after <= len(view):
                count += after
                whole += 1
                after = lengths[whole] if whole < len(lengths) else 0
            count = count if whole > position else len(view)
            source.read_into(view[:count], offset)
            offset += count
            if whole == position:
                writer.wrote(count, ends=False)
                rest -= count
            while position < whole:
                writer.wrote(rest, ends=True)
                position += 1
                rest = lengths[position] if position < len(lengths) else 0

    def _gathered(self, source: Source, start: int, run: Run, writer: PieceWriter) -> None:
        """Write a piece of a layer that does not lie in C order and whose first element is at `start`."""
        assert run.strides is not None
        layer = Layer("", run.dtype, run.shape)
        skip, left = run.start, run.lengths[0]
        for chunk in gather(source, start, layer, run.strides, self._arena.slab_size):
            part = memoryview(chunk)[skip : skip + left]
            skip -= min(skip, len(chunk))
            while len(part):
                view = writer.space()
                count = min(len(view), len(part))
                view[:count] = part[:count]
                part, left = part[count:], left - count
                writer.wrote(count, ends=not left)
            if not left:
                return


def _record_start(source: Source, record: int) -> int:
    return record_start(source, record)


#: What opening says when another file, or none, took the name.
_NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE, errno.ENXIO}


@contextmanager
def opened(target: Target) -> Iterator[Source]:
    """The target, open for reading, checked to be the expected one before and after the body reads it.

    What the body makes of a file that changed meanwhile does not count: that is a ChangedFile, too.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if target.follow else os.O_NOFOLLOW)
    fd = os.open(target.path, flags)
    try:
        _check(fd, target)
        try:
            yield Source(fd, target.identity.size)
        finally:
            _check(fd, target)
    finally:
        os.close(fd)


def _check(fd: int, target: Target) -> None:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise ChangedFile("it is no longer a regular file")
    if Identity.of(status) != target.identity:
        raise ChangedFile("it changed while it was looked at")


def _trouble(kind: str, reason: str, why: str = "") -> Trouble:
    """What a hostile file has put into the texts is bounded, and fit to be sent."""
    return Trouble(kind, *(text[-_TEXT:].encode("utf-8", "backslashreplace").decode() for text in (reason, why)))


def main() -> None:
    place = take_place()
    loader = Loader(place.line, place.arena, place.number, facts=place.arguments == ["1"])
    place.line.ready()
    with suppress(CoreGoneError):
        loader.run()
    place.line.leave()


if __name__ == "__main__":
    main()
