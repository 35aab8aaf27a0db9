"""What the `adapter_config.json` beside each name says that changes what its file does, read from the disk.

What it says besides, and the model card, are read for the facts of the file.

Read when a file's header becomes known, when a known file gets a name, when a sweep meets a known name, and when
something happened to the configuration itself. What counts of it is said in `loracore.adapter.function`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress

from loracore.adapter.card import CARD, card_text, has_card
from loracore.adapter.function import config_function, config_text
from loracore.tensorfile.peft import CONFIG
from lorad.index.known_files import Files
from lorad.index.records import File
from lorad.watch import timed_calls


class Configs:
    """`layers` gives the names of a layout's tensors; `configured` hears of what was found beside a file.

    That is the configuration, and the model card where a file of this name has one: facts go by both.
    """

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
        self._read: tuple[bytes, bytes | None, bytes | None] | None = None

    def look(self, path: bytes) -> None:
        """Keep what is beside a name, if its file's layout is known."""
        file = self._files.by_path.get(path)
        if file is None or file.layout is None:
            return
        # What a folder that cannot be opened now says is not known.
        with suppress(OSError):
            text, card = self._beside(os.path.dirname(path))
            said = None if text is None else config_function(text, self._layers(file.layout))
            self._files.configure(path, said)
            if card is not None and has_card(path):
                text = b"%b\0%b" % (text or b"", card)
            self._configured(file, path, text)

    def touched(self, path: bytes) -> None:
        """Something happened to this name: if it is stated there, look at all names that it speaks of."""
        folder, name = os.path.split(path)
        if name not in (CONFIG, CARD):
            return
        self.forget()
        with suppress(OSError):
            names: list[bytes] = timed_calls.do(folder, os.listdir, folder)
            for each in names if name == CONFIG else filter(has_card, names):
                self.look(os.path.join(folder, each))

    def forget(self) -> None:
        """What was read may have changed since."""
        self._read = None

    def _beside(self, folder: bytes) -> tuple[bytes | None, bytes | None]:
        if self._read is None or self._read[0] != folder:
            self._read = (folder, *timed_calls.do(folder, _texts_in, folder))
        return self._read[1:]


def _texts_in(folder: bytes) -> tuple[bytes | None, bytes | None]:
    """The configuration, and the entries of the card."""
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return config_text(fd), card_text(folder)
    finally:
        os.close(fd)
