"""Sweeps: whole folders are looked through, one after the other, a few names at a time."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from lorad.index.failures import Failures
from lorad.index.known_files import Files
from lorad.index.looks import Looks
from lorad.index.view import View
from lorad.watch import timed_calls
from lorad.watch.mounts import is_below
from lorad.watch.scanner import Seen, look_through

#: Sweeps of single folders that may wait; beyond, their roots are swept whole.
_MOST = 16


class Sweep:
    """One look through a folder: `walked` gives what is there.

    `entered` are the folders in it that came into view at once and are looked through by this.
    """

    def __init__(self, folder: bytes, root: bytes, walked: Iterator[Seen | None], view: View) -> None:
        self.folder = folder
        self.root = root
        self.walked = walked
        self.looked = view.begin(root)
        self.entered = {each for each in view.entered if is_below(each, folder)}
        self.place = timed_calls.which(root)
        #: A folder that is looked through by itself has just come, and so has what is in it.
        self.news = folder not in view.roots


class Sweeps:
    """Folders in `without` are left out silently.

    `swept(folder)` hears of each folder that was looked through to its end, and `hidden` of names that
    de-duplication has made.
    """

    def __init__(
        self,
        files: Files,
        view: View,
        looks: Looks,
        failures: Failures,
        *,
        without: Sequence[bytes] = (),
        swept: Callable[[bytes], None] = lambda folder: None,
        hidden: Callable[[bytes], None] = lambda path: None,
    ) -> None:
        self._files = files
        self._view = view
        self._looks = looks
        self._failures = failures
        self._without = without
        self._swept = swept
        self._hidden = hidden
        self._sweep: Sweep | None = None
        self._waiting: deque[bytes] = deque()

    @property
    def active(self) -> bool:
        """Whether a folder is looked through, or waits for that."""
        return self._sweep is not None or bool(self._waiting)

    def add(self, folder: bytes, *, view: bool = False) -> None:
        """Look through a folder, soon. `view`: all in it came into view at once, so nothing in it is new."""
        if view:
            self._view.entered.add(folder)
            if self._sweep is not None:
                # That look may be past it.
                self._sweep.entered.discard(folder)
        if any(folder == other or folder.startswith(os.path.join(other, b"")) for other in self._waiting):
            return
        self._waiting.append(folder)
        if len(self._waiting) > _MOST:
            self._waiting = deque(self._view.roots)

    def step(self, names: int) -> int:
        """Look at up to so many names of the present sweep; how many it were."""
        if self._sweep is None:
            if not self._waiting:
                return 0
            self._sweep = self._begin(self._waiting.popleft())
        sweep = self._sweep
        if sweep is None:
            return 0
        for count in range(names):
            try:
                seen = next(sweep.walked)
            except StopIteration:
                self._end(sweep)
                self._sweep = None
                self._looks.unseen.clear()
                self._looks.look_at_links()
                return count
            if seen is None:
                return count
            self._meet(sweep, seen)
        return names

    def _meet(self, sweep: Sweep, seen: Seen) -> None:
        unseen = self._looks.unseen
        fresh = seen.path in unseen
        if seen.failed and seen.status is None:
            # What is in a folder that cannot be listed now is not gone.
            unseen.difference_update(self._files.folders.names_under(seen.path))
        if self._looks.put_off(seen.path):
            unseen.discard(seen.path)
            return
        with self._failures.about(seen.path):
            self._looks.see(seen, swept=True, fresh=fresh, news=sweep.news)
            self._looks.look_at_links()

    def _begin(self, folder: bytes) -> Sweep | None:
        """A sweep, unless its root is not there: that is not the end of the files in it."""
        root = self._view.root(folder)
        if root is None or timed_calls.which(root) is None:
            return None
        try:
            is_folder = timed_calls.is_folder(folder)
        except timed_calls.NoAnswer:
            return None
        if not is_folder:
            self._looks.touched(folder)
            return None
        if folder != root and self._view.exclude(folder):
            self._looks.leave_out(folder)
            return None
        walked = look_through(
            [folder],
            follow=self._view.follow,
            without=self._without,
            exclude=self._view.exclude,
            hidden=self._hidden,
        )
        known = set(self._files.folders.names_under(folder))
        if folder in self._files.by_path:
            # It could not be listed the last time.
            known.add(folder)
        self._looks.unseen = known
        return Sweep(folder, root, walked, self._view)

    def _end(self, sweep: Sweep) -> None:
        if sweep.place != timed_calls.which(sweep.root):
            return
        gone = []
        for path in list(self._looks.unseen):
            if self._looks.put_off(path):
                continue
            if self._view.exclude(path):
                self._looks.leave_out(path)
                continue
            # It may have come back since its folder was listed.
            with self._failures.about(path):
                seen = self._view.look(path)
                if seen is None:
                    gone.append(path)
                else:
                    self._looks.see(seen, swept=True, fresh=True, news=sweep.news)
        self._looks.gone(gone)
        self._view.entered -= sweep.entered
        if sweep.folder == sweep.root:
            self._view.end(sweep.root, sweep.looked)
        self._swept(sweep.folder)
