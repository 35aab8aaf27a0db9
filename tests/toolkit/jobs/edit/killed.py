"""Edits that are killed at each of their steps, in processes of their own.

A step is a call of the system or of SQLite, or the begin or the end of a function that changes something. After
each kill the file is the old or the new one, and the next edit leaves nothing of the interrupted one.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from lorakit.jobs.edit import writing
from lorakit.output import folder as naming
from tests.toolkit.jobs.edit.files import edit, left, look, lora

_ROOM = os.path.dirname(writing.__file__)
#: Where what is done to files and their names stands.
_FILES = (_ROOM, naming.__file__, os.path.join(_ROOM, "..", "..", "..", "loracore"))
_SYSTEM = ("posix", "fcntl", "sqlite3")
#: Functions that act by other ways: a call of the C library, a commit.
_ACTING = ("renameat2", "begin", "finish", "note_dropped", "settle", "_durably")
CHANGES: dict[str, Any] = {"title": "x", "set": {"long": "y" * 5000}, "apply": True}


class _Dies:
    """Kills this process before its step of this number; counts them where it lives on."""

    def __init__(self, step: int) -> None:
        self._left = step

    def __call__(self, frame: FrameType, event: str, what: Any) -> None:
        if event == "c_call":
            home = getattr(what, "__module__", None) or type(getattr(what, "__self__", None)).__module__
            counts = home in _SYSTEM and frame.f_code.co_filename.startswith(_FILES)
        else:
            counts = (
                event != "c_return"
                and frame.f_code.co_name in _ACTING
                and frame.f_code.co_filename.startswith(_FILES)
            )
        if counts:
            self._left -= 1
            if not self._left:
                os.kill(os.getpid(), signal.SIGKILL)


def dies(step: int, **what: Any) -> bool:
    """Whether an edit in a child process was killed at this step; else it came to its end."""
    child = os.fork()
    if not child:
        sys.setprofile(_Dies(step))
        edit(*what.pop("paths"), **what)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL), status
    return status != 0


#: One step of so many is tried; `make soak` tries each.
STRIDE = int(os.environ.get("LORAD_EDIT_STRIDE", "5"))


class World:
    """Two files, fresh for each step, as they are before and after the edit."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.paths = [base / "files" / "a.safetensors", base / "files" / "b.safetensors"]
        self.make()
        self.old = [path.read_bytes() for path in self.paths]
        self.looks = [look(path) for path in self.paths]
        edit(*self.paths, **CHANGES)
        self.new = [path.read_bytes() for path in self.paths]

    def make(self) -> None:
        for name in ("files", "state"):
            shutil.rmtree(self.base / name, ignore_errors=True)
        (self.base / "files").mkdir()
        for number, path in enumerate(self.paths):
            lora(path, seed=number)

    def check_whole(self) -> None:
        for path, old, new in zip(self.paths, self.old, self.new, strict=True):
            assert path.read_bytes() in (old, new)

    def check_undone(self) -> None:
        """All edits of the journal are taken back."""
        edits = {past.id for past in edit(history=True).history if past.state == "done"}
        if edits:
            assert {file.state for file in edit(undo=tuple(edits)).files} <= {"undone", "unchanged"}
        assert [path.read_bytes() for path in self.paths] == self.old
        assert [look(path) for path in self.paths] == self.looks
        assert not left(self.base / "files")


def main(base: Path, *, undoing: bool) -> int:
    """Steps, one after the other; how many there were."""
    world = World(base)
    step = 0
    while True:
        step += STRIDE
        world.make()
        if undoing:
            found = edit(*world.paths, **CHANGES)
            killed = dies(step, paths=(), undo=(found.id,))
        else:
            killed = dies(step, paths=world.paths, **CHANGES)
        world.check_whole()
        # The next edit, of another file, settles what was left.
        other = lora(base / "files" / "c.safetensors", seed=9)
        assert not edit(other, title="c", apply=True).warnings
        assert not left(base / "files")
        world.check_whole()
        if not undoing:
            assert not edit(*world.paths, **CHANGES).warnings
            assert [path.read_bytes() for path in world.paths] == world.new
        edits = {past.path: past.state for past in edit(history=True).history}
        assert "interrupted" not in edits.values()
        world.check_undone()
        if not killed:
            return step


if __name__ == "__main__":
    if sys.argv[3] == "plain":
        # A file system that knows neither files without a name nor the exchange of two names.
        os.O_TMPFILE = 0o100000000 | os.O_DIRECTORY  # an unknown flag: EINVAL
        writing.EXCHANGE = 1 << 20
    os.environ["XDG_STATE_HOME"] = os.path.join(sys.argv[1], "state")
    print(main(Path(sys.argv[1]), undoing=sys.argv[2] == "undo"))
