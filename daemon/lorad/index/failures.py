"""Files that failed, and mistakes in lorad that a file brings up: they cost that file, and nothing else."""

from __future__ import annotations

import sqlite3
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from loracore.control import Event, FileFailedEvent
from loracore.errors import StateError
from loracore.identity import UNKNOWN, Identity
from loracore.paths import shown
from lorad.index.known_files import Files
from lorad.index.names import Names
from lorad.index.records import File
from lorad.library import Instruction, Library, Status
from lorad.pipeline.protocol import OUR_MISTAKE
from lorad.pipeline.restarts import PipelineBrokenError
from lorad.watch import timed_calls


class Failures:
    """`mistake(path, traceback)` hears of files at which lorad failed by a mistake of its own."""

    def __init__(
        self,
        files: Files,
        library: Library,
        names: Names,
        *,
        do: Callable[[list[Instruction]], None],
        tell: Callable[[Event], None],
        mistake: Callable[[bytes, str], None] = lambda path, traceback: None,
    ) -> None:
        self._files = files
        self._library = library
        self._names = names
        self._do = do
        self._tell = tell
        self.mistake = mistake

    @contextmanager
    def about(self, path: bytes) -> Iterator[None]:
        """Set a file aside as failed where handling it, inside, meets a mistake in lorad."""
        try:
            yield
        except timed_calls.NoAnswer:
            # It is looked at again when its file system answers.
            return
        except (sqlite3.Error, PipelineBrokenError, StateError):
            # Of the catalogue and the pipeline, not of this file.
            raise
        except Exception as error:
            # A mistake that one file brings up is that file's.
            error.add_note(f"while it handled {shown(path)}")
            self.set_aside(path, traceback.format_exc())

    def set_aside(self, path: bytes, why: str) -> None:
        """A mistake in lorad came up with this file: it is failed, until it is looked at again."""
        self.mistake(path, why)
        identity = UNKNOWN
        with suppress(OSError):
            identity = Identity.of(timed_calls.stat(path, follow_symlinks=False))
        known = self._files.by_path.get(path)
        if (hidden := self._files.hidden.get(path)) is not None:
            hidden.error = OUR_MISTAKE
            self._do(self._library.failed(hidden.id))
            return
        was = self._files.twins.weights_of(known) if known is not None else None
        if known is not None and not known.passed_over:
            for name in list(known.names):
                self._names.drop(name)
        elif known is not None:
            self._names.drop(path)
        failed = self._files.pass_over(identity, Status.FAILED, OUR_MISTAKE)
        self._files.name(failed, path)
        # It is as it was, for all that is known.
        self._files.twins.may_be(failed, was)
        self._tell(FileFailedEvent(path, OUR_MISTAKE))

    def fail(self, file: File, reason: str) -> None:
        """A file cannot be read."""
        file.error = reason
        self._do(self._library.failed(file.id))
        if file.names:
            self._tell(FileFailedEvent(file.names[0], reason))
