"""The worker process from the outside: started when there is a wish, again when it died, let go when idle."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress

import msgspec

from loracore.errors import StateError
from lorad.dedupe.orders import Progress, Refused, Result, Unsettled, silent
from lorad.dedupe.worker import Came, Carry, Failed, Far, Mended, Wish, Word
from lorad.pipes import end_of, read, write

#: A result of every interrupted action; there is hardly ever one.
_LONGEST = 16 << 20
_DECODER: msgspec.msgpack.Decoder[Word] = msgspec.msgpack.Decoder(Word)
#: Deaths in a row after which nothing more is asked of it.
_DEATHS = 3


class Deputy:
    """For use in one thread, save `kill`. `mended` hears what became of actions that were interrupted."""

    def __init__(self, state_dir: str, mended: Callable[[list[Result]], None]) -> None:
        self._state_dir = state_dir
        self._mended = mended
        self._process: subprocess.Popen[bytes] | None = None
        self._words: Iterator[Word] = iter(())
        self._deaths = 0

    def carry(self, wish: Wish, progress: Progress = silent) -> Result:
        """Have a wish carried out. Raises Refused (it was not done), or StateError (nothing can be done now)."""
        while True:
            if self._process is None:
                self.start()
            assert self._process is not None
            with suppress(BrokenPipeError):
                write(end_of(self._process.stdin), wish)
            for word in self._words:
                if isinstance(word, Far):
                    progress(word.done, word.total)
                    continue
                self._deaths = 0
                if isinstance(word, Came):
                    return word.result
                if not isinstance(word, Failed):
                    raise StateError("the worker speaks nonsense")
                refusal = Unsettled(word.text) if word.unsettled else Refused(word.text)
                refusal.kept_now = word.kept_now
                if word.unsettled:
                    # Only a new one repairs.
                    self.dismiss()
                raise refusal
            result = self._after_death(wish)
            if result is not None:
                return result

    def start(self, wish: Wish | None = None) -> Result | None:
        """Start it, which repairs what was interrupted; what became of a wish that was. Raises StateError."""
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "lorad.dedupe.worker", self._state_dir],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._words = read(end_of(self._process.stdout), _DECODER, _LONGEST)
        match next(self._words, None):
            case Mended(results):
                mine = next((result for result in results if wish is not None and _is_of(result, wish)), None)
                self._mended([result for result in results if result is not mine])
                return mine
            case Failed(text):
                self.dismiss()
                raise StateError(text)
            case _:
                self.dismiss()
                raise StateError("the process that acts on files does not start; its messages above say why")

    def dismiss(self) -> None:
        """Let it end, once it has done what it does."""
        process, self._process = self._process, None
        if process is not None:
            with suppress(BrokenPipeError):
                end_of(process.stdin).close()
            end_of(process.stdout).close()
            process.wait()

    def kill(self) -> None:
        """End it at once, from any thread: whoever waits for it hears that it died."""
        process = self._process
        if process is not None:
            process.kill()

    def _after_death(self, wish: Wish) -> Result | None:
        """It died on a wish: what the next one found done of it, or None where it has to be asked again."""
        self._deaths += 1
        self.dismiss()
        if self._deaths >= _DEATHS:
            self._deaths = 0
            raise StateError("the process that acts on files keeps dying; its messages above say why")
        result = self.start(wish)
        wanted = "done" if isinstance(wish, Carry) else "undone"
        return result if result is not None and result.state == wanted else None


def _is_of(result: Result, wish: Wish) -> bool:
    return result.path == wish.order.gone.path if isinstance(wish, Carry) else result.id == wish.number
