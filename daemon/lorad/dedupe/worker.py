"""The process that acts on files: `python -m lorad.dedupe.worker STATE_DIR`.

It reads one `Wish` after the other from its standard input, and writes to its standard output how far each is and
what came of it. It ends when its input does; an action that is under way is carried out first. Comparing files
takes as long as the disk takes, which is why this is a process of its own: killed at any moment, it costs
nothing but the wait, as `repair` at its next start brings everything to all before or all after.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import BinaryIO

import msgspec

from loracore.errors import LoraError
from lorad.dedupe.actor import Actor
from lorad.dedupe.orders import Order, Progress, Refused, Result, Unsettled, spoken
from lorad.pipeline.protocol import Identity
from lorad.pipes import read, write

#: Seconds between two words about how far an action is.
_INTERVAL = 0.2
#: An order names two paths; nothing here is longer.
_LONGEST = 1 << 20


class Carry(msgspec.Struct, frozen=True, tag="carry"):
    """Carry this order out."""

    order: Order


class TakeBack(msgspec.Struct, frozen=True, tag="undo"):
    """Undo this action."""

    number: int


Wish = Carry | TakeBack


class Mended(msgspec.Struct, frozen=True, tag="mended"):
    """The first word: what became of actions that were interrupted."""

    results: list[Result]


class Far(msgspec.Struct, frozen=True, tag="far"):
    """Bytes done of the present wish, and bytes in all."""

    done: int
    total: int


class Came(msgspec.Struct, frozen=True, tag="came"):
    """What came of the present wish."""

    result: Result


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """It was not done, and nothing has changed. Without a wish: nothing can be done here at all.

    `unsettled`: what was begun waits for repair, which is at the next start. `kept_now`: see `Refused`.
    """

    text: str
    unsettled: bool = False
    kept_now: Identity | None = None


Word = Mended | Far | Came | Failed


def main() -> None:
    # The daemon has some blocked.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    pipe = os.fdopen(os.dup(1), "wb")
    # Whatever prints by accident must not get between the messages.
    os.dup2(2, 1)
    try:
        with Actor(sys.argv[1]) as actor:
            _work(actor, pipe)
    except LoraError as error:
        write(pipe, Failed(spoken(str(error))))
    except BrokenPipeError:
        # Who wished is gone; the journal has what was done.
        os.dup2(os.open(os.devnull, os.O_WRONLY), pipe.fileno())


def _work(actor: Actor, pipe: BinaryIO) -> None:
    write(pipe, Mended(actor.repair()))
    wishes: msgspec.msgpack.Decoder[Wish] = msgspec.msgpack.Decoder(Wish)
    for wish in read(sys.stdin.buffer, wishes, _LONGEST):
        try:
            match wish:
                case Carry(order):
                    result = actor.apply(order, _said(pipe))
                case TakeBack(number):
                    result = actor.undo(number, _said(pipe))
        except (Refused, LoraError) as error:
            kept_now = error.kept_now if isinstance(error, Refused) else None
            write(pipe, Failed(spoken(str(error)), isinstance(error, Unsettled), kept_now))
        else:
            write(pipe, Came(result))


def _said(pipe: BinaryIO) -> Progress:
    """Tells how far it is, now and then."""
    next_word = 0.0

    def far(done: int, total: int) -> None:
        nonlocal next_word
        now = time.monotonic()
        if now >= next_word:
            next_word = now + _INTERVAL
            write(pipe, Far(done, total))

    return far


if __name__ == "__main__":
    main()
