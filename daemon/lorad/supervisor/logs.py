"""The log: one line an event on standard error, in the form that its reader wants.

`json` writes an object a line with `time`, `level` and `event`. `console` writes for people; where standard
error is systemd's journal, which notes the time by itself, each line begins with its priority instead
(sd-daemon(3)), so that `journalctl -p warning` works.

Whatever is logged, a line stays one line of printable UTF-8: file names are made by others. What other
libraries say by `logging`, warnings, and errors that nobody caught come out the same way.

structlog's processors and renderers do the work. Ours are the cleaning and bounding of values and the journal's
priorities, which structlog does not have; `_Lines`, as structlog's loggers raise where a line cannot be written;
and a handler for `logging`, as `ProcessorFormatter` leaves the writing to handlers that may split a line.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
import traceback
import types
from typing import Any, TextIO

import msgspec
import structlog
from structlog.dev import Column, ConsoleRenderer, KeyValueColumnFormatter
from structlog.processors import ExceptionRenderer, JSONRenderer, TimeStamper, add_log_level
from structlog.typing import EventDict, ExcInfo, FilteringBoundLogger, Processor, WrappedLogger

from loracore.paths import shown
from loracore.time import now_text

FORMATS = ("json", "console")
#: More of a text than this is not logged.
_TEXT_CHARS = 8192
#: Deeper lists and mappings are logged as text.
_DEPTH = 4
#: What `ConsoleRenderer` would give lines of their own.
_LINES = {"stack": "stack_", "exception": "exception_"}
#: sd-daemon(3).
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
_COLOURS = {"debug": "\x1b[2m", "warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[1;31m"}
_PLAIN = "\x1b[0m"


def set_up(form: str | None = None, *, level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Log in this form (default `console`) to the descriptor of `stream` (default standard error) from now on.

    May be called again; loggers that exist follow.
    """
    stream = stream or sys.stderr
    # Python has no standard error where it was closed; descriptor 2 may be anything then.
    fd = stream.fileno() if stream is not None else -1
    if form == "json":
        rendered: list[Processor] = [_stamped, JSONRenderer(_encoded)]
    elif _is_journal(fd):
        rendered = [_prioritised, _console(colours=False)]
    else:
        colours = fd >= 0 and os.isatty(fd) and "NO_COLOR" not in os.environ
        rendered = [TimeStamper("%H:%M:%S", utc=False, key="time"), _console(colours=colours)]
    structlog.configure(
        processors=[add_log_level, ExceptionRenderer(_described), _clean, *rendered],
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


def _described(exc_info: ExcInfo) -> dict[str, str]:
    kind, error, _ = exc_info
    return {"error": f"{kind.__name__}: {error}", "traceback": "".join(traceback.format_exception(error))}


def _clean(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """All values printable and bounded, level and event first; an exception becomes `error` and `traceback`."""
    event = {"level": event["level"], "event": event.get("event", ""), **event}
    if isinstance(event.get("exception"), dict):
        for key, value in event.pop("exception").items():
            event.setdefault(key, value)
    return {_LINES.get(key) or _text(str(key)): _value(value) for key, value in event.items()}


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


def _stamped(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    return {"time": now_text(), **event}


def _encoded(event: EventDict, **_: Any) -> str:
    return msgspec.json.encode(event).decode()


def _prioritised(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    event["event"] = f"<{_PRIORITIES[event.pop('level')]}>{event['event']}"
    return event


def _console(*, colours: bool) -> ConsoleRenderer:
    """`12:00:01 warning child restarted name=loader-0`; without time and level where an event has none."""

    def level(key: str, value: object) -> str:
        colour = _COLOURS.get(str(value), "") if colours else ""
        return f"{colour}{value:<7}{_PLAIN if colour else ''}"

    whole = KeyValueColumnFormatter(None, "", "", str)
    named = KeyValueColumnFormatter("", "", "", _quoted)
    columns = [Column("", named), Column("time", whole), Column("level", level), Column("event", whole)]
    return ConsoleRenderer(columns=columns, sort_keys=False)


def _quoted(value: object) -> str:
    """A value, in quotes where one would not see its ends."""
    if not isinstance(value, str):
        return msgspec.json.encode(value).decode()
    if value and not any(char in ' "=' for char in value):
        return value
    return '"' + value.replace('"', '\\"') + '"'


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
            # As handlers of `logging` do: a log that fails ends nothing.
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
