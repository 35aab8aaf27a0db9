"""A child's end of the line to the core, and the pipe that tells when the core is gone."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple, NoReturn

from lorad.pipeline.arena import Arena
from lorad.pipeline.channel import Channel
from lorad.pipeline.protocol import Ready, Stop, ToChild, ToCore, decode_to_child, encode

#: Seconds between two beats, and those that a child has to end by itself when the core is gone.
_BEAT, _PATIENCE = 1.0, 1.0


class CoreGoneError(Exception):
    """The core process ended, or asked this child to end."""


class Line:
    """Sends to and receives from the core, by descriptors that `lorad.pipeline.launch` hands on."""

    def __init__(self, end: int, death_fd: int) -> None:
        # The daemon has some blocked.
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._channel = Channel(socket.socket(fileno=end))
        self._came: deque[bytes] = deque()
        self._death_fd = death_fd
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.poll()
        for descriptor in (self._channel, self._death_fd, self._wake_fd):
            self._poll.register(descriptor, select.POLLIN)

    def ready(self) -> None:
        """Say that work can come."""
        self.send(Ready(os.getpid()))

    def wake(self) -> None:
        """End a `receive`, from any thread."""
        os.eventfd_write(self._wake_fd, 1)

    def send(self, message: ToCore) -> None:
        self._channel.put(encode(message))
        if not self._channel.flush():
            room = select.poll()
            room.register(self._channel, select.POLLOUT)
            while not self._channel.flush():
                room.poll()

    def receive(self, *, wait: bool = True) -> ToChild | None:
        """The next message. Raises CoreGoneError.

        None when there is none and `wait` is False, or when `wake` was called.
        """
        while True:
            if not self._came:
                self._came += self._channel.take()
            if self._came:
                message: ToChild = decode_to_child(self._came.popleft())
                if isinstance(message, Stop):
                    raise CoreGoneError
                return message
            if self._channel.ended:
                raise CoreGoneError
            if not wait:
                return None
            ready = dict(self._poll.poll())
            if self._death_fd in ready:
                raise CoreGoneError
            if self._wake_fd in ready:
                os.eventfd_read(self._wake_fd)
                return None

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
    end, death_fd, arena_fd, slab, slabs, number = map(int, sys.argv[1:7])
    arena = Arena(arena_fd, slab, slabs)
    threading.Thread(target=_beat, args=(arena, number, death_fd), daemon=True).start()
    return Place(Line(end, death_fd), arena, number, sys.argv[7:])


def _beat(arena: Arena, number: int, death_fd: int) -> None:
    """Count seconds, and end the process after the core, also where its first thread hangs."""
    core = select.poll()
    core.register(death_fd, 0)
    while not core.poll(1000 * _BEAT):
        arena.beat(number)
    time.sleep(_PATIENCE)
    os._exit(0)
