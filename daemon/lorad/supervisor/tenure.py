"""The engine and its catalogue in a running daemon: they come and go together.

They go when the roots change, and when the disk does not take what was learnt; another engine then goes on from
what the catalogue holds, as after a kill, while requests are answered and the watch listens all the time.
"""

from __future__ import annotations

import gc
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice

import msgspec

from loracore.config import Config
from loracore.control import Event
from loracore.paths import CATALOGUE
from loracore.tensorfile.readers import has_reader
from loracore.trouble import explained
from lorad.birth import born_ns
from lorad.catalog import Catalog
from lorad.dedupe.remembered import Remembered
from lorad.engine import Engine
from lorad.files import File, is_under, tick_of
from lorad.knowledge import Duplicate
from lorad.pipeline.machinery import Machinery
from lorad.watch import calls

#: Seconds until a catalogue that could not be written is tried again.
_RETRY = 5.0
#: Seconds between two searches for what nobody needs any more.
_TIDY = 3600.0
#: Names of a root that are looked for, to see whether it is there.
_SAMPLE = 16
#: Under this name the catalogue keeps the roots that were looked through to their end, and when (time of day, ns).
_KNOWN = "known_since"
#: Under this name, whether newcomers were acted on when it was last asked.
_ACTS = "acts"
_SINCE = msgspec.msgpack.Decoder(dict[bytes, int])


