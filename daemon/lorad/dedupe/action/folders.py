"""Whether two folders hold the same: equal names at every depth, all of regular files with equal bytes.

They are walked by descriptor and never through a symbolic link. What one of them becomes afterwards is not seen:
it is to be asked again once the folder has its hidden name.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from loracore.identity import Identity
from loracore.paths import shown
from lorad.dedupe.action.compare import pieces
from lorad.dedupe.action.order import Progress, silent
from lorad.dedupe.action.place import closing_fd

#: Entries of a folder at all depths, and depths. Adapter folders have some dozens.
_MAX_ENTRIES = 10_000
_MAX_DEPTH = 16
_TOO_MUCH = "it holds more than any adapter's folder"
#: What actions leave in a folder, which is not part of it. What they have put aside there is: it may be missed.
_OURS = re.compile(rb"\.lorad-.*", re.DOTALL)
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class _Differ(Exception):
    """The reason, in words that begin with the name."""


def same_folders(kept_fd: int, gone_fd: int, *, progress: Progress = silent, most: int | None = None) -> str:
    """Why the second folder is not the same as the first; empty where it is. Both are open for reading.

    `progress` counts bytes, and what it raises ends the comparison. Of files larger than `most` bytes the sizes
    alone are compared.
    """
    if os.path.samestat(os.fstat(kept_fd), os.fstat(gone_fd)):
        return "both are one folder"
    try:
        total = sum(size for _, _, _, size in _pairs(kept_fd, gone_fd))
        done = 0
        for name, kept, gone, size in _pairs(kept_fd, gone_fd):
            before = _identities(kept, gone)
            if before[0] != before[1] and (most is None or size <= most):
                for one, other in zip(pieces(kept, 0, size), pieces(gone, 0, size), strict=True):
                    if one != other:
                        return f"{name} has other bytes"
                    done += len(one)
                    progress(done, total)
            if _identities(kept, gone) != before:
                return f"{name} changed while it was compared"
    except _Differ as reason:
        return str(reason)
    except EOFError:
        return "a file in it changed while it was compared"
    except OSError as error:
        return f"{shown(error.filename or 'it')} cannot be read: {(error.strerror or str(error)).lower()}"
    return ""


def _pairs(
    kept: int, gone: int, below: bytes = b"", left: Iterator[int] | None = None
) -> Iterator[tuple[str, int, int, int]]:
    """Name, both descriptors and the size of each file that is in both. Raises _Differ where something is not."""
    left = iter(range(_MAX_ENTRIES)) if left is None else left
    for name in _names(kept, gone, below):
        path = below + name
        if next(left, None) is None or path.count(b"/") > _MAX_DEPTH:
            raise _Differ(_TOO_MUCH)
        is_folder = _is_folder(path, kept, gone)
        flags = _FOLDER if is_folder else _FILE
        with _opened(path, kept, flags) as one, _opened(path, gone, flags) as other:
            if is_folder:
                yield from _pairs(one, other, path + b"/", left)
                continue
            size = os.fstat(one).st_size
            if os.fstat(other).st_size != size:
                raise _Differ(f"{shown(path)} has other bytes")
            yield shown(path), one, other, size


def _names(kept: int, gone: int, below: bytes) -> list[bytes]:
    """The names in both folders. Raises _Differ where one has a name that the other has not."""
    one, other = _listed(kept), _listed(gone)
    for name in sorted(one ^ other):
        where = "is in the kept folder alone" if name in one else "is not in the kept folder"
        raise _Differ(f"{shown(below + name)} {where}")
    return sorted(one)


def _listed(folder: int) -> set[bytes]:
    names: set[bytes] = set()
    with os.scandir(folder) as listing:
        for entry in listing:
            name = os.fsencode(entry.name)
            if not _OURS.fullmatch(name):
                names.add(name)
            if len(names) > _MAX_ENTRIES:
                raise _Differ(_TOO_MUCH)
    return names


def _is_folder(path: bytes, kept: int, gone: int) -> bool:
    """Whether a name is a folder in both; False for a regular file in both. Raises _Differ for all else."""
    name = os.path.basename(path)
    found = {stat.S_IFMT(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode) for fd in (kept, gone)}
    if found not in ({stat.S_IFDIR}, {stat.S_IFREG}):
        raise _Differ(f"{shown(path)} is not a regular file in both")
    return found == {stat.S_IFDIR}


@contextmanager
def _opened(path: bytes, folder: int, flags: int) -> Iterator[int]:
    """What has the last name of `path` in the open folder that it lies in."""
    with closing_fd(os.open(os.path.basename(path), flags, dir_fd=folder)) as fd:
        status = os.fstat(fd)
        if flags == _FILE and not stat.S_ISREG(status.st_mode):
            raise _Differ(f"{shown(path)} is not a regular file in both")
        if status.st_dev != os.fstat(folder).st_dev:
            raise _Differ(f"{shown(path)} is on another disk")
        yield fd


def _identities(kept: int, gone: int) -> tuple[Identity, Identity]:
    return Identity.of(os.fstat(kept)), Identity.of(os.fstat(gone))
