"""What the `adapter_config.json` beside each name says that changes what its file does, read from the disk.

Read when a file's header becomes known, when a known file gets a name, when a sweep meets a known name, and when
something happened to the configuration itself. What counts of it is said in `loracore.adapter.function`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress

from loracore.adapter.function import config_function, config_text
from loracore.tensorfile.peft import CONFIG
from lorad.index.known_files import Files
from lorad.index.records import File
from lorad.watch import timed_calls


class Configs:
    """`layers` gives the names of a layout's tensors; `configured` hears of what was found beside a file."""

    def __init__(
        self,
        files: Files,
        layers: Callable[[int], Sequence[str]],
        configured: Callable[[File, bytes, bytes | None], None],
    ) -> None:
        self._files = files
        self._layers = layers
        self._configured = configured
        #: The folder that was read last, and what was found: many names of one folder come after each other.
        self._read: tuple[bytes, bytes | None] | None = None

    def look(self, path: bytes) -> None:
        """Keep what is beside a name, if its file's layout is known."""
        file = self._files.by_path.get(path)
        if file is None or file.layout is None:
            return
        # What a folder that cannot be opened now says is not known.
        with suppress(OSError):
            text = self._text(os.path.dirname(path))
            said = None if text is None else config_function(text, self._layers(file.layout))
            self._files.configure(path, said)
            self._configured(file, path, text)

    def touched(self, path: bytes) -> None:
        """Something happened to this name: if it is a configuration, look at all names beside it."""
        folder, name = os.path.split(path)
        if name != CONFIG:
            return
        self.forget()
        with suppress(OSError):
            names: list[bytes] = timed_calls.do(folder, os.listdir, folder)
            for each in names:
                self.look(os.path.join(folder, each))

    def forget(self) -> None:
        """What was read may have changed since."""
        self._read = None

    def _text(self, folder: bytes) -> bytes | None:
        if self._read is None or self._read[0] != folder:
            self._read = (folder, timed_calls.do(folder, _text_in, folder))
        return self._read[1]


def _text_in(folder: bytes) -> bytes | None:
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return config_text(fd)
    finally:
        os.close(fd)
