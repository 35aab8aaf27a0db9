"""A helper program: `python -m tests.daemon.workers.program echo|deaf|stubborn|busy`."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import NoReturn

import msgspec

from loracore.framing import read, write
from lorad.workers.process import take_pipes


class Text(msgspec.Struct, frozen=True):
    """What is asked and answered."""

    text: str


TEXTS = msgspec.msgpack.Decoder(Text)


def main() -> None:
    wishes, words = take_pipes()
    print("printed by accident")
    assert sys.stdin.read() == ""
    match sys.argv[1]:
        case "echo":
            for wish in read(wishes, TEXTS, 1 << 20):
                write(words, wish)
        case "deaf":
            write(words, Text("ready"))
            _wait()
        case "stubborn":
            child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
            write(words, Text(str(child.pid)))
            _wait()
        case "busy":
            while True:
                pass


def _wait() -> NoReturn:
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