class Tenure:
    """`tell`, `duplicate`, `defer` and `mistake` are the engine's; `complain` hears what is wrong here.

    `engine`, `catalog` and `remembered` are None while there are none; `trouble` says what is wrong now.
    """

    def __init__(
        self,
        state_dir: str,
        machinery: Machinery,
        *,
        tell: Callable[[Event], None],
        duplicate: Duplicate,
        defer: Callable[[bytes, os.stat_result], bool],
        complain: Callable[[str], None],
        mistake: Callable[[bytes, str], None],
    ) -> None:
        self._state_dir = state_dir
        self._path = os.path.join(state_dir, CATALOGUE)
        self._machinery = machinery
        self._tell = tell
        self._duplicate = duplicate
        self._defer = defer
        self._complain = complain
        self._mistake = mistake
        self.engine: Engine | None = None
        self.catalog: Catalog | None = None
        self.remembered: Remembered | None = None
        self.trouble = ""
        self._open_at = 0.0
        #: The generation with which the engine began.
        self._opened_at = 0
        self._next_tidy = time.monotonic() + _TIDY
        self._roots: list[bytes] = []
        #: Roots that were looked through to their end, and when.
        self._known: dict[bytes, int] = {}
        #: Whether newcomers were acted on when that was last asked.
        self._acts = False

    @property
    def generation(self) -> int:
        """That of the catalogue; -1 while there is none."""
        return self.catalog.generation if self.catalog else -1

    @property
    def published(self) -> int:
        """That of the JSON files; -1 when unknown."""
        return self.engine.published if self.engine else -1

    @property
    def finished(self) -> bool:
        return self.engine is not None and self.engine.finished

    def step(self, config: Config, timeout: float) -> None:
        """Let the engine work, or have a new one as soon as the children have finished for the old one.

        Raises sqlite3.Error; call `fail` then.
        """
        if self.engine is None:
            for _ in self._machinery.poll(timeout):
                pass  # What the engine that is gone had asked for; the next one asks again.
            if self._machinery.idle and time.monotonic() >= self._open_at:
                self._open(config)
            return
        self.engine.step(timeout)
        if self.engine.trouble != self.trouble and (self.engine.trouble or self._has_committed):
            self.trouble = self.engine.trouble
            if self.trouble:
                self._complain(self.trouble)
                if self.catalog and not os.path.exists(self.catalog.path):
                    raise sqlite3.OperationalError("it is no longer there")

    def tidy(self) -> None:
        """Drop what nobody needs any more, now and then. Only when the engine has finished."""
        if self.engine and time.monotonic() >= self._next_tidy:
            self.engine.tidy()
            self._next_tidy = time.monotonic() + _TIDY

    def know(self) -> None:
        """Once all roots were looked through, what is made from then on is new, also for a later daemon."""
        if self._known.keys() == set(self._roots) or not self.finished or self.catalog is None:
            return
        seen = [root for root in self._roots if root in self._known or self._holds_files(root)]
        if self._known.keys() != set(seen):
            self._know(seen)
            self.catalog.commit(new_generation=False)

    def _know(self, roots: Sequence[bytes], *, anew: bool = False) -> None:
        """Keep that these roots, and no others, are known; from now on, or since they are."""
        assert self.catalog is not None
        now = time.time_ns()
        self._known = {root: now if anew else self._known.get(root, now) for root in roots}
        self.catalog.keep(_KNOWN, msgspec.msgpack.encode(self._known))

    def _holds_files(self, root: bytes) -> bool:
        """Whether a root has files that are read. One that has none may be a disk that is yet to be mounted."""
        if self.engine is None or not self.engine.files.has_folder(root):
            return False
        readable = filter(has_reader, self.engine.files.names_under(root))
        with suppress(calls.NoAnswer):
            return any(calls.do(path, os.path.lexists, path) for path in islice(readable, _SAMPLE))
        return False

    def knows(self, path: bytes) -> bool:
        """Whether the root of this name was looked through to its end."""
        return is_under(self._known)(path)

    def is_new(self, file: File) -> bool:
        """Whether a file was made after its root was looked through; no program sets when that was.

        What lies on a disk that is mounted below a root, or in a folder that was moved into it or made readable,
        is as old as it is. Where the file system does not know, ctime tells.
        """
        path = file.names[0]
        since = min((when for root, when in self._known.items() if is_under([root])(path)), default=None)
        if since is None:
            return False
        made = born_ns(path, file.identity.ino) or file.identity.ctime_ns
        return made + tick_of(made) > since

    def held(self, file: File) -> bool:
        """Whether its inode, or one of its names, led to a duplicate of the same weights before."""
        if self.engine is None or file.signature is None:
            return False
        gone, weights = self.engine.files.gone, file.signature
        return file.was == weights or any(gone.held(name, weights) for name in file.names)

    def use(self, *, acts: bool) -> None:
        """Whether newcomers are acted on now. What came while they were not is old once they are."""
        if self.catalog is None or acts is self._acts:
            return
        if acts:
            self._know(list(self._known), anew=True)
        self._acts = acts
        self.catalog.keep(_ACTS, int(acts))
        self.catalog.commit(new_generation=False)

    def failed(self, path: bytes) -> None:
        """A file could not be read; should it be one day, that is no news where its root was not known before."""
        if self.engine is None or self.knows(path):
            return
        file = self.engine.files.by_path.get(path)
        if file is not None and not file.passed_over and not file.before:
            file.before = tuple(file.names)
            self.engine.files.changed(file)

    def close(self) -> None:
        """Keep what is known and let the engine go."""
        if self.engine is None or self.catalog is None:
            return
        self._machinery.cancel()
        try:
            self.engine.save()
            self.catalog.close()
        except sqlite3.Error as error:
            why = explained(error, self._path)
            self._complain(f"{self._path}: {why}; the last findings are not saved and will be made again")
            self.catalog.abandon()
        self.engine = self.catalog = self.remembered = None

    def fail(self, error: Exception) -> None:
        """Begin again from what the catalogue holds, as after a kill."""
        if isinstance(error, sqlite3.Error):
            self.trouble = f"{self._path}: {explained(error, self._path)}; tried again every {_RETRY:.0f} s"
        else:
            self.trouble = f"a mistake in lorad ({type(error).__name__}); please report what its log says of it"
        self._complain(self.trouble)
        self._machinery.cancel()
        if self.catalog:
            self.catalog.abandon()
        self.engine = self.catalog = self.remembered = None
        self._open_at = time.monotonic() + _RETRY

    def _open(self, config: Config) -> None:
        """Open the catalogue and go on from there."""
        roots = roots_of(config)
        # What an engine before this one held was set apart from the search for garbage.
        gc.unfreeze()
        gc.collect()
        catalog = None
        try:
            catalog = Catalog(self._state_dir)
            engine = Engine(
                catalog,
                self._machinery,
                roots,
                follow=config.watch.follow_symlinks,
                state_dir=os.fsencode(self._state_dir),
                tell=self._tell,
                duplicate=self._duplicate,
                defer=self._defer,
                render_once=True,
                mistake=self._mistake,
            )
            known = catalog.text(_KNOWN)
        except sqlite3.Error as error:
            if catalog:
                catalog.abandon()
            self.trouble = f"{self._path}: {explained(error, self._path)}; tried again every {_RETRY:.0f} s"
            self._complain(self.trouble)
            self._open_at = time.monotonic() + _RETRY
            return
        self.catalog, self.engine, self.remembered = catalog, engine, Remembered(catalog, engine.files)
        self._opened_at = catalog.generation
        self._roots = sorted(roots)
        self._acts = bool(catalog.number(_ACTS))
        now = time.time_ns()
        # A clock that was wrong then is not to make all old that comes from now on.
        self._known = {root: min(when, now) for root, when in (_SINCE.decode(known) if known else {}).items()}
        for root in roots:
            engine.sweep(root)

    @property
    def _has_committed(self) -> bool:
        """Whether the catalogue took something since it was opened."""
        return self.catalog is not None and (self.catalog.generation > self._opened_at or self.finished)


def roots_of(config: Config) -> list[bytes]:
    """The watched folders, under the names that all files in them are known by."""
    return [calls.real(os.fsencode(root)) for root in config.watch.roots]
