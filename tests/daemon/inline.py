"""The engine with its whole pipeline in this process: what is asked is read at once, by the real loader's code."""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from pathlib import Path

from loracore.control import DuplicateFound, Event
from lorad.catalog import Catalog
from lorad.index.engine import Engine
from lorad.index.records import File
from lorad.library import Status
from lorad.pipeline.dispatch import Finished, Job
from lorad.pipeline.loader import Loader
from lorad.pipeline.protocol import Done, Publish, Published
from tests.builders.weights import Layers, random_weights
from tests.builders.write import write_safetensors

#: Three layouts of a few kilobytes, each compared whole.
SPECS = [[("a.weight", "F16", (8, width)), ("b.weight", "F16", (width, 8))] for width in (4, 8, 16)]


def weights(number: int, layout: int = 0) -> Layers:
    return random_weights(SPECS[layout], number)


def write(path: str | Path, number: int, layout: int = 0, **metadata: str) -> Path:
    """A file of these weights, written beside and renamed."""
    part = write_safetensors(f"{path}.part", weights(number, layout), metadata=metadata)
    os.rename(part, path)
    return Path(path)


class _Arena:
    slab_size = 1 << 20

    def mark(self, *_: int) -> None: ...

    def marked(self, _: int) -> tuple[int, int]:
        return 0, 0

    def step(self, *_: int) -> None: ...


class _Line:
    def __init__(self) -> None:
        self.sent: list[object] = []

    def send(self, message: object) -> None:
        self.sent.append(message)

    def receive(self, *, wait: bool) -> None:
        assert not wait


class Inline:
    """Stands for `Pipeline`. Each job is done when it is started, and told of when it is asked for."""

    loaders = 1

    def __init__(self) -> None:
        self.dispatcher = self
        self._line = _Line()
        self._loader = Loader(self._line, _Arena(), 0)  # type: ignore[arg-type]
        self._done: list[Finished | Published] = []
        #: What was read of which files, in that order.
        self.started: list[tuple[type[Job], list[bytes]]] = []
        #: Nothing is read as long as this is set.
        self.holds = False

    @property
    def idle(self) -> bool:
        return not self._done

    def room(self, _: int) -> int | None:
        return None if self._done or self.holds else 0

    def works(self, _: int) -> bool:
        return False

    def start(self, _: int, job: Job) -> None:
        self.started.append((type(job), [target.path for target in job.targets]))
        self._loader._do(job.message(1))  # type: ignore[arg-type]
        done = self._line.sent.pop()
        assert isinstance(done, Done)
        self._done.append(Finished(job, done.outcomes, done.digests))

    def poll(self, _: float) -> list[Finished | Published]:
        done, self._done = self._done, []
        return done

    def publish(self, asked: Publish) -> None:
        self._done.append(Published(asked.generation, 0.0))

    def forget_layouts(self) -> None:
        self._loader._known.clear()

    def wake(self) -> None: ...

    def cancel(self, *_: object) -> None: ...


class Life:
    """An engine over roots, from when lorad starts to when it is stopped or killed."""

    def __init__(self, state: Path, roots: Sequence[Path], *, acts: bool = True, view: bool = False) -> None:
        state.mkdir(exist_ok=True)
        self.state = state
        self.roots = [os.fsencode(root) for root in roots]
        self.catalog = Catalog(str(state))
        self.pipeline = Inline()
        self.told: list[Event] = []
        #: Names that were told of as duplicates, the first of a set included.
        self.found: list[str] = []
        #: Names that do not settle as long as they are here.
        self.young: set[bytes] = set()
        self.engine = Engine(
            self.catalog,
            self.pipeline,  # type: ignore[arg-type]
            self.roots,
            follow=False,
            state_dir=os.fsencode(state),
            tell=self.told.append,
            duplicate=self._duplicate,
            defer=lambda path, status: path in self.young,
            mistake=self._mistake,
        )
        self.engine.arrivals.act(acts)
        for root in self.roots:
            self.engine.sweeps.add(root, view=view)

    def _duplicate(self, file: File, others: Sequence[bytes]) -> None:
        self.found.append(os.fsdecode(file.names[0]))

    def _mistake(self, path: bytes, traceback: str) -> None:
        raise AssertionError(f"{path!r}: {traceback}")

    def settle(self) -> Life:
        """Let it look and read until there is nothing more to do."""
        while self.engine.sweeps.active or (self.engine.reading and not self.pipeline.holds):
            self.engine.step(0)
        self.engine.step(0)
        self.engine.commits.save()
        self._check_listing()
        return self

    def _check_listing(self) -> None:
        """What `list` goes through says of names in view what their tables say."""
        db = self.catalog._db
        names = (
            "SELECT path, file FROM names JOIN files ON files.id = file WHERE active = 1 AND status != 'ignored'"
        )
        assert set(db.execute("SELECT path, file FROM listing")) == set(db.execute(names))
        states = "SELECT path, state, status FROM listing JOIN files ON files.id = file WHERE state != status"
        linked = "SELECT count(*) FROM names AS name WHERE active = 1 AND file = listing.file"
        others = db.execute(f"{states} AND NOT (state = 'duplicate' AND status = 'unique' AND ({linked}) > 1)")
        assert others.fetchall() == []

    def aged(self) -> Life:
        """As if all files had been there for a while when they were read."""
        for file in self.engine.files:
            file.read_ns += 10**9
            self.engine.files.store.changed(file)
        return self.settle()

    def sweep(self) -> Life:
        for root in self.roots:
            self.engine.sweeps.add(root)
        return self.settle()

    def touch(self, *paths: str | Path) -> Life:
        """These names have news, and have settled."""
        for path in paths:
            self.engine.arrivals.noticed(os.fsencode(path))
        for path in paths:
            self.engine.looks.touched(os.fsencode(path))
        return self.settle()

    def stop(self) -> None:
        self.engine.commits.save()
        self.catalog.close()
        # An engine keeps what it loads from being looked at as garbage; of this one nothing is wanted any more.
        gc.unfreeze()

    def kill(self) -> None:
        """What is not committed is lost."""
        self.catalog.abandon()
        gc.unfreeze()

    def is_newcomer(self, path: str | Path) -> bool:
        return self.engine.holders.is_newcomer(os.fsencode(path))

    @property
    def newcomers(self) -> set[str]:
        return {os.fsdecode(path) for path in self.engine.files.by_path if self.engine.holders.is_newcomer(path)}

    def file(self, path: str | Path) -> File:
        return self.engine.files.by_path[os.fsencode(path)]

    def status(self, path: str | Path) -> Status:
        return self.file(path).status

    def signature(self, path: str | Path) -> tuple[bytes, bytes]:
        """Layout and weights of a file, as `keepers` takes them."""
        file = self.file(path)
        assert file.layout is not None
        assert file.weights is not None
        return self.catalog.layouts.signature(file.layout), file.weights

    def events(self) -> list[str]:
        """Names told of as duplicates of others since the last time."""
        told = [os.fsdecode(event.path) for event in self.told if isinstance(event, DuplicateFound)]
        self.told.clear()
        return told
