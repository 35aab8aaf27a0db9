"""The error tree, and what an installation lacks. Each message names the file (or option) and says what to do.

LoraError
├── FileError                a file that cannot be used; carries its path and the reason
│   ├── UnknownFormat        no reader knows it: the file is ignored, not failed
│   ├── MalformedFile        the bytes are not what the format promises
│   ├── UnsafePickle         the pickle asks for more than weights
│   ├── ChangedFile          it was not the same file before, while and after it was read
│   └── NeedsBase            a module of it means nothing without the base model's weight
├── StateError               the state folder cannot be used
│   └── StateLocked          another lorad works on it
├── UsageError               a wrong option or argument
│   ├── ConfigError          a wrong configuration; carries every problem found in it
│   ├── NoAdapterError       no adapter of a library is meant by a name
│   └── AmbiguousError       files of different functions are meant by a name; carries their paths
├── MissingPackage           an optional package is not installed; names the command that does it
├── JobFailed                a job in the daemon did not come to its end; carries a code
├── NoDaemonError            no daemon can be reached
├── TimedOutError            the daemon did not answer in time
└── RefusedError             the daemon refused; carries its code
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error, and what it came from, each once: a chain of causes may lead back into itself."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__


class LoraError(Exception):
    """Anything that lorad reports to a person in one line. `exit_code` is that of SPEC section 4."""

    exit_code: int = 2


class FileError(LoraError):
    """A file that cannot be used. `reason` stands alone in `processed.json`; `str()` names the file too."""

    def __init__(self, reason: str, path: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.path = path

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}" if self.path else self.reason


class UnknownFormat(FileError):
    """No reader knows this file, or it holds no layer."""


class MalformedFile(FileError):
    """The bytes are not what the format promises."""


class UnsafePickle(FileError):
    """The pickle asks for something that is not weights, and was not obeyed."""


class ChangedFile(FileError):
    """The file was not the same before, while and after it was read."""


class NeedsBase(FileError):
    """A module whose ΔW cannot be told without the base model's weight."""


class StateError(LoraError):
    """The state folder cannot be used."""


class StateLocked(StateError):
    """Another lorad works on this state folder."""


class UsageError(LoraError):
    """A wrong option or argument."""


class ConfigError(UsageError):
    """A wrong configuration. `str()` is one line for each of its `problems`, each with the file's name."""

    def __init__(self, path: str, problems: Sequence[str]) -> None:
        super().__init__("\n".join(f"{path}: {problem}" for problem in problems))
        self.path = path
        self.problems = tuple(problems)


class NoAdapterError(UsageError):
    """No adapter of a library is meant by this name, or none for this base model."""


class AmbiguousError(UsageError):
    """Files of different functions are meant by one name: `paths`. `str()` has a line for each, of 20 at most."""

    def __init__(self, text: str, paths: Sequence[str]) -> None:
        more = [f"and {len(paths) - 20:,} more"] if len(paths) > 20 else []
        super().__init__("\n  ".join([text, *paths[:20], *more]))
        self.paths = tuple(paths)


class MissingPackage(LoraError):
    """An optional package is not installed. `job` is what needs it."""

    def __init__(self, text: str, job: str = "") -> None:
        super().__init__(text)
        self.job = job


class JobFailed(LoraError):
    """A job in the daemon did not come to its end. `code`: as in `control.JobState`, or `cancelled`."""

    def __init__(self, text: str, code: str = "") -> None:
        super().__init__(text)
        self.code = code
        if code not in ("input", "unreadable", "missing"):
            self.exit_code = 5


class NoDaemonError(LoraError):
    """No daemon can be reached, or it went away."""

    exit_code = 3


class TimedOutError(LoraError):
    """The daemon did not answer in time."""

    exit_code = 4


class RefusedError(LoraError):
    """The daemon refused a request. `code` is one of those of `loracore.control.Refusal`."""

    def __init__(self, text: str, code: str) -> None:
        super().__init__(text)
        self.code = code
        # What is not there, or cannot be meant, was asked for wrongly.
        self.exit_code = 2 if code in ("not-found", "malformed") else 5


#: By the extra that brings them, packages without which nothing of it works.
_NEEDS = {"daemon": ("blake3", "prometheus_client", "psutil", "structlog", "watchdog")}


def need(extra: str, what: str) -> None:
    """Raises MissingPackage where `what` cannot be done, since an extra is not installed."""
    missing = [name for name in _NEEDS[extra] if find_spec(name) is None]
    if missing:
        raise MissingPackage(f"{what} needs {', '.join(missing)}: pip install 'lorad[{extra}]'", what)
