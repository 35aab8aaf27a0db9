"""Adapters that were made PEFT folders, each in a folder of the cache that is there whole or not at all.

A folder's name is a hash of the source's SHA-256, so of its weights and its header as they are: a source that
changes is converted anew, and one that is moved is not. The daemon's job `convert` writes it. It gets its name
when all is on the disk and the job says that it read a file of that SHA-256. Nothing in the cache is ever changed,
and it may be removed at any time.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator

import msgspec

from loracore import __version__
from loracore.control import GetStatus, Show, Status
from loracore.control import Shown as ShownFile
from loracore.errors import ChangedFile, FileError, JobFailed, UsageError
from loracore.jobs import convert, hashes
from loracore.jobs.change import Changed, Writing
from loracore.jobs.convert import ConvertParameters
from loracore.paths import AnyPath, absolute, default_cache_dir, shown
from loracore.whole import regular
from loractl.adapter_config import is_uniform, read_config
from loractl.job_requests import run
from loractl.steps import Steps, ask

_ADAPTER, _NOTE, _WEIGHTS = "adapter", "lorad.json", "adapter_model.safetensors"
#: Held in common by those that make a folder, and alone by the one that gives it its name.
_LOCK, _NAMING = ".lock", ".naming"
_MAKING = ".making-"
#: A longer note is not ours.
_MAX_NOTE = 1 << 16


class _Note(msgspec.Struct, frozen=True):
    """What a folder was made of, and how many bytes its weights have."""

    source: str
    sha256: str
    bytes: int


_NOTES = msgspec.json.Decoder(_Note)


def converted(
    path: bytes, check_unchanged: Callable[[], None], cache: AnyPath | None, timeout: float | None
) -> Steps[str]:
    """The PEFT folder of a LoRA file, made if it is not there. Raises FileError and JobFailed.

    `check_unchanged` raises where the file is not the one that is meant.
    """
    root = os.fsdecode(absolute(cache)) if cache is not None else os.path.join(default_cache_dir(), "adapters")
    sha256 = yield from _sha256(path, timeout)
    check_unchanged()
    place = os.path.join(root, hashlib.sha256(f"{__version__}\0{sha256}".encode()).hexdigest())
    if not _is_whole(place, sha256):
        yield from _check_apart(root, timeout)
        with _making(root) as made:
            yield from _convert(path, sha256, made, timeout)
            check_unchanged()
            _name(made, place, sha256)
    return os.path.join(place, _ADAPTER)


def _check_apart(root: str, timeout: float | None) -> Steps[None]:
    """Raises UsageError for a cache in a watched folder: what is in it would be files of the library again."""
    place = os.path.realpath(root)
    status = yield from ask(GetStatus(), Status, timeout)
    for each in status.roots:
        watched = os.path.realpath(os.fsdecode(each.path))
        if os.path.commonpath([place, watched]) != watched:
            continue
        # lorad leaves names out that begin so.
        if not any(part.startswith(".lorad-") for part in os.path.relpath(place, watched).split("/")):
            folder = shown(os.path.join(watched, ".lorad-adapters"))
            raise UsageError(f"{shown(root)}: the cache for adapters is in a watched folder; take {folder}")


def _sha256(path: bytes, timeout: float | None) -> Steps[str]:
    """Of the file, as the daemon knows it or computes it now."""
    known = (yield from ask(Show(path), ShownFile, timeout)).hashes.get("sha256")
    if known:
        return known
    wanted = hashes.HashesParameters(path)
    return (yield from run(hashes.SPEC, wanted, f"resolve {shown(path)}", None, timeout)).sha256


def _convert(path: bytes, sha256: str, made: str, timeout: float | None) -> Steps[None]:
    """Have the daemon write the folder. Its scale goes into the factors where modules have different ones."""
    adapter = os.path.join(made, _ADAPTER)
    changed = yield from _job(path, adapter, timeout, fold=False)
    if changed.inputs[0].sha256 == sha256 and not is_uniform(_config(adapter)):
        changed = yield from _job(path, adapter, timeout, fold=True)
    name = os.fsdecode(path)
    if changed.inputs[0].sha256 != sha256:
        raise ChangedFile("it was changed while it was converted; ask again", name)
    if changed.warnings:
        remedy = "look at it, and convert it yourself: loractl convert FILE --to peft -o FOLDER"
        raise FileError(f"it may not be what it seems: {changed.warnings[0]}; {remedy}", name)
    try:
        size = os.stat(os.path.join(adapter, _WEIGHTS)).st_size
    except OSError as error:
        raise FileError(f"the daemon wrote it where it is not seen here: {error.strerror}", adapter) from error
    note = _Note(os.fsencode(path).decode("utf-8", "backslashreplace"), sha256, size)
    with open(os.path.join(made, _NOTE), "wb") as file:
        file.write(msgspec.json.encode(note))
        file.flush()
        os.fsync(file.fileno())


def _job(path: bytes, adapter: str, timeout: float | None, *, fold: bool) -> Steps[Changed]:
    wanted = ConvertParameters(path, Writing(os.fsencode(adapter), force=fold), to="peft", fold=fold)
    try:
        return (yield from run(convert.SPEC, wanted, f"resolve {shown(path)}", None, timeout))
    except JobFailed as error:
        root = shown(os.path.dirname(os.path.dirname(adapter)))
        text = f"{shown(path)}: the daemon cannot make a PEFT folder of it in the cache {root}: {error}"
        raise JobFailed(text, error.code) from error


def _config(adapter: str) -> dict[str, object]:
    try:
        return read_config(os.fsencode(adapter))
    except FileError as error:
        raise FileError(f"the daemon wrote it where it is not seen here: {error.reason}", adapter) from error


def _is_whole(place: str, sha256: str) -> bool:
    """Whether a folder of the cache has all that was written."""
    try:
        with open(os.path.join(place, _NOTE), "rb", opener=regular) as file:
            note = _NOTES.decode(file.read(_MAX_NOTE))
        size = os.stat(os.path.join(place, _ADAPTER, _WEIGHTS)).st_size
        read_config(os.fsencode(os.path.join(place, _ADAPTER)))
    except (OSError, msgspec.MsgspecError, FileError):
        return False
    return (note.sha256, note.bytes) == (sha256, size)


@contextlib.contextmanager
def _making(root: str) -> Iterator[str]:
    """A folder of the cache that is removed if it gets no name. Raises FileError.

    Its lock is that of a process (flock(2)): where nobody holds it, what is left is a killed one's.
    """
    lock, made = _locked(root), ""
    try:
        made = tempfile.mkdtemp(prefix=_MAKING, dir=root)
        os.chmod(made, 0o755)
        yield made
    finally:
        if made:
            shutil.rmtree(made, ignore_errors=True)
        os.close(lock)


def _locked(root: str) -> int:
    """The cache's lock, held in common; what killed ones left is removed before. Raises FileError."""
    try:
        os.makedirs(root, exist_ok=True)
        lock = _opened(os.path.join(root, _LOCK))
    except OSError as error:
        raise FileError(f"the cache for adapters cannot be used: {error.strerror}", root) from error
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for name in os.listdir(root):
            if name.startswith(_MAKING):
                shutil.rmtree(os.path.join(root, name), ignore_errors=True)
    fcntl.flock(lock, fcntl.LOCK_SH)
    return lock


def _opened(lock: str) -> int:
    return os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)


def _name(made: str, place: str, sha256: str) -> None:
    """Give a finished folder its name. One that is there already is as good, if it is whole."""
    root = os.path.dirname(place)
    try:
        _sync(made)
        naming = _opened(os.path.join(root, _NAMING))
        try:
            fcntl.flock(naming, fcntl.LOCK_EX)
            if _is_whole(place, sha256):
                return
            if os.path.lexists(place):
                os.rename(place, f"{made}-before")
            os.rename(made, place)
            _sync(root)
        finally:
            os.close(naming)
        shutil.rmtree(f"{made}-before", ignore_errors=True)
    except OSError as error:
        raise FileError(f"the cache for adapters cannot be used: {error.strerror}", place) from error


def _sync(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
