"""The process that acts on files, `python -m lorad.dedupe.process STATE_DIR`, and its face in the daemon.

It reads one wish after the other from its standard input, and writes to its standard output how far each is and
what came of it. It ends when its input does; a group that is under way is carried out first. Comparing files takes
as long as the disk takes, which is why this is a process of its own: killed at any moment, it costs nothing but
the wait, as `repair` at its next start brings everything to all before or all after.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import BinaryIO

import msgspec

from loracore.errors import LoraError, StateError
from loracore.framing import read, write
from lorad.dedupe.action.actor import Actor
from lorad.dedupe.action.order import FreeOrder, Order, Progress, Refused, Result, Side, silent, spoken
from lorad.state_folder import ANOTHER
from lorad.watch import timed_calls
from lorad.workers.process import HelperProcess, take_pipes

#: Seconds between two words about how far it is.
_INTERVAL = 0.2
#: A group of orders, or of what became of them.
_LONGEST = 64 << 20
#: Deaths in a row after which nothing more is asked of it.
_DEATHS = 3


class Apply(msgspec.Struct, frozen=True, tag="apply"):
    """Carry these orders out; `now`: free at once what they put aside. `clock`: see `Journal.clock`."""

    orders: list[Order]
    now: bool = False
    clock: float = 0.0


class Free(msgspec.Struct, frozen=True, tag="free"):
    """Remove what these actions have put aside."""

    orders: list[FreeOrder]


class GiveBack(msgspec.Struct, frozen=True, tag="give back"):
    """Give what these actions have put aside its names back."""

    numbers: list[int]


class Undo(msgspec.Struct, frozen=True, tag="undo"):
    """Undo these actions, in this order; `sources` are files that freed ones can be made from."""

    numbers: list[int]
    sources: dict[int, list[Side]] = {}


class Retarget(msgspec.Struct, frozen=True, tag="retarget"):
    """Lead the symbolic link of this action to where the kept file is now. `prove`: see `Actor.retarget`."""

    number: int
    kept: Side
    prove: bool = False


class Follow(msgspec.Struct, frozen=True, tag="follow"):
    """Go with the symbolic link of this action, which was moved."""

    number: int
    link: Side


class Note(msgspec.Struct, frozen=True, tag="note"):
    """Write down that what was put aside is lost, or where it lies now with its folder."""

    number: int
    state: str
    text: str
    gone: Side | None = None
    aside: bytes = b""


class Clock(msgspec.Struct, frozen=True, tag="clock"):
    """Write down how long lorad has run."""

    seconds: float


Wish = Apply | Free | GiveBack | Undo | Retarget | Follow | Note | Clock


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The first word: the journal's token, and what became of actions that were interrupted."""

    token: str
    results: list[Result]


class Far(msgspec.Struct, frozen=True, tag="far"):
    """Bytes done of the present file, and bytes in all."""

    done: int
    total: int


class Came(msgspec.Struct, frozen=True, tag="came"):
    """What came of the present wish."""

    results: list[Result]


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """Nothing can be done (any more), and why; it ends. What was begun is repaired at its next start."""

    text: str


Word = Ready | Far | Came | Failed
_WISHES: msgspec.msgpack.Decoder[Wish] = msgspec.msgpack.Decoder(Wish)
_WORDS: msgspec.msgpack.Decoder[Word] = msgspec.msgpack.Decoder(Word)


