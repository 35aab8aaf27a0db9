"""The thread that has files hashed while nothing else is to be done, one at a time."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from loracore.causes import explained
from loracore.control import Hashing
from loracore.errors import MissingPackage, StateError
from loracore.identity import Identity, tick_of
from loracore.paths import CATALOGUE
from lorad.catalog.hashes import Counts, Identified, Wanted
from lorad.hashes.backlog import Backlog
from lorad.hashes.process import HashingProcess
from lorad.hashes.turns import Hashed, Turns
from lorad.watch import timed_calls
from lorad.workers.backoff import Backoff
from lorad.workers.worker import Failed

_LOG = logging.getLogger(__name__)

#: Processes that may die of a file, in all runs of the daemon; and other failures, in one run.
DEATHS, _ATTEMPTS = 3, 3
#: The same where its file system does not answer.
_AWAY = 3.0
#: Seconds between two counts of all files, and how many times as long as a count takes.
_COUNT, _COUNT_SHARE = 1.0, 50
#: Seconds that the thread has to end.
_PATIENCE = 2.0


class Waits(NamedTuple):
    """Seconds."""

    #: Without a word, after which the process is killed. A word comes with each MiB that it has read.
    silence: float = 60.0
    #: Until files that could not be hashed just now are tried again.
    again: float = 2.0
    #: Until the state folder is, when it could not be read.
    retry: float = 10.0
    #: Until the next process is started when some died one after the other, whatever the files.
    backoff: Backoff = Backoff.doubling(4.0, 3600.0, at_once=2)


_WAITS = Waits()


class HashingService:
    """Finds hashes; the core takes and keeps them. `complain` hears of files and processes that failed.

    `wake` ends the core's waiting; both are called in a thread of ours.
    """

    def __init__(
        self,
        state_dir: str,
        complain: Callable[[str, bytes], None],
        wake: Callable[[], None],
        waits: Waits = _WAITS,
    ) -> None:
        self._complain = complain
        self._wake = wake
        self._waits = waits
        self._backlog = Backlog(state_dir)
        self._process = HashingProcess(state_dir)
        self._catalogue = os.path.join(state_dir, CATALOGUE)
        self._thread = threading.Thread(target=self._run, name="lorad-hashes", daemon=True)
        self.turns = Turns(self._process.pause)
        self._hung = False
        self._in_a_row = 0
        #: By identity: numbers of files are given anew when the catalogue is opened again.
        self._attempts: Counter[Identity] = Counter()
        #: Whether some file is to be tried again in a while, and whether all that were given up are.
        self._left = self._forgiven = False
        self._counts = Counts()
        self._present: Wanted | None = None
        self._path = b""

    # For others

    def start(self) -> None:
        self._thread.start()

    def use(self, on_arrival: bool) -> None:
        """Hash from now on, or no more. What could not be done before is tried again."""
        self._in_a_row, self._forgiven = 0, True
        self.turns.use(on_arrival)
        if not on_arrival:
            self._process.kill()

    def look(self, generation: int, *, busy: bool, tagged: int) -> Hashed | None:
        """Whether the core has other work; what was found, until it is `taken`. Never blocks.

        `tagged`: another number whenever others of the files in `tagged` are to be hashed, 0 for none.
        """
        if self._process.silent_seconds > _AWAY and timed_calls.hangs(self._path):
            # It is not the file's fault, and is tried again.
            self._process.kill()
        if self._process.silent_seconds > self._waits.silence:
            self._hung = True
            self._process.kill()
        self.turns.look(generation, busy=busy, tagged=tagged)
        return self.turns.found

    def taken(self) -> None:
        """What was found is in the catalogue, or not wanted any more."""
        found = self.turns.found
        hashes, waiting, failed = self._counts
        if found is not None and found.found.sha256 is not None:
            self._counts = Counts(hashes + 1, max(0, waiting - 1), failed)
        elif found is not None and found.found.error is not None:
            self._counts = Counts(hashes, max(0, waiting - 1), failed + 1)
        # After that: the thread counts anew as soon as it goes on.
        self.turns.taken()

    def let_go_unless(self, there: Callable[[int, Identity], bool]) -> None:
        """Stop hashing the present file where it is not there any more, or another one."""
        wanted = self._present
        if wanted is not None and not there(wanted.file, wanted.identity):
            self._process.kill()

    @property
    def state(self) -> Hashing:
        """For `status`."""
        if not self.turns.all:
            return Hashing(on_arrival=False)
        hashed, waiting, failed = self._counts
        return Hashing(True, hashed, waiting, failed, self._path, self.turns.trouble)

    def stop(self) -> None:
        """End, and let what is being hashed go."""
        self.turns.stop()
        self._process.kill()
        if self._thread.is_alive():
            self._thread.join(_PATIENCE)

    # The thread

    def _run(self) -> None:
        while self.turns.begin():
            wait = self._tried()
            self._process.end()
            self.turns.rest(wait)
        self._process.end()
        self._backlog.close()

    def _tried(self) -> float | None:
        """Hash what can be hashed now; seconds until that is to be tried again without any news."""
        try:
            self._hash_all()
        except sqlite3.Error as error:
            self._backlog.close()
            why = explained(error, self._catalogue)
            self._give_up(f"the catalogue cannot be read: {why}; tried again", self._waits.retry)
        except StateError as error:
            self._give_up(f"{error}; tried again", self._waits.retry)
        except MissingPackage as error:
            self._give_up(str(error))
        except Exception:
            # One file is not to end the thread that hashes all.
            _LOG.exception("a mistake in lorad: hashing %s", os.fsdecode(self._path))
            self._give_up("a mistake in lorad, see its log")
        return self._waits.again if self._left else None

    def _hash_all(self) -> None:
        """Hash all files that have no hashes and can be hashed now."""
        self._backlog.begin()
        self._left = False
        if self._forgiven:
            self._forgiven = False
            self._attempts.clear()
        failed: Counter[Identity] = Counter()
        count_at = 0.0
        while self.turns.go_on():
            if (now := time.monotonic()) >= count_at:
                self._counts = self._backlog.counts()
                count_at = time.monotonic() + max(_COUNT, _COUNT_SHARE * (time.monotonic() - now))
                self._wake()
            wanted = self._backlog.next(tagged=not self.turns.all)
            if wanted is None:
                # Those that are not there any more are forgotten.
                self._attempts = failed
                return
            if not wanted.paths:
                continue
            if _is_young(wanted.identity) or timed_calls.hangs(wanted.paths[0]):
                self._left = True
            elif self._attempts[wanted.identity] < _ATTEMPTS:
                self._hash(wanted)
            if attempts := self._attempts[wanted.identity]:
                failed[wanted.identity] = attempts

    def _hash(self, wanted: Wanted) -> None:
        attempts = self._attempts[wanted.identity]
        self._path = path = wanted.paths[attempts % len(wanted.paths)]
        self._present, self._hung = wanted, False
        try:
            result = self._process.hash(path, wanted.identity)
        finally:
            self._present, self._path = None, b""
        if not isinstance(result, Failed):
            self._in_a_row = 0
            del self._attempts[wanted.identity]
            self.turns.hand_over(Hashed(wanted.file, wanted.identity, Identified.of(result)), self._wake)
        elif result.code == "cancelled" and not self._hung:
            # By ourselves.
            self._left = True
            self._process.end()
        elif self._process.died:
            self._process.end()
            self._died(wanted, path, result)
        elif result.code == "missing":
            raise MissingPackage(result.text)
        else:
            self._attempts[wanted.identity] += 1
            self._left |= attempts + 1 < _ATTEMPTS
            if attempts + 1 == _ATTEMPTS:
                self._complain(f"it is not hashed: {result.text}", path)
                self._wake()

    def _died(self, wanted: Wanted, path: bytes, result: Failed) -> None:
        """Count it to the file, and wait where it may be nobody's but the process's own fault."""
        deaths = wanted.deaths + 1
        why = f"it was silent for {self._waits.silence:.0f} s" if self._hung else result.text
        error = None
        self._left |= deaths < DEATHS
        if deaths >= DEATHS:
            error = f"hashing it ended {deaths} processes; check the file, and touch it to have it tried again"
        self._complain(error or f"hashing it failed, and is tried again: {why}", path)
        found = Identified(error=error, deaths=deaths)
        self.turns.hand_over(Hashed(wanted.file, wanted.identity, found), self._wake)
        self._in_a_row += 1
        if seconds := self._waits.backoff.after(self._in_a_row):
            row = self._in_a_row
            self.turns.trouble = f"{row} processes died in a row; the next one waits {seconds:.0f} s"
            self.turns.sit_out(seconds)

    def _give_up(self, trouble: str, seconds: float | None = None) -> None:
        """For so long, or until the configuration is read again."""
        self._process.end()
        # Before it is told: what is heard of it may be that the configuration is read again.
        self.turns.trouble = trouble
        self._complain(f"files are not hashed on arrival: {trouble}", b"")
        self._wake()
        self._left = seconds is not None
        self.turns.sit_out(seconds)


def _is_young(identity: Identity) -> bool:
    """Whether a write could follow that its times do not show. A time to come says nothing."""
    return 0 <= time.time_ns() - identity.ctime_ns < tick_of(identity.ctime_ns)
