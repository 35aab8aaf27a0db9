"""The action `quarantine`: the file is moved into a folder that only lorad's user may look into.

That is the state folder's where a rename leads there, else one at the root's top. Each action has a folder of its
own in it, with the file under its hidden name and its sidecars under their own.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import msgspec

from loracore import causes
from loracore.causes import doing, no_quarantine, words
from lorad.dedupe.action.entry import Entry
from lorad.dedupe.action.journal import Context
from lorad.dedupe.action.journal_file import QUARANTINE as IN_STATE
from lorad.dedupe.action.order import Progress, Refused, Side
from lorad.dedupe.action.place import Reached, closing_fd, names_below, rename_new
from lorad.dedupe.action.registry import Action, Proven, register
from lorad.watch.scanner import QUARANTINE as IN_ROOT

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@register
class Quarantine(Action):
    name = "quarantine"
    quarantines = True
    state = "quarantined"
    calls = (causes.QUARANTINE, causes.QUARANTINE)

    def planned(self, context: Context, entry: Entry, gone: Reached) -> Entry:
        return msgspec.structs.replace(entry, place=_choose(context, gone))

    def perform(self, context: Context, act: Proven, places: dict[int, int], progress: Progress) -> None:
        entry = act.entry
        with _open(context, entry.place, entry.gone.root, make=True) as base:
            assert base is not None
            name = context.place(entry)
            with suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=base)
            places[entry.id] = fd = os.open(name, _FOLDER, dir_fd=base)
            places[-entry.id] = os.dup(base)
        with doing(causes.QUARANTINE):
            rename_new(act.reached.folder, act.reached.name, fd, name_in(entry))


def _choose(context: Context, gone: Reached) -> str:
    """`state` where the state folder's quarantine can take the file by a rename, else `root`.

    The folder is made. Raises Refused where neither can.
    """
    for where in ("state", "root"):
        with _open(context, where, gone.root, make=True) as fd:
            if fd is not None and _same_mount(fd, gone.folder):
                return where
    raise Refused.about(gone.path, words(causes.QUARANTINE, errno.EXDEV))


def refuse_inside(context: Context, side: Side) -> None:
    """Raises Refused for a file that lies in quarantine itself: what is there is no copy to keep."""
    inside = os.path.realpath(os.path.join(context.state_dir, IN_STATE))
    path = os.path.realpath(side.path)
    if IN_ROOT in names_below(side.root, side.path) or path.startswith(os.fsencode(inside) + b"/"):
        raise Refused.about(side.path, "it lies in quarantine; undo what put it there first")


@contextmanager
def place(context: Context, entry: Entry) -> Iterator[int | None]:
    """A descriptor of the folder that this action has put files aside in; None when there is none."""
    with _open(context, entry.place, entry.gone.root, make=False) as base, ExitStack() as stack:
        fd = None
        if base is not None:
            with suppress(FileNotFoundError):
                fd = stack.enter_context(closing_fd(os.open(context.place(entry), _FOLDER, dir_fd=base)))
        yield fd


def path_of(state_dir: str, token: str, entry: Entry) -> bytes:
    """Where a quarantined file is."""
    top = os.path.join(os.fsencode(state_dir), os.fsencode(IN_STATE))
    folder = b"%s-%d" % (token.encode(), entry.id)
    around = top if entry.place == "state" else os.path.join(entry.gone.root, IN_ROOT)
    return os.path.join(around, folder, name_in(entry))


def name_in(entry: Entry) -> bytes:
    """The name of the file in quarantine: hidden, so that no program lists it as a model in a root.

    Earlier versions left it its own name.
    """
    return os.path.basename(entry.gone.path) if entry.aside.startswith(b".lorad-") else entry.aside


def where(entry: Entry, folder: int, place: int | None) -> tuple[int, bytes]:
    """The open folder and the name in it of what an action has put aside. `folder`: that of its own name."""
    if entry.kind.quarantines and place is not None:
        return place, name_in(entry)
    return folder, entry.aside


def clear(context: Context, entry: Entry) -> None:
    """Remove the action's folder if it is there and empty, and the one around it that lies in a root."""
    with suppress(OSError), _open(context, entry.place, entry.gone.root, make=False) as base:
        if base is None:
            return
        with suppress(FileNotFoundError):
            os.rmdir(context.place(entry), dir_fd=base)
        if entry.place == "root":
            os.rmdir(os.path.join(os.path.realpath(entry.gone.root), IN_ROOT))


@contextmanager
def _open(context: Context, where: str, root: bytes, *, make: bool) -> Iterator[int | None]:
    """The folder around all actions' folders: in the state folder, or at the root's top."""
    if not where:
        yield None
        return
    top = os.fsencode(context.state_dir) if where == "state" else root
    name = os.fsencode(IN_STATE) if where == "state" else IN_ROOT
    with ExitStack() as stack:
        fd = None
        try:
            around = stack.enter_context(closing_fd(os.open(os.path.realpath(top), _FOLDER)))
            if make:
                with suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=around)
                    os.fsync(around)
            fd = stack.enter_context(closing_fd(os.open(name, _FOLDER, dir_fd=around)))
            _refuse_strangers(fd, os.path.join(top, name))
        except FileNotFoundError:
            pass
        except OSError as error:
            if make or error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise Refused.about(os.path.join(top, name), no_quarantine(error.errno or 0)) from error
            raise
        yield fd


def _refuse_strangers(fd: int, path: bytes) -> None:
    status = os.fstat(fd)
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o022:
        raise Refused.about(path, causes.STRANGE_QUARANTINE)


def _same_mount(one: int, other: int) -> bool:
    """Whether a rename can lead from one folder to the other: two mounts of one file system will not do."""
    return os.fstat(one).st_dev == os.fstat(other).st_dev and _mount(one) == _mount(other)


def _mount(fd: int) -> bytes:
    with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
        return next(line for line in file if line.startswith(b"mnt_id:"))
