"""The private daemon that `loractl scan` starts: one pass over the folders, then it stops.

`python -m lorad.scan STATE_DIR LOADERS HASHER FOLLOW DIR…` writes reports (`loracore.messages`) to its
standard output, and ends when its standard input is closed: so it ends with the client, however that ended.
LOADERS may be 0 (as many as fit the cores), FOLLOW (of symbolic links) is 0 or 1.

What is imported here delays the start of the children, so it is little; `lorad.scan.onepass` does the work.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import BinaryIO, NamedTuple, NoReturn

from loracore.errors import LoraError, UsageError
from lorad.pipeline.launch import Crew
from lorad.state_folder import locked

_REFUSED = 5
_BAD_INPUT = 2


class Options(NamedTuple):
    """A scan's order. Paths are absolute; roots are real."""

    state_dir: str
    loaders: int
    hasher: str
    follow: bool
    roots: list[bytes]


def main() -> NoReturn:
    reports = os.fdopen(os.dup(1), "wb")
    # Whatever prints by accident must not get between the reports.
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        scan(_options(sys.argv[1:]), reports)
    except BrokenPipeError:
        # The client is gone, and with it everybody who wanted to know.
        os.dup2(os.open(os.devnull, os.O_WRONLY), reports.fileno())
    except UsageError as error:
        _refuse(reports, error, _BAD_INPUT)
    except (LoraError, OSError) as error:
        _refuse(reports, error, _REFUSED)
    reports.close()
    # All is closed and written; taking the interpreter apart would only keep the client waiting.
    os._exit(0)


def scan(options: Options, reports: BinaryIO) -> None:
    """Scan the folders, reporting as it goes. What was learnt is in the state folder, also after a kill."""
    started = time.monotonic()
    with locked(options.state_dir):
        crew = Crew(
            options.state_dir, options.state_dir, loaders=options.loaders, hasher=options.hasher, facts=False
        )
        from lorad.scan.onepass import one_pass  # noqa: PLC0415 - the children start meanwhile

        one_pass(options, crew, reports, started)


def _root(folder: str) -> bytes:
    path = os.path.abspath(folder) if folder else ""
    if not os.path.isdir(path):
        raise UsageError(
            f"{folder or 'an empty name'}: {'not a folder' if os.path.exists(path) else 'no such folder'}"
        )
    return os.fsencode(os.path.realpath(path))


def _options(arguments: list[str]) -> Options:
    """The order, checked. Raises UsageError."""
    state_dir, loaders, hasher, follow, *folders = arguments
    roots = [_root(folder) for folder in folders]
    if not state_dir:
        raise UsageError("--state-dir is empty; name a folder")
    state_dir = os.path.abspath(state_dir)
    if os.fsencode(os.path.realpath(state_dir)) in roots:
        raise UsageError(f"{state_dir}: the state folder cannot be the library itself; give another --state-dir")
    count = int(loaders) or min(4, max(1, (os.cpu_count() or 1) - 1))
    return Options(state_dir, count, hasher, follow == "1", roots)


def _refuse(reports: BinaryIO, error: Exception, exit_code: int) -> None:
    from loracore.framing import write  # noqa: PLC0415
    from loracore.messages import Refused  # noqa: PLC0415 - see the module's docstring

    # A name in it may be anything, a message is UTF-8.
    text = os.fsencode(str(error)).decode("utf-8", "backslashreplace")
    write(reports, Refused(text, exit_code))


def _terminate(signum: int, frame: object) -> NoReturn:
    sys.exit(128 + signum)


if __name__ == "__main__":
    main()
