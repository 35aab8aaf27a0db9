"""Questions that the catalogue answers, on a connection that cannot write.

What is shown is what the JSON files of the same generation show. Not here: what the core knows and has not
committed yet, which is at most a quarter of a second old.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TypeVar

import msgspec

from loracore.causes import reason
from loracore.control import (
    MIN_PREFIX,
    Answer,
    Find,
    LibraryRequest,
    ListDuplicates,
    ListFailed,
    ListFiles,
    ListGroups,
    ListNames,
    ListRuns,
    ListSearches,
    PlanDedupe,
    Refusal,
    SaveSearch,
    Searches,
    Show,
    Shown,
)
from loracore.expressions import BadExpression
from loracore.paths import shown
from lorad.catalog.duplicates import names_in_sets_with
from lorad.catalog.hashes import count, hashes_of
from lorad.catalog.listing import facts_of, is_listed, tags_of
from lorad.catalog.views import (
    TOLD,
    Reader,
    format_of,
    one_generation,
    read_head,
)
from lorad.control import lists
from lorad.control.pages import BadCursor, Pages, planned_pages
from lorad.control.searches import CannotSave, SavedSearches
from lorad.dedupe.plan import Plan
from lorad.dedupe.planner import BadPolicy, Planner
from lorad.index.records import ADAPTERS
from lorad.publish.duplicates import judge
from lorad.watch import timed_calls

Query = LibraryRequest | PlanDedupe
#: SPEC section 1; `weights` is not told apart yet, and is an empty list.
LEVELS = ("inode", "file", "tensors", "weights")
_NOT_YET = Refusal("loading", "the list of files is being made, after an update; ask again in a moment")
#: Seconds after which a list of files is given up, and steps of SQLite between two looks at the clock.
_PATIENCE, _STEPS = 10.0, 10_000
#: Bytes of the catalogue at hand: going through all rows gains nothing by more, see docs/decisions/0021.
_CACHE = 4 << 20
#: Characters of a hash are at most those of 32 bytes.
_HASH = 64
_T = TypeVar("_T")


class Queries:
    """For use in one thread. Opens the catalogue when it is first asked."""

    def __init__(self, state_dir: str, *, patience: float = _PATIENCE) -> None:
        """`patience`: seconds that a list of files may take."""
        self._state_dir = state_dir
        self._patience = patience
        self._reader = Reader(state_dir, cache=_CACHE)
        self._pages = Pages()
        self._searches = SavedSearches(state_dir)
        self.planner = Planner(state_dir)
        #: Whether identity hashes are computed. From any thread.
        self.hashes_on_arrival = False

    def answer(self, query: Query) -> Answer | msgspec.Raw:
        """The answer, or an encoded one. What goes wrong is a Refusal, too."""
        return self._tried(lambda: self._answer(query))

    def plan(self, action: str = "", keep: Sequence[bytes] = (), levels: Sequence[str] = ()) -> Plan | Refusal:
        """A whole plan, for whoever carries it out; see `PlanDedupe`."""

        def make() -> Plan:
            policy = self.planner.policy(action, keep, levels)
            with self._reading() as db:
                return self.planner.plan(db, policy)

        return self._tried(make)

    def rest(self) -> None:
        """Give back the memory of lists that nobody reads on in."""
        self._pages.forget()

    def close(self) -> None:
        self.planner.close()
        self._reader.close()
        self._pages.forget()

    def plan_for(self, newcomers: Collection[bytes]) -> Plan | Refusal:
        """What the running policy makes of newcomers, by any of their names."""

        def make() -> Plan:
            with self._reading() as db:
                return self.planner.plan_for(db, newcomers)

        return self._tried(make)

    def _tried(self, ask: Callable[[], _T]) -> _T | Refusal:
        try:
            return ask()
        except (BadCursor, BadExpression, BadPolicy) as error:
            return Refusal("malformed", str(error))
        except CannotSave as error:
            return Refusal("failed", str(error))
        except (sqlite3.Error, OSError) as error:
            self.close()
            return Refusal("failed", f"{shown(self._state_dir)}: the catalogue cannot be read: {error!s}")

    def _answer(self, query: Query) -> Answer | msgspec.Raw:
        match query:
            case ListGroups(cursor):
                return self._list("groups", cursor, lists.groups)
            case ListFailed(cursor):
                return self._list("failed", cursor, lists.failed)
            case ListDuplicates(level, cursor):
                if level and level not in LEVELS:
                    return Refusal("malformed", f"the level {level[:40]!a} is none of {' '.join(LEVELS)}")
                return self._list(
                    f"duplicates {level}",
                    cursor,
                    lambda db, head, cursor: lists.duplicates(db, head, cursor, level),
                )
            case Find(prefix, cursor):
                prefix = prefix.lower().removeprefix("0x")
                if not MIN_PREFIX <= len(prefix) <= _HASH or not set(prefix) <= set("0123456789abcdef"):
                    text = f"{prefix[:80]!a} is not the beginning of a hash"
                    return Refusal("malformed", f"{text}: give {MIN_PREFIX} to {_HASH} hex digits")
                return self._list(
                    f"find {prefix}",
                    cursor,
                    lambda db, head, cursor: lists.with_hash(db, head, cursor, prefix, self._missing_hashes),
                    # Identity hashes come without a new generation.
                    lasts=False,
                )
            case PlanDedupe(action, keep, levels, cursor):
                policy = self.planner.policy(action, keep, levels)
                return self._list(
                    f"plan {policy}",
                    cursor,
                    lambda db, head, cursor: planned_pages(
                        self.planner.plan(db, policy), head.generation, head.complete, cursor
                    ),
                    # Files come of age, and blocks become shared, without a new generation.
                    lasts=False,
                )
            case ListFiles(expression):
                asked = msgspec.structs.replace(query, expression=self._searches.expanded(expression))
                with self._reading() as db, self._in_time(db):
                    return lists.files(db, read_head(db), asked) if is_listed(db) else _NOT_YET
            case ListRuns(expression) | ListNames(expression):
                by = msgspec.structs.replace(query, expression=self._searches.expanded(expression))
                with self._reading() as db, self._in_time(db):
                    return lists.sets(db, read_head(db), by) if is_listed(db) else _NOT_YET
            case ListSearches():
                return Searches(self._searches.all())
            case SaveSearch(name, expression):
                return Searches(self._searches.save(name, expression))
            case Show(path):
                with self._reading() as db:
                    return _show(db, path)

    def _missing_hashes(self, db: sqlite3.Connection) -> str:
        """Why a file may not be found by an identity hash that it has, and what to do."""
        if not self.hashes_on_arrival:
            remedy = "set on_arrival = true in [hashes] of lorad's configuration and reload it"
            return (
                f"files are not looked up by SHA256, AutoV2 and the like, since those are not computed: {remedy}"
            )
        counts = count(db)
        if not counts.waiting and not counts.failed:
            return ""
        unhashed = (
            f"{counts.waiting + counts.failed:,} of {sum(counts):,} files have no SHA256, AutoV2 and the like"
        )
        if counts.waiting:
            return f"{unhashed} yet: ask again later; `loractl status` shows how far they are"
        return f"{unhashed}, as they cannot be hashed: `loractl show` says why"

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """One transaction, so that everything in it is of one generation."""
        db = self._reader.db
        with one_generation(db):
            yield db

    @contextlib.contextmanager
    def _in_time(self, db: sqlite3.Connection) -> Iterator[None]:
        """Raises BadExpression for what takes too long: others wait for their answers meanwhile."""
        deadline = time.monotonic() + self._patience
        db.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
        try:
            yield
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
                raise
            raise BadExpression(f"it takes longer than {self._patience:.0f} s; ask with fewer terms") from error
        finally:
            db.set_progress_handler(None, 0)

    def _list(self, what: str, cursor: str, compute: lists.Compute, *, lasts: bool = True) -> msgspec.Raw:
        """A page, at hand or computed; one that does not last is always computed when a list begins."""
        with self._reading() as db:
            head = read_head(db)
            page = self._pages.kept(what, cursor, lambda: head.generation) if cursor or lasts else None
            if page is None:
                pages = compute(db, head, cursor)
                self._pages.keep(what, head.generation, pages)
                page = pages[cursor]
            return page


def _not_known(path: bytes) -> tuple[bytes | None, str]:
    """A file that is meant by a path that the catalogue does not have, or why there is none."""
    if os.path.isdir(path):
        # A PEFT adapter counts through its weight file.
        weights = [os.path.join(path, name) for name in ADAPTERS if os.path.lexists(os.path.join(path, name))]
        return (weights[0], "") if weights else (None, "it is a folder: name a file in it")
    if os.path.lexists(path):
        return None, "it is in no watched folder, or not seen yet"
    return None, "there is no such file"


def _show(db: sqlite3.Connection, path: bytes) -> Shown | Refusal:
    names = names_in_sets_with(db, [path])
    if not names:
        try:
            weights, why = timed_calls.do(path, _not_known, path)
        except OSError as error:
            weights, why = None, reason(error)
        if weights is not None:
            return _show(db, weights)
        return Refusal("not-found", f"{shown(path)}: not in the catalogue; {why}")
    name = next(name for name in names if name.path == path)
    form, hashes, said = format_of(db, name.file), hashes_of(db, name.file), tags_of(db, name.file)
    rules, sets = lists.sets_among(db, names)
    found = judge(sets[0], rules) if sets else None
    links = [other.path for other in names if other.file == name.file and other is not name]
    links = links if name.status in TOLD else []
    return Shown(
        path=path,
        status="duplicate" if name.status == "unique" and links else name.status,
        error=name.error,
        size=name.size,
        mtime_ns=name.mtime_ns,
        format=form.name if form else None,
        layout=form.signature if form else None,
        weights=name.signature,
        layers=len(form.layout.layers) if form else None,
        links=links,
        kept=found.kept if found else None,
        duplicates=sorted(found.levels.items()) if found else [],
        load_seconds=name.load_seconds,
        hashes=hashes.hexadecimal(),
        hashes_error=hashes.error or "",
        differing=sorted(found.differs) if found else [],
        facts=facts_of(db, name.file, path),
        own=said.tags,
        note=said.note,
    )
