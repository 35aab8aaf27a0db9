"""The core's child processes: listened to, noticed when they end, started again, stopped."""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

import msgspec
import zmq

from lorad.folders import made
from lorad.pipeline.arena import Pulse
from lorad.pipeline.launch import SOCKET, Child, Crew
from lorad.pipeline.protocol import MAX_MESSAGE, Stop, ToChild, ToCore, decode_to_core, encode

_LOG = logging.getLogger(__name__)
#: Seconds that children have to end when asked to.
_PATIENCE = 1.0


class Children:
    """All children of a crew, and the socket on which they speak."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.set(zmq.LINGER, 0)
        self._socket.set(zmq.MAXMSGSIZE, MAX_MESSAGE)
        self._socket.set(zmq.ROUTER_MANDATORY, 1)
        self._socket.set(zmq.SNDHWM, 0)
        self._bind()
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._wake_fd, zmq.POLLIN)
        self._children = {child.name: child for child in crew.children}
        self._speakers: dict[bytes, str] = {}
        for child in crew.children:
            self._attend(child)

    def send(self, name: str, message: ToChild) -> None:
        """Send to a child; a message to one that just died is dropped, its death is told by `dead`."""
        try:
            self._socket.send_multipart([self._children[name].address, encode(message)])
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise

    def received(self) -> Iterator[tuple[str, ToCore]]:
        """What living children have sent, without waiting. What others send, or is no message, is passed over."""
        while True:
            try:
                address, *frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            name = self._speakers.get(address)
            if name is None:
                continue
            try:
                (frame,) = frames
                message = decode_to_core(frame)
            except (msgspec.MsgspecError, RecursionError, ValueError):
                _LOG.warning("something else than the %s process sent what is no message", name)
            else:
                yield name, message

    def stay_reachable(self) -> None:
        """Bind the socket again where somebody removed it, as those do who tidy folders for temporary files.

        Children that are connected stay so; those that are started later look for it by its name.
        """
        if not os.path.lexists(os.path.join(self._crew.folder, SOCKET)):
            with suppress(OSError, zmq.ZMQError):
                made(self._crew.folder)
                os.chdir(self._crew.folder)
                self._bind()

    def _bind(self) -> None:
        if os.path.lexists(SOCKET):
            os.unlink(SOCKET)
        before = os.umask(0o177)
        try:
            self._socket.bind(f"ipc://{SOCKET}")
        finally:
            os.umask(before)

    def wait(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for a message, a death or `wake`; whether some child has ended."""
        ready = dict(self._poller.poll(max(0, int(timeout * 1000))))
        if ready.pop(self._wake_fd, None):
            os.eventfd_read(self._wake_fd)
        return any(isinstance(item, int) for item in ready)

    def wake(self) -> None:
        """End a `wait`, from any thread."""
        os.eventfd_write(self._wake_fd, 1)

    def dead(self) -> Iterator[tuple[str, int]]:
        """(name, exit status) of children that have ended. Call `restart` for those."""
        for child in self._children.values():
            if child.process is not None and child.process.poll() is not None:
                status = child.process.returncode
                self._reap(child)
                yield child.name, status

    def restart(self, name: str) -> None:
        """Start a child again."""
        child = self._children[name]
        self._crew.start(child)
        self._attend(child)

    def instruct(self, name: str, arguments: Sequence[object]) -> None:
        """What a child gets on its command line from its next start on."""
        self._children[name].arguments = [str(argument) for argument in arguments]

    def kill(self, name: str) -> None:
        """End a child, also one that is stopped."""
        pidfd = self._children[name].pidfd
        if pidfd >= 0:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)

    def alive(self) -> Iterator[tuple[str, int, Pulse]]:
        """(name, process, what it counts) of each child that has not ended."""
        for child in self._children.values():
            if child.process is not None:
                yield child.name, child.process.pid, self._crew.arena.pulse(child.line)

    @property
    def names(self) -> Iterable[str]:
        return self._children

    def pids(self) -> dict[str, int]:
        return {name: pid for name, pid, _ in self.alive()}

    def stop(self) -> None:
        """Ask all children to end, and end those that do not within a second."""
        for child in self._children.values():
            if child.process is not None:
                self.send(child.name, Stop())
        self._crew.dismiss()
        deadline = time.monotonic() + _PATIENCE
        for child in self._children.values():
            if child.process is None:
                continue
            ended = select.poll()
            ended.register(child.pidfd, select.POLLIN)
            if not ended.poll(1000 * max(0.0, deadline - time.monotonic())):
                child.process.kill()
            with suppress(subprocess.TimeoutExpired):
                # One that waits for a disk that does not answer cannot even be killed.
                child.process.wait(_PATIENCE)
            self._reap(child)
        self._context.destroy(linger=0)
        os.close(self._wake_fd)
        with suppress(OSError):
            os.unlink(os.path.join(self._crew.folder, SOCKET))

    def _attend(self, child: Child) -> None:
        """Listen to a child that was started, and for its end."""
        self._poller.register(child.pidfd, zmq.POLLIN)
        self._speakers[child.address] = child.name

    def _reap(self, child: Child) -> None:
        self._poller.unregister(child.pidfd)
        os.close(child.pidfd)
        del self._speakers[child.address]
        child.process, child.pidfd = None, -1
