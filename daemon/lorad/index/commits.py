"""When what was learnt is committed, by which terms files are kept, and when the JSON files are rendered from it.

Commits come a few times a second while there is something to commit: what was learnt since the last one is
learnt again after a kill. The JSON files follow as fast as rendering them takes no more than its share of the
time, and at once when everything is told apart.

The terms are the keep rules of the configuration, and on what storage the files lie. The catalogue keeps them with
each generation, so that all readers choose alike, whatever is mounted since.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Sequence

import msgspec

from lorad.catalog import Catalog
from lorad.catalog.views import TERMS, Terms
from lorad.index.known_files import Files
from lorad.index.statistics import Statistics
from lorad.library.keepers import Rules
from lorad.pipeline.pipeline import Pipeline
from lorad.pipeline.protocol import Publish, Published
from lorad.state_folder import written_generation
from lorad.watch.storage import Storage, look

#: Seconds for which what was seen of the storage is believed.
_FRESH = 2.0


class PresentTerms:
    """`rules` may be replaced at any time."""

    def __init__(self, files: Files, roots: Sequence[bytes], *, follow: bool) -> None:
        self.rules = Rules()
        self._files = files
        self._roots = roots
        self._follow = follow
        #: A folder with a file of each device.
        self._folders: dict[int, bytes] = {}
        self._storage = Storage()
        self._looked: float | None = None

    def encoded(self) -> bytes:
        """As the catalogue keeps them."""
        now = time.monotonic()
        if self._looked is None:
            self.note(file.names[0] for file in self._files if file.names)
        if self._looked is None or now - self._looked >= _FRESH:
            self._storage, self._looked = look(self._folders, self._roots), now
        return Terms(self.rules, self._storage, self._follow).encode()

    def note(self, paths: Iterable[bytes]) -> None:
        """Look at where these files lie, too."""
        for path in paths:
            file = self._files.by_path.get(path)
            if file is not None:
                self._folders[file.identity.dev] = os.path.dirname(path)


#: Seconds between commits.
_COMMIT = 0.25
#: Of all the time, how much rendering the JSON files may take.
_PUBLISH_SHARE = 0.05
#: When more than this part of all names was touched, the publisher is faster with reading all.
_BURST = 1 / 4
#: Seconds of rendering that a daemon may be ahead of that.
_BURST_SECONDS = 1.0
#: Seconds until it is seen by itself that a disk was mounted read-only, or the keep rules are others.
_TERMS = 5.0
#: Seconds until the JSON files are tried again when they could not be written.
_RETRY = 5.0


class Commits:
    """Saves `files` and `statistics`, and has the publisher follow."""

    def __init__(
        self,
        catalog: Catalog,
        files: Files,
        pipeline: Pipeline,
        statistics: Statistics,
        state_dir: str,
        *,
        terms: PresentTerms,
        render_once: bool = False,
    ) -> None:
        """With `render_once`, the JSON files are rendered at the first rest even if they are of this generation.

        Then the publisher has read everything before the first newcomer comes.
        """
        self._catalog = catalog
        self._files = files
        self._pipeline = pipeline
        self._statistics = statistics
        self._terms = terms
        #: Those that the catalogue has, and when to see whether they still hold.
        self._kept_terms, self._next_look = catalog.text(TERMS), 0.0
        self._next_commit = self._next_publish = time.monotonic() + _COMMIT
        self._publish_started: float | None = None
        #: Seconds of rendering changes beyond its share of the time, and how many may be before results wait.
        self._spent, self._recorded = 0.0, time.monotonic()
        self._burst = _BURST_SECONDS if render_once else math.inf
        self._published = -1
        #: What the publisher is at, and the names whose row may differ since: None for all.
        self._asked: Publish | None = None
        self._touched: set[bytes] | None = None
        #: Why the JSON files cannot be written, if so.
        self.trouble = ""
        if files.view_changed:
            catalog.commit(new_generation=True)
        elif catalog.number("complete") and not render_once:
            self._published = written_generation(state_dir)

    @property
    def up_to_date(self) -> bool:
        """Whether the catalogue and the JSON files say all that is known."""
        return not self._files.store.unsaved and self._published == self._catalog.generation

    @property
    def published(self) -> int:
        """The generation of the JSON files; -1 when unknown."""
        return self._published

    def record(self, *, settled: bool) -> None:
        """Commit and publish what is due; `settled` when nothing more is to be learnt for now."""
        now = time.monotonic()
        if not self._files.store.unsaved and not self._has_new_terms(now):
            # The first news after a rest wait for what follows from them: one rendering serves both.
            self._next_commit = now + _COMMIT
        elif settled or now >= self._next_commit:
            self._commit(settled)
        self._spent = max(0.0, self._spent - _PUBLISH_SHARE * (now - self._recorded))
        self._recorded = now
        at_once = settled and not self.trouble and self._spent < self._burst
        due = now >= self._next_publish or at_once
        if due and self._published != self._catalog.generation and self._publish_started is None:
            self._publish_started = now
            self._pipeline.publish(self._ask())

    def keep_by(self, rules: Rules) -> None:
        """Go by these rules from now on, as to which file of a set is named as the kept one."""
        self._terms.rules = rules
        self._next_look = 0.0

    def save(self) -> None:
        """Commit all that is known, in the middle of whatever is going on."""
        self._commit(settled=False)

    def was_published(self, published: Published) -> None:
        """The publisher has done what it was asked for, or could not."""
        self.trouble = published.error
        self._published = -1 if self.trouble else published.generation
        # What it took to render; a publisher that died has rendered nothing.
        now, took = time.monotonic(), published.seconds
        self._publish_started = None
        if self._asked is not None and self._asked.touched is not None:
            self._spent += took
        self._keep_touched(published)
        self._next_publish = now + (_RETRY if self.trouble else took * (1 / _PUBLISH_SHARE - 1))
        self._statistics.add("publish", files=len(self._files.by_path), seconds=published.seconds)

    def _commit(self, settled: bool) -> None:
        """A new generation, if anything is really new: records may have changed and changed back."""
        touched = self._files.store.save()
        if self._touched is not None and touched is not None:
            self._touched |= touched
        self._terms.note(touched or ())
        terms = self._terms.encoded()
        news = touched is not None or settled > bool(self._catalog.number("complete")) or terms != self._kept_terms
        if news:
            self._kept_terms = terms
            self._catalog.keep(TERMS, terms)
            self._catalog.keep("complete", int(settled))
            self._catalog.keep("statistics", msgspec.json.encode(self._statistics.stages))
        self._catalog.commit(new_generation=news)
        self._next_commit = time.monotonic() + _COMMIT

    def _has_new_terms(self, now: float) -> bool:
        if now < self._next_look:
            return False
        self._next_look = now + _TERMS
        return self._terms.encoded() != self._kept_terms

    def _ask(self) -> Publish:
        """What the publisher has to do; what is touched from now on is for the next time."""
        names, self._touched = self._touched, set()
        few = names is not None and len(names) <= _BURST * len(self._files.by_path)
        self._asked = Publish(self._catalog.generation, list(names or ()) if few else None)
        return self._asked

    def _keep_touched(self, published: Published) -> None:
        """See that names of which the publisher does not know yet are told again."""
        asked, self._asked = self._asked, None
        if published.generation < 0:
            # It failed or is another process, and knows nothing of before.
            self._touched = None
        elif asked is not None and published.generation < asked.generation and self._touched is not None:
            self._touched.update(asked.touched or ())
