"""The core's child processes: started, listened to, noticed when they end, started again, stopped.

Children are `python -m` processes that inherit the arena and the read end of a pipe whose write end only
the core holds: when the core is gone, however it went, that pipe tells them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence

import zmq

from loracore.errors import LoraError
from lorad.pipeline.protocol import MAX_MESSAGE, Stop, ToChild, ToCore, decode_to_core, encode

_SOCKET = "pipeline.sock"
#: A child that dies by itself more often than this in a minute has no future.
_DEATHS_A_MINUTE = 4


class PipelineBrokenError(LoraError):
    """A child process cannot be kept alive."""


class Child:
    """One child: how to start it, and its process while it lives."""

    def __init__(self, name: str, module: str, arguments: Sequence[str], fds: Sequence[int]) -> None:
        self.name = name
        self.module = module
        self.arguments = arguments
        self.fds = fds
        self.process: subprocess.Popen[bytes] | None = None
        #: The name of the process on the socket: another for each start, so that nobody takes the words of
        #: a dead process for those of its successor.
        self.address = b""
        self.starts = 0
        self.pidfd = -1
        self.deaths: deque[float] = deque(maxlen=_DEATHS_A_MINUTE)


class Children:
    """All children, and the socket on which they speak. The socket lies in `folder`, made the cwd for it.

    A relative address keeps the socket's path short whatever the folder's is.
    """

    def __init__(self, folder: str) -> None:
        os.chdir(folder)
        self._cwd = folder
        self._death_read, self._death_write = os.pipe2(os.O_CLOEXEC)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.set(zmq.LINGER, 0)
        self._socket.set(zmq.MAXMSGSIZE, MAX_MESSAGE)
        self._socket.set(zmq.ROUTER_MANDATORY, 1)
        self._socket.set(zmq.SNDHWM, 0)
        if os.path.lexists(_SOCKET):
            os.unlink(_SOCKET)
        before = os.umask(0o177)
        try:
            self._socket.bind(f"ipc://{_SOCKET}")
        finally:
            os.umask(before)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._children: dict[str, Child] = {}
        self._speakers: dict[bytes, str] = {}

    def start(self, name: str, module: str, arguments: Sequence[object], fds: Sequence[int]) -> None:
        """Start `python -m module`, with its address and `arguments` on its command line; it inherits `fds`."""
        self._spawn(Child(name, module, [str(argument) for argument in arguments], fds))

    def send(self, name: str, message: ToChild) -> None:
        """Send to a child; a message to one that just died is dropped, its death is told by `dead`."""
        try:
            self._socket.send_multipart([self._children[name].address, encode(message)])
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise

    def received(self) -> Iterator[tuple[str, ToCore]]:
        """What living children have sent, without waiting."""
        while True:
            try:
                address, frame = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            name = self._speakers.get(address)
            if name is not None:
                yield name, decode_to_core(frame)

    def wait(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for a message or a death; whether some child has ended."""
        ready = dict(self._poller.poll(int(timeout * 1000)))
        return any(isinstance(item, int) for item in ready)

    def dead(self) -> Iterator[tuple[str, int]]:
        """(name, exit status) of children that have ended. Call `restart` for those."""
        for child in self._children.values():
            if child.process is not None and child.process.poll() is not None:
                status = child.process.returncode
                self._reap(child)
                yield child.name, status

    def restart(self, name: str, *, by_itself: bool) -> None:
        """Start a child again. Raises PipelineBrokenError when it keeps dying `by_itself`."""
        child = self._children[name]
        if by_itself:
            now = time.monotonic()
            if len(child.deaths) == child.deaths.maxlen and now - child.deaths[0] < 60:
                raise PipelineBrokenError(f"the {name} process keeps dying; its messages above say why")
            child.deaths.append(now)
        self._spawn(child)

    def pids(self) -> dict[str, int]:
        return {child.name: child.process.pid for child in self._children.values() if child.process is not None}

    def stop(self) -> None:
        """Ask all children to end, and end those that do not within a second."""
        for child in self._children.values():
            self.send(child.name, Stop())
        os.close(self._death_write)
        deadline = time.monotonic() + 1
        for child in self._children.values():
            if child.process is None:
                continue
            try:
                child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
            self._reap(child)
        os.close(self._death_read)
        self._context.destroy(linger=0)
        os.unlink(os.path.join(self._cwd, _SOCKET))

    def _spawn(self, child: Child) -> None:
        child.starts += 1
        name = f"{child.name}.{child.starts}"
        child.address = name.encode()
        child.process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-m",
                child.module,
                name,
                f"ipc://{_SOCKET}",
                str(self._death_read),
                *child.arguments,
            ],
            stdin=subprocess.DEVNULL,
            pass_fds=(self._death_read, *child.fds),
            cwd=self._cwd,
        )
        child.pidfd = os.pidfd_open(child.process.pid)
        self._poller.register(child.pidfd, zmq.POLLIN)
        self._children[child.name] = child
        self._speakers[child.address] = child.name

    def _reap(self, child: Child) -> None:
        self._poller.unregister(child.pidfd)
        os.close(child.pidfd)
        del self._speakers[child.address]
        child.process, child.pidfd = None, -1
