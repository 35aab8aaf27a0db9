"""A child's end of the line to the core: one socket, and the pipe that tells when the core is gone."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple, NoReturn

import zmq

from lorad.pipeline.arena import Arena
from lorad.pipeline.protocol import MAX_MESSAGE, Ready, Stop, ToChild, ToCore, decode_to_child, encode

#: Seconds between two beats, and those that a child has to end by itself when the core is gone.
_BEAT, _PATIENCE = 1.0, 1.0


class CoreGoneError(Exception):
    """The core process ended, or asked this child to end."""


class Line:
    """Sends to and receives from the core. Arguments come from `lorad.pipeline.children`."""

    def __init__(self, name: str, address: str, death_fd: int) -> None:
        # The daemon has some blocked.
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.set(zmq.ROUTING_ID, name.encode())
        # The core may still be about to bind: it starts us first.
        self._socket.set(zmq.RECONNECT_IVL, 5)
        self._socket.set(zmq.MAXMSGSIZE, MAX_MESSAGE)
        self._socket.connect(address)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(death_fd, zmq.POLLIN)
        self._death_fd = death_fd
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poller.register(self._wake_fd, zmq.POLLIN)

    def ready(self) -> None:
        """Say that work can come."""
        self.send(Ready(os.getpid()))

    def wake(self) -> None:
        """End a `receive`, from any thread."""
        os.eventfd_write(self._wake_fd, 1)

    def send(self, message: ToCore) -> None:
        self._socket.send(encode(message), copy=True)

    def receive(self, *, wait: bool = True) -> ToChild | None:
        """The next message. Raises CoreGoneError.

        None when there is none and `wait` is False, or when `wake` was called.
        """
        try:
            frame = self._socket.recv(zmq.NOBLOCK)
        except zmq.Again:
            if not wait:
                return None
            events = dict(self._poller.poll())
            if self._death_fd in events:
                raise CoreGoneError from None
            if self._wake_fd in events:
                os.eventfd_read(self._wake_fd)
                return None
            frame = self._socket.recv()
        message: ToChild = decode_to_child(frame)
        if isinstance(message, Stop):
            raise CoreGoneError
        return message

    def messages(self) -> Iterator[ToChild]:
        """All messages until the core is gone."""
        while True:
            try:
                message = self.receive()
            except CoreGoneError:
                return
            if message is not None:
                yield message

    def leave(self) -> NoReturn:
        """End this process at once. It holds nothing that the system does not take back faster than we do."""
        os._exit(0)


class Place(NamedTuple):
    """A child's place in the crew: its line to the core, the arena, its number there, its own arguments."""

    line: Line
    arena: Arena
    number: int
    arguments: list[str]


def take_place() -> Place:
    """Read a child's command line (see `lorad.pipeline.launch`), connect, and begin to count its life."""
    name, address, death_fd, arena_fd, slab, slabs, number, *others = sys.argv[1:]
    arena = Arena(int(arena_fd), int(slab), int(slabs))
    threading.Thread(target=_beat, args=(arena, int(number), int(death_fd)), daemon=True).start()
    return Place(Line(name, address, int(death_fd)), arena, int(number), others)


def _beat(arena: Arena, number: int, death_fd: int) -> None:
    """Count seconds, and end the process after the core, also where its first thread hangs."""
    core = select.poll()
    core.register(death_fd, 0)
    while not core.poll(1000 * _BEAT):
        arena.beat(number)
    time.sleep(_PATIENCE)
    os._exit(0)
