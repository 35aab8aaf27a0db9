"""`python -m bench.picture FILE.svg`: the picture of the README, from what the program prints on a demo library.

The command runs on a pseudo-terminal, as its output has colours only there; rich makes the picture of it. Nothing
of it is changed but the name of the temporary folder, which stands there as `/srv`.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from bench.demo import make_demo

#: Beside the interpreter: the program of this checkout, whatever PATH says.
LORACTL = os.path.join(os.path.dirname(sys.executable), "loractl")
WIDTH = 104
COMMAND = ("scan", "models")


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python -m bench.picture FILE.svg")
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    with tempfile.TemporaryDirectory() as folder:
        make_demo(os.path.join(folder, "models"))
        console.print(Text.assemble(("$ ", "dim"), (" ".join(("loractl", *COMMAND)), "bold")))
        console.print(Text.from_ansi(on_terminal([LORACTL, *COMMAND], folder).rstrip()))
    picture = console.export_svg(title="loractl", theme=MONOKAI, unique_id="terminal")
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        # Without the fonts that rich has loaded from another server.
        file.write(re.sub(r"\s*@font-face \{.*?\}", "", picture, flags=re.DOTALL))


def on_terminal(command: list[str], folder: str) -> str:
    """What a command writes to its standard output where that is a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, WIDTH, 0, 0))
    environment = os.environ | {
        "TERM": "xterm-256color",
        "XDG_STATE_HOME": f"{folder}/state",
        "LORAD_SOCKET": f"{folder}/no.sock",
    }
    with subprocess.Popen(
        command, cwd=folder, stdin=subprocess.DEVNULL, stdout=theirs, stderr=subprocess.DEVNULL, env=environment
    ):
        os.close(theirs)
        found = b""
        try:
            while piece := os.read(ours, 1 << 16):
                found += piece
        except OSError:
            pass  # EIO: the other end is closed
    os.close(ours)
    return found.decode().replace("\r\n", "\n").replace(folder, "/srv")


if __name__ == "__main__":
    main()
