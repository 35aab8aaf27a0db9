"""Whose turn it is: that of the thread that hashes, or of all else, which comes first; and what they hand over."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from loracore.identity import Identity
from lorad.catalog.hashes import Identified


class Hashed(NamedTuple):
    """What became of a file with this identity."""

    file: int
    identity: Identity
    found: Identified


class Turns:
    """`pause` has the process that hashes stand still or go on, in any thread; it must not block."""

    def __init__(self, pause: Callable[[bool], None]) -> None:
        self._pause = pause
        self._changed = threading.Condition()
        #: Whether all files are hashed, and how many were ever asked for besides; 0 for none.
        self._all, self._tagged = False, 0
        self._stopping = self._news = False
        #: Whose work comes first: that of jobs, and of the core.
        self._jobs_run, self._busy = False, True
        #: The catalogue's generation; negative while there is no catalogue.
        self._generation = -1
        #: What was hashed, until it is taken. The core alone takes it.
        self.found: Hashed | None = None
        #: Why nothing is hashed for now.
        self.trouble = ""

    # For others, from any thread

    @property
    def all(self) -> bool:
        """Whether all files are to be hashed, and not only those that are tagged."""
        return self._all

    @property
    def wanted(self) -> bool:
        return self._all or bool(self._tagged)

    def use(self, every: bool) -> None:
        """Hash all files from now on, or no more. What could not be done before is tried again."""
        with self._changed:
            self._all, self._news, self.trouble = every, True, ""
            self._changed.notify_all()

    def give_way(self, jobs_run: bool) -> None:
        """A job of a client begins (`jobs_run`), or the last one has ended."""
        with self._changed:
            self._jobs_run = jobs_run
            self._see()

    def look(self, generation: int, *, busy: bool, tagged: int) -> None:
        """The core's work, and what the catalogue has."""
        with self._changed:
            if (generation, busy, tagged) != (self._generation, self._busy, self._tagged):
                self._news |= (generation, tagged) != (self._generation, self._tagged)
                self._generation, self._busy, self._tagged = generation, busy, tagged
                self._see()

    def taken(self) -> None:
        """The core has taken what was found."""
        with self._changed:
            self.found = None
            self._changed.notify_all()

    def stop(self) -> None:
        """End all waiting, for good."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    # For the thread that hashes

    def begin(self) -> bool:
        """Wait until hashes are wanted; False when the thread is to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self.wanted)
            self._news = False
            return not self._stopping

    def go_on(self) -> bool:
        """Wait until there is nothing else to do; False when this is not wanted any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or not self.wanted or not self._gives_way)
            return self.wanted and not self._stopping

    def hand_over(self, hashed: Hashed, wake: Callable[[], None]) -> None:
        """Give it to the core, which `wake` has look, and wait until it was taken."""
        with self._changed:
            self.found = hashed
            wake()
            self._changed.wait_for(lambda: self._stopping or self.found is None)

    def sit_out(self, seconds: float | None) -> None:
        """Wait for so long, or until the configuration is read again, for `trouble` to pass."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or not self.trouble, seconds)
            self.trouble = ""

    def rest(self, seconds: float | None) -> None:
        """Wait for so long, or until there is something new."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._news, seconds)

    @property
    def _gives_way(self) -> bool:
        return self._jobs_run or self._busy or self._generation < 0

    def _see(self) -> None:
        self._pause(self._gives_way)
        self._changed.notify_all()
