"""What is not found: whether it is gone, or may only be out of view.

A disk may not be mounted, a server may not answer, a rule may leave a name out: none of that is the end of a file.
"""

from __future__ import annotations

import os

from lorad.index.known_files import Files
from lorad.index.records import File
from lorad.index.view import View
from lorad.watch import timed_calls


class Away:
    """For names that are known, in the roots of this view or out of it."""

    def __init__(self, files: Files, view: View) -> None:
        self._files = files
        self._view = view

    def is_away(self, path: bytes, slept_on: int | None = None) -> bool:
        """Whether a name that is not found may be out of view and not gone.

        So it is where its folder may not be looked into, and where its root, or the disk that it is known on, is
        not there or has something else mounted over it; in no root or left out of them, as long as it is not
        certain that it is gone. `slept_on`: the device where it was as it went out of view.
        """
        seen = self._view.look(path)
        if seen is not None and seen.failed:
            return True
        if not self._view.has(path):
            return seen is not None or not _is_gone(path, None if slept_on is None else self._number_now(slept_on))
        file = self._files.by_path.get(path)
        there = self.device_at(os.path.dirname(path))
        known = there if file is None or file.passed_over else file.identity.dev
        return there is None or known is None or not self.was_there(path, there, known)

    def is_on(self, path: bytes, file: File) -> bool:
        """Whether the folder of a hidden file is there, on the device that it was on."""
        try:
            device = timed_calls.stat(os.path.dirname(path)).st_dev
        except OSError:
            return False
        return device in (file.identity.dev, self._files.held.renumbered.get(file.identity.dev))

    def was_there(self, path: bytes, there: int | None, device: int) -> bool:
        """Whether the place of a name, on the device `there`, is the one where it was last, on `device`."""
        if there is None or self._view.is_covered(path):
            return False
        if there == self._number_now(device) or self._view.is_where_it_was(path):
            return True
        return not os.major(device) and self._view.went_with_its_subvolume(path)

    def _number_now(self, device: int) -> int | None:
        """The number that a device of this number has now; None where that is another one's since."""
        number = self._files.held.renumbered.get(device, device)
        return None if number == device and device in self._files.held.renumbered.values() else number

    def device_at(self, folder: bytes) -> int | None:
        """The device that a folder is on, or was on when it is gone; None when its root is gone."""
        while self._view.root(folder) is not None:
            try:
                return timed_calls.stat(folder).st_dev
            except OSError:
                folder = os.path.dirname(folder)
        return None


def _is_surely_there(folder: bytes, device: int | None) -> bool:
    if os.stat(folder).st_dev == device:
        return True
    with os.scandir(folder) as listing:
        return next(listing, None) is not None


def _is_gone(path: bytes, device: int | None) -> bool:
    """Whether a name that is not looked after is not there, in a folder with others that are, or on this device.

    Where a disk is not mounted, an empty folder of another disk shows.
    """
    while (folder := os.path.dirname(path)) != path:
        try:
            return timed_calls.do(folder, _is_surely_there, folder, device)
        except timed_calls.NoAnswer:
            return False
        except (FileNotFoundError, NotADirectoryError):
            path = folder
        except OSError:
            return False
    return False
