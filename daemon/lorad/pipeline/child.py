"""A child's end of the line to the core: one socket, and the pipe that tells when the core is gone."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from typing import NoReturn

import zmq

from lorad.pipeline.protocol import MAX_MESSAGE, Ready, Stop, ToChild, ToCore, decode_to_child, encode


class CoreGoneError(Exception):
    """The core process ended, or asked this child to end."""


class Line:
    """Sends to and receives from the core. Arguments come from `lorad.pipeline.children`."""

    def __init__(self, name: str, address: str, death_fd: int) -> None:
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
        self.send(Ready(os.getpid()))

    def send(self, message: ToCore) -> None:
        self._socket.send(encode(message), copy=True)

    def receive(self, *, wait: bool = True) -> ToChild | None:
        """The next message; None when there is none and `wait` is False. Raises CoreGoneError."""
        try:
            frame = self._socket.recv(zmq.NOBLOCK)
        except zmq.Again:
            if not wait:
                return None
            events = dict(self._poller.poll())
            if self._death_fd in events:
                raise CoreGoneError from None
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
            assert message is not None
            yield message

    def leave(self) -> NoReturn:
        """End this process at once. It holds nothing that the system does not take back faster than we do."""
        os._exit(0)


def arguments() -> tuple[Line, list[str]]:
    """The line to the core and the further arguments, from the command line of a child."""
    name, address, death_fd, *others = sys.argv[1:]
    return Line(name, address, int(death_fd)), others
