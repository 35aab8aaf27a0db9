"""The private daemon that `loractl scan` starts: one pass over the folders, then it stops.

`python -m lorad.scan --state-dir D [--loaders N] [--hasher auto|cpu] [--follow-symlinks] DIR…` writes
reports (`loracore.messages`) to its standard output, and ends when its standard input is closed: so it ends
with the client, however that ended.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import select
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator
from typing import BinaryIO, NoReturn

from loracore.errors import LoraError, StateError, StateLocked, UsageError
from loracore.messages import FileFailed, Note, Refused, Summary
from loracore.paths import CATALOGUE
from loracore.wire import write_report
from lorad.catalog import Catalog
from lorad.engine import Engine
from lorad.pipeline.machinery import Machinery

#: Seconds between two reports of progress.
_REPORT = 0.1
_REFUSED = 5
_BAD_INPUT = 2


def main() -> None:
    options = _options(sys.argv[1:])
    with os.fdopen(os.dup(1), "wb") as reports:
        # Whatever prints by accident must not get between the reports.
        os.dup2(2, 1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, _terminate)
        try:
            scan(options, reports)
        except BrokenPipeError:
            # The client is gone, and with it everybody who wanted to know.
            os.dup2(os.open(os.devnull, os.O_WRONLY), reports.fileno())
        except UsageError as error:
            write_report(reports, Refused(_plain(error), _BAD_INPUT))
        except sqlite3.Error as error:
            where = os.path.join(options.state_dir, CATALOGUE)
            reason = f"{where}: {error}; make room, or move it away to start afresh, or give another --state-dir"
            write_report(reports, Refused(_plain(reason), _REFUSED))
        except (LoraError, OSError) as error:
            write_report(reports, Refused(_plain(error), _REFUSED))


def scan(options: argparse.Namespace, reports: BinaryIO) -> None:
    """Scan the folders, reporting as it goes. What was learnt is in the state folder, also after a kill."""
    started = time.monotonic()
    roots = [_root(folder) for folder in options.folders]
    if not options.state_dir:
        raise UsageError("--state-dir is empty; name a folder")
    state_dir = os.path.abspath(options.state_dir)
    if os.fsencode(os.path.realpath(state_dir)) in roots:
        raise UsageError(f"{state_dir}: the state folder cannot be the library itself; give another --state-dir")
    with (
        state_folder(state_dir) as runtime_dir,
        _machinery(options, runtime_dir, state_dir, reports) as machinery,
    ):
        catalog = Catalog(state_dir)
        engine = Engine(
            catalog,
            machinery,
            roots,
            follow=options.follow_symlinks,
            state_dir=os.fsencode(state_dir),
            failed=lambda path, reason: write_report(reports, FileFailed(path, reason)),
        )
        next_report = 0.0
        while not engine.finished:
            engine.step(_REPORT)
            if engine.trouble:
                raise StateError(engine.trouble)
            if time.monotonic() >= next_report:
                write_report(reports, engine.progress())
                next_report = time.monotonic() + _REPORT
                if _client_gone():
                    break
        else:
            catalog.forget_unused()
            write_report(reports, engine.progress())
            write_report(reports, _summary(engine, catalog, state_dir, time.monotonic() - started))
        catalog.close()


def _summary(engine: Engine, catalog: Catalog, state_dir: str, seconds: float) -> Summary:
    try:
        with open(os.path.join(state_dir, "duplicates.json"), encoding="utf-8") as file:
            duplicates = json.load(file)
    except ValueError as error:
        raise StateError(f"{state_dir}/duplicates.json: not as it was written; remove it, scan again") from error
    progress = engine.progress()
    return Summary(
        files=len(engine.files.by_path),
        failed=progress.failed,
        groups=engine.groups,
        duplicate_sets=len(duplicates["duplicates"]),
        wasted_bytes=duplicates["wasted_bytes"],
        bytes_total=progress.bytes_total,
        bytes_read=progress.bytes_read,
        seconds=round(seconds, 6),
        generation=catalog.generation,
    )


@contextlib.contextmanager
def state_folder(path: str) -> Iterator[str]:
    """The state folder, made if need be and locked against a second lorad; gives its runtime folder.

    The lock goes with the process that holds it. Raises StateLocked and StateError.
    """
    runtime_dir = os.path.join(path, "run")
    try:
        os.makedirs(path, exist_ok=True)
        os.makedirs(runtime_dir, mode=0o700, exist_ok=True)
        lock = os.open(os.path.join(path, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StateError(f"{path}: {(error.strerror or str(error)).lower()}; give another --state-dir") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise StateLocked(f"{path}: another lorad works on it; wait for it or give another --state-dir") from error
    try:
        yield runtime_dir
    finally:
        os.close(lock)


@contextlib.contextmanager
def _machinery(
    options: argparse.Namespace, runtime_dir: str, state_dir: str, reports: BinaryIO
) -> Iterator[Machinery]:
    def told(name: str, reason: str) -> None:
        write_report(reports, Note(f"the {name} process was {reason} and is started again"))

    machinery = Machinery(runtime_dir, state_dir, loaders=options.loaders, hasher=options.hasher, told=told)
    try:
        yield machinery
    finally:
        machinery.stop()


def _root(folder: str) -> bytes:
    path = os.path.abspath(folder) if folder else ""
    if not os.path.isdir(path):
        raise UsageError(
            f"{folder or 'an empty name'}: {'not a folder' if os.path.exists(path) else 'no such folder'}"
        )
    return os.fsencode(os.path.realpath(path))


def _plain(message: object) -> str:
    """A message without what is not UTF-8: a name in it may be anything."""
    return os.fsencode(str(message)).decode("utf-8", "backslashreplace")


def _client_gone() -> bool:
    """Whether standard input was closed. Nothing is ever sent on it."""
    readable, _, _ = select.select([0], [], [], 0)
    return bool(readable) and not os.read(0, 1)


def _terminate(signum: int, frame: object) -> NoReturn:
    sys.exit(128 + signum)


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m lorad.scan")
    parser.add_argument("--state-dir", required=True)
    parser.add_argument("--loaders", type=int, default=0)
    parser.add_argument("--hasher", choices=["auto", "cpu"], default="auto")
    parser.add_argument("--follow-symlinks", action="store_true")
    parser.add_argument("folders", nargs="+")
    options = parser.parse_args(arguments)
    options.loaders = options.loaders or min(4, max(1, (os.cpu_count() or 1) - 1))
    return options


if __name__ == "__main__":
    main()
