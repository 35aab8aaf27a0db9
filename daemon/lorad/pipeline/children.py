"""The core's child processes: listened to, noticed when they end, started again, stopped."""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress

import msgspec

from lorad.pipeline.arena import Pulse
from lorad.pipeline.channel import Channel
from lorad.pipeline.launch import Child, Crew
from lorad.pipeline.protocol import Stop, ToChild, ToCore, decode_to_core, encode

_LOG = logging.getLogger(__name__)
#: Seconds that children have to end when asked to.
_PATIENCE = 1.0


class Children:
    """All children of a crew, and what they speak by."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._wake_fd, select.POLLIN)
        self._children = {child.name: child for child in crew.children}
        #: By name, those of processes that have not ended.
        self._channels: dict[str, Channel] = {}
        self._pidfds: set[int] = set()
        for child in crew.children:
            self._attend(child)

    def send(self, name: str, message: ToChild) -> None:
        """Send to a child; a message to one that just died is dropped, its death is told by `dead`."""
        channel = self._channels.get(name)
        if channel is not None:
            channel.put(encode(message))
            self._listen(channel)

    def received(self) -> Iterator[tuple[str, ToCore]]:
        """What living children have sent, without waiting."""
        for name, channel in list(self._channels.items()):
            for frame in channel.take():
                try:
                    message = decode_to_core(frame)
                except (msgspec.MsgspecError, RecursionError, ValueError) as error:
                    _LOG.warning("what the %s process sent is no message: %s", name, error)
                else:
                    yield name, message
            if channel.ended:
                # Its process has ended, or is about to.
                with suppress(KeyError):
                    self._poll.unregister(channel)

    def wait(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for a message, a death or `wake`; whether some child has ended."""
        ready = dict(self._poll.poll(max(0, int(timeout * 1000))))
        if ready.pop(self._wake_fd, None):
            os.eventfd_read(self._wake_fd)
        for channel in self._channels.values():
            if ready.get(channel.fileno(), 0) & select.POLLOUT:
                self._listen(channel)
        return not self._pidfds.isdisjoint(ready)

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
        os.close(self._wake_fd)

    def _attend(self, child: Child) -> None:
        """Listen to a child that was started, and for its end."""
        assert child.end is not None
        channel = self._channels[child.name] = Channel(child.end)
        self._poll.register(channel, select.POLLIN)
        self._poll.register(child.pidfd, select.POLLIN)
        self._pidfds.add(child.pidfd)

    def _listen(self, channel: Channel) -> None:
        """Also for room, where something waits to be sent."""
        if not channel.ended:
            self._poll.modify(channel, select.POLLIN | (0 if channel.flush() else select.POLLOUT))

    def _reap(self, child: Child) -> None:
        channel = self._channels.pop(child.name)
        with suppress(KeyError):
            self._poll.unregister(channel)
        channel.close()
        self._poll.unregister(child.pidfd)
        self._pidfds.discard(child.pidfd)
        os.close(child.pidfd)
        child.process, child.pidfd, child.end = None, -1, None
