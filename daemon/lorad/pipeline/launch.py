"""How the core's child processes are started.

Children are `python -m` processes that inherit the arena and the read end of a pipe whose write end only
the core holds: when the core is gone, however it went, that pipe tells them. This module imports little, so
that the children start while the core still imports the rest.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from lorad.pipeline.arena import SLAB, SLABS, SLABS_FOR_GPU, Arena

SOCKET = "pipeline.sock"


class Child:
    """One child: how to start it, and its process while it lives. `line` is its own in the arena's notes."""

    def __init__(self, name: str, module: str, line: int, arguments: Sequence[object] = ()) -> None:
        self.name = name
        self.module = module
        self.line = line
        self.arguments = [str(argument) for argument in arguments]
        self.process: subprocess.Popen[bytes] | None = None
        #: The name of the process on the socket: another for each start, so that nobody takes the words of
        #: a dead process for those of its successor.
        self.address = b""
        self.starts = 0
        self.pidfd = -1


class Crew:
    """The arena and the children that share it, started at once; `Machinery` takes them over.

    Their socket lies in `folder`, made the current one: a relative address stays short whatever the folder's
    name is. Raises OSError when memory does not allow an arena.
    """

    def __init__(self, folder: str, state_dir: str, *, loaders: int, hasher: str, gpu_memory_mb: int = 0) -> None:
        os.chdir(folder)
        self.folder = folder
        self.loaders = loaders
        self.hasher = hasher
        gpu = hasher == "cuda" or (hasher == "auto" and find_spec("cupy") is not None)
        self.slabs = max(SLABS_FOR_GPU if gpu else SLABS, 2 * loaders)
        self.arena = Arena.create(SLAB, self.slabs)
        self._death_read, self._death_write = os.pipe2(os.O_CLOEXEC)
        self.children = [Child(f"loader-{index}", "lorad.pipeline.loader", index) for index in range(loaders)]
        self.children.append(Child("hasher", "lorad.pipeline.hasher", loaders, (hasher, gpu_memory_mb)))
        self.children.append(Child("publisher", "lorad.publish", loaders + 1, (state_dir,)))
        for child in self.children:
            self.start(child)

    def start(self, child: Child) -> None:
        """Start `python -m module`, with its address, the arena and its `arguments` on its command line."""
        child.starts += 1
        address = f"{child.name}.{child.starts}"
        child.address = address.encode()
        place = (address, f"ipc://{SOCKET}", self._death_read, self.arena.fd, SLAB, self.slabs, child.line)
        child.process = subprocess.Popen(
            [sys.executable, "-P", "-m", child.module, *map(str, place), *child.arguments],
            stdin=subprocess.DEVNULL,
            pass_fds=(self._death_read, self.arena.fd),
            cwd=self.folder,
        )
        child.pidfd = os.pidfd_open(child.process.pid)

    def dismiss(self) -> None:
        """Tell the children by the pipe that the core goes."""
        os.close(self._death_write)
        os.close(self._death_read)
