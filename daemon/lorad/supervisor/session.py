"""The engine and its catalogue in a running daemon: they come and go together.

They go when the roots change, and when the disk does not take what was learnt; another engine then goes on from
what the catalogue holds, as after a kill, while requests are answered and the watch listens all the time.
"""

from __future__ import annotations

import gc
import os
import sqlite3
import time
from collections.abc import Callable

from loracore.causes import explained
from loracore.config import Config
from loracore.control import Event
from loracore.paths import CATALOGUE
from lorad.catalog import Catalog
from lorad.dedupe.planner import policy_of
from lorad.index.engine import Engine
from lorad.index.executor import Duplicate
from lorad.pipeline.pipeline import Pipeline
from lorad.state_folder import ANOTHER
from lorad.watch import timed_calls

#: Seconds until a catalogue that could not be written is tried again.
_RETRY = 5.0
#: Seconds between two searches for what nobody needs any more.
_TIDY = 3600.0
#: Under this name the catalogue keeps whether a policy acted by itself when all roots had been looked through.
_ACTS = "acts"


class Session:
    """`tell`, `duplicate`, `defer` and `mistake` are the engine's; `complain` hears what is wrong here.

    `opened` gets each new engine before it looks at anything. `engine` and `catalog` are None while there are
    none; `trouble` says what is wrong now.
    """

    def __init__(
        self,
        state_dir: str,
        pipeline: Pipeline,
        *,
        tell: Callable[[Event], None],
        duplicate: Duplicate,
        defer: Callable[[bytes, os.stat_result], bool],
        complain: Callable[[str], None],
        opened: Callable[[Engine], None],
        mistake: Callable[[bytes, str], None],
    ) -> None:
        self._state_dir = state_dir
        self._path = os.path.join(state_dir, CATALOGUE)
        #: Which folder that is: where its disk was unmounted, another one shows.
        self._folder = timed_calls.which(os.fsencode(state_dir))
        self._pipeline = pipeline
        self._tell = tell
        self._duplicate = duplicate
        self._defer = defer
        self._complain = complain
        self._opened = opened
        self._mistake = mistake
        self.engine: Engine | None = None
        self.catalog: Catalog | None = None
        self.trouble = ""
        self._open_at = 0.0
        #: The generation with which the engine began.
        self._opened_at = 0
        self._next_tidy = time.monotonic() + _TIDY
        #: Whether a policy acts, None if the engine was not told; and whether the catalogue says so.
        self._acts: bool | None = None
        self._acted = False

    @property
    def generation(self) -> int:
        """That of the catalogue; -1 while there is none."""
        return self.catalog.generation if self.catalog else -1

    @property
    def published(self) -> int:
        """That of the JSON files; -1 when unknown."""
        return self.engine.commits.published if self.engine else -1

    @property
    def finished(self) -> bool:
        return self.engine is not None and self.engine.finished

    def step(self, config: Config, timeout: float) -> None:
        """Let the engine work, or have a new one as soon as the children have finished for the old one.

        Raises sqlite3.Error; call `fail` then.
        """
        if self.engine is None:
            for _ in self._pipeline.poll(timeout):
                pass  # What the engine that is gone had asked for; the next one asks again.
            if self._pipeline.dispatcher.idle and time.monotonic() >= self._open_at:
                self._open(config)
            return
        self.engine.step(timeout)
        if self.engine.commits.trouble != self.trouble and (self.engine.commits.trouble or self._has_committed):
            self.trouble = self.engine.commits.trouble
            if self.trouble:
                self._complain(self.trouble)
                if self.catalog and not os.path.exists(self.catalog.path):
                    raise sqlite3.OperationalError("it is no longer there")

    def tidy(self) -> None:
        """Drop what nobody needs any more, now and then. Only when the engine has finished."""
        if self.engine and time.monotonic() >= self._next_tidy:
            self.engine.tidy()
            self._next_tidy = time.monotonic() + _TIDY

    def use(self, *, acts: bool) -> None:
        """Whether a policy acts by itself now. What was met while none did is old, also for a later daemon."""
        if self.engine is None or self.catalog is None:
            return
        if acts is not self._acts:
            self._acts = acts
            self.engine.arrivals.act(acts)
        # What came while none acted is looked through before it counts that one does.
        if acts is not self._acted and not (acts and self.engine.sweeps.active):
            self._acted = acts
            self.catalog.keep(_ACTS, int(acts))
            self.engine.commits.save()

    def close(self) -> None:
        """Keep what is known and let the engine go."""
        if self.engine is None or self.catalog is None:
            return
        self._pipeline.dispatcher.cancel()
        try:
            self.engine.tags.models.save()
            self.engine.commits.save()
            self.catalog.close()
        except sqlite3.Error as error:
            why = explained(error, self._path)
            self._complain(f"{self._path}: {why}; the last findings are not saved and will be made again")
            self.catalog.abandon()
        self.engine.tags.models.close()
        self.engine = self.catalog = None

    def fail(self, error: Exception) -> None:
        """Begin again from what the catalogue holds, as after a kill."""
        if isinstance(error, sqlite3.Error):
            self.trouble = f"{self._path}: {explained(error, self._path)}; tried again every {_RETRY:.0f} s"
        else:
            self.trouble = f"a mistake in lorad ({type(error).__name__}); please report what its log says of it"
        self._complain(self.trouble)
        self._pipeline.dispatcher.cancel()
        if self.catalog:
            self.catalog.abandon()
        if self.engine:
            self.engine.tags.models.close()
        self.engine = self.catalog = None
        self._open_at = time.monotonic() + _RETRY

    def _open(self, config: Config) -> None:
        """Open the catalogue and go on from there."""
        roots = roots_of(config)
        # What an engine before this one held was set apart from the search for garbage.
        gc.unfreeze()
        gc.collect()
        catalog = None
        try:
            if timed_calls.which(os.fsencode(self._state_dir)) != self._folder:
                raise sqlite3.OperationalError(ANOTHER)
            catalog = Catalog(self._state_dir)
            engine = Engine(
                catalog,
                self._pipeline,
                roots,
                follow=config.watch.follow_symlinks,
                exclude=config.watch.exclude,
                state_dir=os.fsencode(self._state_dir),
                tell=self._tell,
                duplicate=self._duplicate,
                defer=self._defer,
                render_once=True,
                mistake=self._mistake,
            )
            self._acts, self._acted = None, bool(catalog.number(_ACTS))
        except sqlite3.Error as error:
            if catalog:
                catalog.abandon()
            self.trouble = f"{self._path}: {explained(error, self._path)}; tried again every {_RETRY:.0f} s"
            self._complain(self.trouble)
            self._open_at = time.monotonic() + _RETRY
            return
        self.catalog, self.engine = catalog, engine
        self._opened_at = catalog.generation
        engine.commits.keep_by(policy_of(config).rules)
        for root in roots:
            engine.sweeps.add(root, view=not self._acted)
        self._opened(engine)

    @property
    def _has_committed(self) -> bool:
        """Whether the catalogue took something since it was opened."""
        return self.catalog is not None and (self.catalog.generation > self._opened_at or self.finished)


def roots_of(config: Config) -> list[bytes]:
    """The watched folders of a configuration in which they have no symbolic links any more."""
    return list(map(os.fsencode, config.watch.roots))
