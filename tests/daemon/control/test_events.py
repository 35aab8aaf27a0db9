"""Events reach those who listen, and never hold up those who tell."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import zmq

from loracore.control import FileGone, FileSeen, GetStatus, PublishedEvent, Status, Told
from lorad.control.events import Events
from tests.daemon.control.serving import SECONDS, Library, Line, Raw, Served, serving


class Listener:
    """A SUB socket whose subscriptions are in force once it is made."""

    def __init__(self, served: Served, *topics: bytes, waiting: int = 1000) -> None:
        self.context: zmq.Context[zmq.SyncSocket] = zmq.Context()
        self.socket = self.context.socket(zmq.SUB)
        self.socket.set(zmq.RCVTIMEO, 1000 * SECONDS)
        self.socket.set(zmq.RCVHWM, waiting)
        self._folder = os.open(served.runtime, os.O_PATH)
        for topic in (*topics, b"!here"):
            self.socket.subscribe(topic)
        self.socket.connect(f"ipc:///proc/self/fd/{self._folder}/events.sock")
        while self.socket.recv_multipart()[0] != b"!here":
            pass

    def told(self) -> Told:
        # Answers to others' `!here` are for them.
        while (message := self.socket.recv_multipart())[0].startswith(b"!"):
            pass
        kind, frame = message
        told = msgspec.msgpack.decode(frame, type=Told)
        assert kind.decode() == told.event.__struct_config__.tag
        return told

    def close(self) -> None:
        self.context.destroy(linger=0)
        os.close(self._folder)


@pytest.fixture
def listeners(served: Served) -> Iterator[list[Listener]]:
    made: list[Listener] = []
    yield made
    for listener in made:
        listener.close()


def test_events_are_numbered_and_dated(served: Served, listeners: list[Listener]) -> None:
    """The number goes on when nobody listens, so that a reader sees what it missed."""
    served.server.tell(FileGone(b"/early"))
    listener = Listener(served, b"")
    listeners.append(listener)
    for number in range(3):
        served.server.tell(FileSeen(b"/odd \xff", number))
    told = [listener.told() for _ in range(3)]
    assert [one.event for one in told] == [FileSeen(b"/odd \xff", number) for number in range(3)]
    assert [one.number for one in told] == [2, 3, 4]
    assert told[0].time.endswith("Z")


def test_a_listener_gets_the_kinds_that_it_asked_for(served: Served, listeners: list[Listener]) -> None:
    listener, everything = Listener(served, b"published"), Listener(served, b"")
    listeners += [listener, everything]
    served.server.tell(FileGone(b"/x"))
    served.server.tell(PublishedEvent(9))
    assert listener.told().event == PublishedEvent(9)
    assert [everything.told().number for _ in range(2)] == [1, 2]


def test_a_slow_listener_loses_events_alone(library: Library, tmp_path: Path) -> None:
    """It sees by the numbers that it did; others get all, and requests are answered meanwhile."""
    with serving(library, tmp_path / "run") as served:
        slow, quick = Listener(served, b"", waiting=1), Listener(served, b"", waiting=0)
        received: list[int] = []
        last = 60_000
        reader = threading.Thread(target=lambda: received.extend(_until(quick, last)))
        reader.start()
        big = b"/" + b"x" * 500
        with Line(served) as line:
            for number in range(1, last + 1):
                served.server.tell(FileGone(big))
                if number % 1000 == 0:
                    assert isinstance(line.ask(GetStatus()), Status)
        reader.join(SECONDS)
        assert received[-1] == last
        assert len(received) == last - served.server.events_dropped
        served.server.tell(FileGone(b"/end"))
        first = slow.told().number
        rest = iter(lambda: slow.told().number if slow.socket.poll(200) else None, None)
        numbers = [first, *rest]
        assert numbers == sorted(numbers)
        assert len(numbers) < last
        for listener in (slow, quick):
            listener.close()


def _until(listener: Listener, last: int) -> Iterator[int]:
    while True:
        number = listener.told().number
        yield number
        if number == last:
            return


def test_telling_never_blocks_and_drops_the_oldest() -> None:
    """With nobody to send, the newest are kept and the others counted."""
    woken = itertools.count()
    events = Events(lambda: next(woken), waiting=10)
    events.heard = True
    for number in range(25):
        events.tell(PublishedEvent(number))
    assert events.dropped == 15
    sent = [msgspec.msgpack.decode(frame, type=Told) for _, frame in events.due()]
    assert [told.number for told in sent] == list(range(16, 26))
    assert next(woken) == 1


def test_what_nobody_listens_to_costs_nothing() -> None:
    events = Events(lambda: None)
    events.tell(PublishedEvent(1))
    assert events.due() == []
    assert events.dropped == 0


@pytest.mark.parametrize("frame", [b"", b"\x02", b"noise", b"\x00", b"\x00never subscribed"])
def test_noise_on_the_event_socket_is_nothing(served: Served, listeners: list[Listener], frame: bytes) -> None:
    """An end of what was never subscribed to, above all: others still hear."""
    listener = Listener(served, b"")
    listeners.append(listener)
    with Raw(served.runtime, "events.sock", kind=b"SUB") as line:
        line.send(frame)
        line.send(b"\x01!seen")
        assert line.receive() == [b"!seen", b""], "all before was taken in"
        served.server.tell(PublishedEvent(1))
        assert listener.told().event == PublishedEvent(1)


def test_topics_of_a_subscriber_are_bounded(served: Served, listeners: list[Listener]) -> None:
    """In number and in length; beyond, its connection ends, and others do not notice."""
    listener = Listener(served, b"")
    listeners.append(listener)
    for topics in ([b"t%d" % number for number in range(65)], [b"t" * 65]):
        with Raw(served.runtime, "events.sock", kind=b"SUB") as line:
            for topic in topics:
                line.send(b"\x01" + topic)
            assert line.ended()
    served.server.tell(PublishedEvent(1))
    assert listener.told().event == PublishedEvent(1)
