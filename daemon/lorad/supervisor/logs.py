"""The log: one line an event on standard error, in the form that its reader wants.

`json` writes an object a line with `time`, `level` and `event`. `console` writes for people; where standard
error is systemd's journal, which notes the time by itself, each line begins with its priority instead
(sd-daemon(3)), so that `journalctl -p warning` works.

Whatever is logged, a line stays one line of printable UTF-8: file names are made by others. What other
libraries say by `logging`, warnings, and errors that nobody caught come out the same way.
"""

from __future__ import annotations

import datetime
import faulthandler
import logging
import os
import sys
import threading
import traceback
import types
from collections.abc import Callable
from typing import Any, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from loracore.paths import shown
from loracore.time import now_text

FORMATS = ("json", "console")
#: More of a text than this is not logged.
_TEXT_CHARS = 8192
#: Deeper lists and mappings are logged as text.
_DEPTH = 4
#: sd-daemon(3).
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "exception": 3, "critical": 2}
_COLOURS = {"debug": "\x1b[2m", "warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[1;31m"}
_PLAIN = "\x1b[0m"

Render = Callable[[str, EventDict], str]


def set_up(form: str | None = None, *, level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Log in this form (default `console`) to the descriptor of `stream` (default standard error) from now on.

    May be called again; loggers that exist follow.
    """
    stream = stream or sys.stderr
    # Python has no standard error where it was closed; descriptor 2 may be anything then.
    fd = stream.fileno() if stream is not None else -1
    if form == "json":
        render = _json
    elif _is_journal(fd):
        render = _journal
    else:
        render = _Console(colours=fd >= 0 and os.isatty(fd) and "NO_COLOR" not in os.environ)
    structlog.configure(
        processors=[_clean, _Rendered(render)],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _Lines(fd),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[_FromLogging()], force=True)
    logging.captureWarnings(True)
    if fd >= 0:
        # Where a library crashes the process, its threads say what they were at.
        faulthandler.enable(fd)
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread


def get_logger(**context: Any) -> FilteringBoundLogger:
    """A logger that adds `context` to each event: `get_logger(child="loader-0").warning("restarted", deaths=2)`.

    An event is a short fixed text; what varies goes into named values. Paths may be bytes.
    """
    logger: FilteringBoundLogger = structlog.get_logger(**context)
    return logger


class _Lines:
    """Writes whole lines by one system call each, so that children that share the descriptor do not mix in.

    A log that cannot be written (a closed pipe, a full disk) is lost; the daemon goes on.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def msg(self, line: str) -> None:
        content = f"{line}\n".encode("utf-8", "backslashreplace")
        try:
            while content:
                content = content[os.write(self._fd, content) :]
        except OSError:
            pass

    debug = info = warning = warn = error = err = exception = critical = fatal = log = msg


class _Rendered:
    """The last processor: the event as the text of a line."""

    def __init__(self, render: Render) -> None:
        self._render = render

    def __call__(self, _: WrappedLogger, level: str, event: EventDict) -> str:
        return self._render("error" if level == "exception" else level, event)


def _clean(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """All values printable and bounded; `exc_info` becomes the texts `error` and `traceback`."""
    error = _exception(event.pop("exc_info", None))
    if error is not None:
        event.setdefault("error", f"{type(error).__name__}: {error}")
        event["traceback"] = "".join(traceback.format_exception(error))
    return {_text(str(key)): _value(value) for key, value in event.items()}


def _exception(exc_info: Any) -> BaseException | None:
    if isinstance(exc_info, BaseException):
        return exc_info
    if isinstance(exc_info, tuple):
        return exc_info[1] if isinstance(exc_info[1], BaseException) else None
    return sys.exc_info()[1] if exc_info else None


def _value(value: Any, depth: int = _DEPTH) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if depth and isinstance(value, dict):
        return {_text(str(key)): _value(each, depth - 1) for key, each in value.items()}
    if depth and isinstance(value, list | tuple | set | frozenset):
        return [_value(each, depth - 1) for each in value]
    return _text(value if isinstance(value, str | bytes) else str(value))


def _text(value: str | bytes) -> str:
    value = value[:_TEXT_CHARS]
    try:
        return shown(value)
    except UnicodeEncodeError:
        # Half of a surrogate pair, which no file name decodes to.
        assert isinstance(value, str)
        return shown(value.encode("utf-8", "backslashreplace"))


def _json(level: str, event: EventDict) -> str:
    text = event.pop("event", "")
    first = {"time": now_text(), "level": level}
    return msgspec.json.encode({**first, "event": text, **event}).decode()


def _journal(level: str, event: EventDict) -> str:
    return f"<{_PRIORITIES.get(level, 6)}>{_sentence(event)}"


class _Console:
    """`12:00:01 warning child restarted name=loader-0`."""

    def __init__(self, *, colours: bool) -> None:
        self._colours = colours

    def __call__(self, level: str, event: EventDict) -> str:
        colour = _COLOURS.get(level, "") if self._colours else ""
        time = datetime.datetime.now(datetime.UTC).astimezone().strftime("%H:%M:%S")
        return f"{time} {colour}{level:<8}{_sentence(event)}{_PLAIN if colour else ''}"


def _sentence(event: EventDict) -> str:
    """The event, then its values as `name=value`, in quotes where one would not see their ends."""
    words = [str(event.pop("event", ""))]
    for name, value in event.items():
        text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        if isinstance(value, str) and (not text or any(char in ' "=' for char in text)):
            text = '"' + text.replace('"', '\\"') + '"'
        words.append(f"{name}={text}")
    return " ".join(words)


def _is_journal(fd: int) -> bool:
    """Whether systemd connected this descriptor to its journal: JOURNAL_STREAM names its device and inode."""
    try:
        found = os.fstat(fd)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class _FromLogging(logging.Handler):
    """What libraries say by `logging`, in our form."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            level = min(logging.CRITICAL, max(logging.DEBUG, record.levelno // 10 * 10))
            get_logger().log(level, record.getMessage(), source=record.name, exc_info=record.exc_info)
        except Exception:
            self.handleError(record)


def _uncaught(kind: type[BaseException], error: BaseException, _: types.TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    get_logger().critical("ended by an error that nobody expected", exc_info=error)


def _uncaught_in_thread(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_value is not None and not issubclass(arguments.exc_type, SystemExit):
        thread = arguments.thread.name if arguments.thread else "?"
        get_logger(thread=thread).critical(
            "a thread ended by an error that nobody expected", exc_info=arguments.exc_value
        )
