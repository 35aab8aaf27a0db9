"""How the core's child processes are started.

Children are `python -m` processes that inherit the arena, an end of a pair of sockets, and the read end of a pipe
whose write end only the core holds: when the core is gone, however it went, that pipe tells them. This module
imports little, so that the children start while the core still imports the rest.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from lorad.pipeline.arena import SLAB, SLABS, SLABS_FOR_GPU, Arena


class Child:
    """One child: how to start it, and its process while it lives. `line` is its own in the arena's notes."""

    def __init__(self, name: str, module: str, line: int, arguments: Sequence[object] = ()) -> None:
        self.name = name
        self.module = module
        self.line = line
        self.arguments = [str(argument) for argument in arguments]
        self.process: subprocess.Popen[bytes] | None = None
        #: Our end of what it speaks by: another for each start, so that nobody takes the words of a dead process
        #: for those of its successor.
        self.end: socket.socket | None = None
        self.pidfd = -1


class Crew:
    """The arena and the children that share it, started at once; `Pipeline` takes them over.

    `folder` becomes the current one: a disk that a daemon was started on can be unmounted. Raises OSError when
    memory does not allow an arena. With `facts`, loaders compute them with each header.
    """

    def __init__(
        self, folder: str, state_dir: str, *, loaders: int, hasher: str, gpu_memory_mb: int = 0, facts: bool = True
    ) -> None:
        os.chdir(folder)
        self.loaders = loaders
        self.hasher = hasher
        # Where `auto` comes to prefer the CPU this is more than that needs; the arena cannot shrink.
        gpu = hasher == "cuda" or (hasher == "auto" and find_spec("cupy") is not None)
        self.slabs = max(SLABS_FOR_GPU if gpu else SLABS, 2 * loaders)
        self.arena = Arena.create(SLAB, self.slabs)
        self._death_read, self._death_write = os.pipe2(os.O_CLOEXEC)
        self.children = [
            Child(f"loader-{index}", "lorad.pipeline.loader", index, (int(facts),)) for index in range(loaders)
        ]
        self.children.append(Child("hasher", "lorad.pipeline.hasher", loaders, (hasher, gpu_memory_mb)))
        self.children.append(Child("publisher", "lorad.publish", loaders + 1, (state_dir,)))
        for child in self.children:
            self.start(child)

    def start(self, child: Child) -> None:
        """Start `python -m module`, with what it inherits and its `arguments` on its command line."""
        ours, theirs = socket.socketpair()
        inherited = (theirs.fileno(), self._death_read, self.arena.fd)
        place = (*inherited, SLAB, self.slabs, child.line)
        try:
            child.process = subprocess.Popen(
                [sys.executable, "-P", "-m", child.module, *map(str, place), *child.arguments],
                stdin=subprocess.DEVNULL,
                pass_fds=inherited,
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        child.end = ours
        child.pidfd = os.pidfd_open(child.process.pid)

    def dismiss(self) -> None:
        """Tell the children by the pipe that the core goes."""
        os.close(self._death_write)
        os.close(self._death_read)
