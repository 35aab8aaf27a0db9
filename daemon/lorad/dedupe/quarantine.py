"""The folders that files are put aside in: one for each action, in one that only lorad's user may look into."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from lorad.dedupe import syscalls
from lorad.dedupe.journal import QUARANTINE as IN_STATE
from lorad.dedupe.journal import Entry
from lorad.dedupe.orders import Refused, Side
from lorad.dedupe.reach import Reached, folders, names_below
from lorad.dedupe.site import Site
from lorad.watch.scanner import QUARANTINE as IN_ROOT

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def choose(site: Site, gone: Reached) -> str:
    """`state` where the state folder's quarantine can take the file by a rename, else `root`.

    The folder is made. Raises Refused where neither can.
    """
    for where in ("state", "root"):
        with _open(site, where, gone.root, make=True) as fd:
            if fd is not None and _same_mount(fd, gone.folder):
                return where
    raise Refused.about(gone.path, "it lies on another file system than its root; make that one a root of its own")


def refuse_inside(site: Site, side: Side) -> None:
    """Raises Refused for a file that lies in quarantine itself: what is there is nobody's copy to keep."""
    message = "it lies in quarantine; undo what put it there first"
    if IN_ROOT in names_below(side.root, side.path):
        raise Refused.about(side.path, message)
    with _open(site, "state", b"", make=False) as fd:
        if fd is not None:
            ours = os.fstat(fd)
            with suppress(OSError):
                if (ours.st_dev, ours.st_ino) in folders(side.root, side.path):
                    raise Refused.about(side.path, message)


@contextmanager
def place(site: Site, entry: Entry, *, make: bool = False) -> Iterator[int | None]:
    """A descriptor of the folder that this action puts files aside in; None when there is none.

    `make`: make it, durably, if need be.
    """
    name = site.place(entry)
    with _open(site, entry.place, entry.gone.root, make=make) as base:
        fd = None
        if base is not None:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=base)
                os.fsync(base)
            with suppress(FileNotFoundError):
                fd = os.open(name, _FOLDER, dir_fd=base)
        try:
            yield fd
        finally:
            if fd is not None:
                os.close(fd)


def path(site: Site, entry: Entry) -> bytes:
    """Where that folder is, in words."""
    top = os.path.join(os.fsencode(site.state_dir), os.fsencode(IN_STATE))
    return os.path.join(
        top if entry.place == "state" else os.path.join(entry.gone.root, IN_ROOT), site.place(entry)
    )


def clear(site: Site, entry: Entry) -> None:
    """Remove the action's folder if it is there and empty, and the one around it that lies in a root."""
    with suppress(OSError), _open(site, entry.place, entry.gone.root, make=False) as base:
        if base is None:
            return
        with suppress(FileNotFoundError):
            os.rmdir(site.place(entry), dir_fd=base)
        if entry.place == "root":
            os.rmdir(os.path.join(os.path.realpath(entry.gone.root), IN_ROOT))


def put_back(entry: Entry, fd: int, folder: int) -> bool:
    """Give a file in quarantine its name back, durably; whether that name was free. Raises OSError."""
    name = os.path.basename(entry.gone.path)
    try:
        syscalls.rename_new(fd, name, folder, name)
    except FileExistsError:
        return False
    os.fsync(folder)
    os.fsync(fd)
    return True


@contextmanager
def _open(site: Site, where: str, root: bytes, *, make: bool) -> Iterator[int | None]:
    """The folder around all actions' folders: in the state folder, or at the root's top."""
    if not where:
        yield None
        return
    top = os.fsencode(site.state_dir) if where == "state" else root
    name = os.fsencode(IN_STATE) if where == "state" else IN_ROOT
    around = fd = None
    try:
        try:
            around = os.open(os.path.realpath(top), _FOLDER)
            if make:
                with suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=around)
                    os.fsync(around)
            fd = os.open(name, _FOLDER, dir_fd=around)
            _refuse_strangers(fd, os.path.join(top, name))
        except FileNotFoundError:
            fd = None
        except OSError as error:
            if make or error.errno in (errno.ELOOP, errno.ENOTDIR):
                reason = os.strerror(error.errno or 0).lower()
                raise Refused.about(
                    os.path.join(top, name), f"cannot be used for quarantine: {reason}; let lorad's user make it"
                ) from error
            raise
        yield fd
    finally:
        for each in (fd, around):
            if each is not None:
                os.close(each)


def _refuse_strangers(fd: int, path: bytes) -> None:
    status = os.fstat(fd)
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o022:
        raise Refused.about(path, "others may change it; it must belong to lorad's user, with mode 0700")


def _same_mount(one: int, other: int) -> bool:
    """Whether a rename can lead from one folder to the other: two mounts of one file system will not do."""
    return os.fstat(one).st_dev == os.fstat(other).st_dev and _mount(one) == _mount(other)


def _mount(fd: int) -> bytes:
    with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
        return next(line for line in file if line.startswith(b"mnt_id:"))
