"""One walk over the roots: every name in them, with its status or the reason why it is passed over.

Passed over are names that say that a file is not complete yet, or is no model but what a program keeps beside one.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from loracore.causes import explained
from loracore.downloads import being_downloaded, why_unfinished
from loracore.tensorfile import has_reader
from lorad.watch import timed_calls

if TYPE_CHECKING:
    from lorad.watch.exclude import Exclude

#: How names of our own begin: what an action needs on the way, and the folder of files in quarantine.
OURS = b".lorad-"
#: Where automatic de-duplication puts files aside, at a root's top.
QUARANTINE = OURS + b"quarantine"
#: The name of a file or folder that de-duplication has hidden: which journal's action did it, and its first name.
HIDDEN = re.compile(rb"\.(?P<name>.+)\.aside-(?P<token>[0-9a-f]+)-(?P<id>[0-9]+)", re.DOTALL)

#: Said of a link that is followed.
TO_NOTHING = "a symbolic link to nothing"
#: Entries of a folder that are asked for at once where that may take its time.
_AT_ONCE = 64
_T = TypeVar("_T")

#: What the system says of a name that leads nowhere. All else is a trouble that may pass.
_GONE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}


def is_ours(path: bytes) -> bool:
    """Whether a name is one that de-duplication makes. Such names are always left out."""
    name = path.rpartition(b"/")[2]
    return name.startswith(b".") and (name.startswith(OURS) or HIDDEN.fullmatch(name) is not None)


class Seen(NamedTuple):
    """A name. `passed_over` is empty for a file to read; else why not, and `status` may be None.

    `failed` says that this is a trouble to report rather than a file of another kind.
    """

    path: bytes
    status: os.stat_result | None
    passed_over: str = ""
    failed: bool = False


def walk(
    roots: Sequence[bytes],
    *,
    follow: bool,
    without: Sequence[bytes] = (),
    exclude: Exclude | None = None,
    hidden: Callable[[bytes], object] = bool,
) -> Iterator[Seen]:
    """Every name under the roots, as `look_through` gives them."""
    every = look_through(roots, follow=follow, without=without, exclude=exclude, hidden=hidden)
    return (seen for seen in every if seen is not None)


def look_through(
    roots: Sequence[bytes],
    *,
    follow: bool,
    without: Sequence[bytes] = (),
    exclude: Exclude | None = None,
    hidden: Callable[[bytes], object] = bool,
) -> Iterator[Seen | None]:
    """Every name under the roots, once, folder by folder; in a folder by inode, which is about disk order.

    Symbolic links are passed over, or with `follow` looked through (a folder that was visited is not
    visited again, so loops end). Folders in `without` and names of `exclude` are left out silently. None is given
    while a file system takes its time, so that others have theirs; where it does not answer, a folder of it cannot
    be listed. `hidden` is told of names that de-duplication has made, which are left out as well.
    """
    visited: set[tuple[int, int]] = set()
    leaves_out = exclude.entry if exclude else is_ours
    for folder in without:
        try:
            status = os.stat(folder)
        except OSError:
            continue
        visited.add((status.st_dev, status.st_ino))
    waiting = list(reversed(roots))
    while waiting:
        folder = waiting.pop()
        try:
            status, entries = yield from _patiently(folder, _list, folder)
            if (status.st_dev, status.st_ino) in visited:
                continue
            visited.add((status.st_dev, status.st_ino))
            for start in range(0, len(entries), _AT_ONCE) if timed_calls.mount_of(folder) else ():
                yield from _patiently(folder, _ask, entries[start : start + _AT_ONCE], follow)
        except (FileNotFoundError, NotADirectoryError):
            # It went meanwhile, which is told of elsewhere.
            continue
        except OSError as error:
            yield Seen(folder, None, f"cannot be listed: {explained(error)}", failed=True)
            continue
        downloads = being_downloaded(entry.name for entry in entries)
        for entry in entries:
            if _is_left_out(entry.path, leaves_out, hidden):
                continue
            if not is_folder(entry, follow=follow):
                if (seen := _look(entry, downloads, follow)) is not None:
                    yield seen
            elif not (entry.is_symlink() and (exclude or is_ours)(timed_calls.real(entry.path))):
                waiting.append(entry.path)


def _is_left_out(path: bytes, leaves_out: Callable[[bytes], bool], hidden: Callable[[bytes], object]) -> bool:
    if not leaves_out(path):
        return False
    if HIDDEN.fullmatch(os.path.basename(path)):
        hidden(path)
    return True


def _patiently(folder: bytes, function: Callable[..., _T], *arguments: object) -> Generator[None, None, _T]:
    """Make a call that works on a folder, and give way to others while it lasts. Raises NoAnswer."""
    call = timed_calls.begin(folder, function, *arguments)
    while not call.ended(timed_calls.GLANCE):
        if timed_calls.hangs(folder):
            timed_calls.give_up(call)
            raise timed_calls.NoAnswer(folder)
        yield
    return call.result()


def _list(folder: bytes) -> tuple[os.stat_result, list[os.DirEntry[bytes]]]:
    status = os.stat(folder)
    with os.scandir(folder) as listing:
        return status, sorted(listing, key=os.DirEntry.inode)


def _ask(entries: Sequence[os.DirEntry[bytes]], follow: bool) -> None:
    """Have entries know all that they will be asked for."""
    for entry in entries:
        with suppress(OSError):
            entry.is_dir(follow_symlinks=follow)
            entry.stat(follow_symlinks=follow)


def is_folder(entry: os.DirEntry[bytes], *, follow: bool) -> bool:
    try:
        if follow and entry.is_symlink():
            return timed_calls.do(timed_calls.led(entry.path), entry.is_dir)
        return entry.is_dir(follow_symlinks=follow)
    except OSError:
        return False


def look(path: bytes, *, follow: bool) -> Seen | None:
    """What the walk would say of one name now; None when there is no such file, or it is a folder.

    Raises NoAnswer.
    """
    return timed_calls.do(timed_calls.led(path) if follow else path, _look_now, path, follow)


def _look_now(path: bytes, follow: bool) -> Seen | None:
    try:
        status = os.stat(path, follow_symlinks=follow)
    except OSError as error:
        if error.errno in _GONE:
            return None
        return Seen(path, None, f"cannot be looked at: {explained(error)}", failed=True)
    return None if stat.S_ISDIR(status.st_mode) else _judge(path, status, None)


def _look(entry: os.DirEntry[bytes], downloads: Collection[bytes], follow: bool) -> Seen | None:
    """One name that is no folder; None when it has vanished."""
    try:
        if follow and entry.is_symlink():
            status = timed_calls.do(timed_calls.led(entry.path), entry.stat)
        else:
            status = entry.stat(follow_symlinks=follow)
    except FileNotFoundError:
        return Seen(entry.path, None, TO_NOTHING) if follow else None
    except OSError as error:
        return Seen(entry.path, None, f"cannot be looked at: {explained(error)}", failed=True)
    return _judge(entry.path, status, downloads)


def _judge(path: bytes, status: os.stat_result, downloads: Collection[bytes] | None) -> Seen:
    """Whether a file is to be read. `downloads`: see `why_unfinished`."""
    if stat.S_ISLNK(status.st_mode):
        return Seen(path, status, "a symbolic link, not followed; --follow-symlinks looks through it")
    if not stat.S_ISREG(status.st_mode):
        return Seen(path, status, "not a regular file")
    if why := why_unfinished(path, status.st_size, downloads):
        return Seen(path, status, why)
    if not has_reader(path):
        return Seen(path, status, "no reader knows this kind of file")
    return Seen(path, status)