class ActionProcess:
    """For use in one thread, save `kill`. `repaired` is called with what became of interrupted actions."""

    def __init__(self, state_dir: str, repaired: Callable[[list[Result]], None]) -> None:
        self._state_dir = state_dir
        self._folder = timed_calls.which(os.fsencode(state_dir))
        self._repaired = repaired
        self._process: HelperProcess[Word] | None = None
        self._deaths = 0
        #: The journal's token, once it was started.
        self.token = ""

    def ask(self, wish: Wish, progress: Progress = silent) -> list[Result]:
        """Have a wish carried out. What it died over is asked again, once what was begun is repaired.

        But for orders, of which some may be done: then it gives nothing. Raises StateError: nothing can be done.
        """
        if self._process is None or self._process.has_ended():
            self.dismiss()
            self.start()
        assert self._process is not None
        self._process.send(wish)
        for word in self._process.words():
            match word:
                case Far(done, total):
                    progress(done, total)
                case Came(results):
                    self._deaths = 0
                    return results
                case Failed(text):
                    self.dismiss()
                    raise StateError(text)
                case _:
                    break
        self._deaths += 1
        self.dismiss()
        if self._deaths >= _DEATHS:
            self._deaths = 0
            raise StateError("the process that acts on files keeps dying; its messages above say why")
        self.start()
        return [] if isinstance(wish, Apply) else self.ask(wish, progress)

    def start(self) -> None:
        """Start it, which repairs what was interrupted. Raises StateError."""
        folder = timed_calls.which(os.fsencode(self._state_dir))
        self._folder = self._folder or folder
        if folder != self._folder:
            raise StateError(f"{self._state_dir}: {ANOTHER}")
        try:
            self._process = HelperProcess(
                "lorad.dedupe.process", [self._state_dir], words=_WORDS, longest=_LONGEST
            )
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise StateError(f"the process that acts on files cannot be started: {why}; restart lorad") from error
        match next(self._process.words(), None):
            case Ready(token, results):
                self.token = token
                self._repaired(results)
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
            process.end()

    def kill(self) -> None:
        """End it at once, from any thread: a caller that waits for it sees that it died."""
        process = self._process
        if process is not None:
            process.kill()


# The process itself


def main() -> None:
    wishes, pipe = take_pipes()
    try:
        with Actor(sys.argv[1]) as actor:
            write(pipe, Ready(actor.token, actor.repair()))
            for wish in read(wishes, _WISHES, _LONGEST):
                write(pipe, Came(_carry(actor, wish, _reporting(pipe))))
    except LoraError as error:
        write(pipe, Failed(spoken(str(error))))
    except BrokenPipeError:
        # The daemon is gone; the journal has what was done.
        os.dup2(os.open(os.devnull, os.O_WRONLY), pipe.fileno())


def _carry(actor: Actor, wish: Wish, progress: Progress = silent) -> list[Result]:
    """Do what is wished. Raises StateError."""
    match wish:
        case Apply(orders, now, clock):
            results = actor.apply(orders, progress, clock=clock)
            return _freed(actor, orders, results, progress) if now else results
        case Free(frees):
            return actor.free(frees, progress)
        case GiveBack(numbers):
            return actor.give_back(numbers)
        case Undo(numbers, sources):
            return actor.undo(numbers, sources, progress)
        case Retarget(number, kept):
            return [_or_refused(number, lambda: actor.retarget(number, kept, prove=wish.prove))]
        case Follow(number, link):
            return [_or_refused(number, lambda: actor.follow(number, link))]
        case Note(number, state, text, gone, aside):
            noted = actor.note(number, state, text, gone, aside)
            return [noted] if noted is not None else []
        case Clock(seconds):
            return actor.set_clock(seconds)


def _freed(actor: Actor, orders: Sequence[Order], results: list[Result], progress: Progress) -> list[Result]:
    """The same results, after what was put aside is freed at once."""
    wanted = [
        FreeOrder(result.id, (order.kept,))
        for order, result in zip(orders, results, strict=True)
        if result.state in ("hidden", "quarantined")
    ]
    freed = {result.id: result for result in actor.free(wanted, progress)}
    return [
        msgspec.structs.replace(
            freed.get(result.id, result), kept_before=result.kept_before, kept_now=result.kept_now
        )
        for result in results
    ]


def _or_refused(number: int, act: Callable[[], Result]) -> Result:
    try:
        return act()
    except StateError:
        raise
    except LoraError as error:
        path = os.fsencode(error.path or "") if isinstance(error, Refused) else b""
        reason = error.reason if isinstance(error, Refused) else str(error)
        return Result(number, "", b"", path, 0, "refused", spoken(reason))


def _reporting(pipe: BinaryIO) -> Progress:
    """Says how far it is, now and then."""
    next_word = 0.0

    def report(done: int, total: int) -> None:
        nonlocal next_word
        now = time.monotonic()
        if now >= next_word:
            next_word = now + _INTERVAL
            write(pipe, Far(done, total))

    return report


if __name__ == "__main__":
    main()
