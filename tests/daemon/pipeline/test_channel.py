"""Messages between the core and its processes come whole, in order, and keep nobody waiting."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from lorad.pipeline.channel import Channel
from lorad.pipeline.protocol import MAX_MESSAGE


@pytest.fixture
def pair() -> Iterator[tuple[Channel, Channel]]:
    one, other = socket.socketpair()
    with one, other:
        yield Channel(one), Channel(other)


Pair = tuple[Channel, Channel]


def test_messages_of_any_size_come_whole_and_in_order(pair: Pair) -> None:
    """Also those that are larger than what the system holds, and many at once."""
    one, other = pair
    messages = [bytes([number % 251]) * size for number, size in enumerate([0, 1, 4, 70_000, 0, 5_000_000] * 20)]

    def send() -> None:
        for message in messages:
            one.put(message)
        while not one.flush():
            pass

    thread = threading.Thread(target=send)
    thread.start()
    came: list[bytes] = []
    while len(came) < len(messages):
        came += other.take()
    thread.join()
    assert came == messages


def test_what_does_not_fit_is_kept(pair: Pair) -> None:
    """`put` does not wait for the other end to read."""
    one, other = pair
    one.put(bytes(50_000_000))
    assert not one.flush()
    assert list(other.take()) == []
    while not one.flush():
        list(other.take())


def test_what_was_said_before_the_end_is_read(pair: Pair) -> None:
    """And what is put after it is nothing."""
    one, other = pair
    one.put(b"last words")
    one.close()
    other.put(b"unheard")
    other.put(b"unheard")
    assert other.flush()
    assert list(other.take()) == [b"last words"]
    assert other.ended


def test_more_than_is_ever_said_ends_it() -> None:
    """The length alone is enough: nothing is kept for it."""
    one, other = socket.socketpair()
    with one, other:
        channel = Channel(one)
        other.sendall((MAX_MESSAGE + 1).to_bytes(4, "little") + b"more")
        assert list(channel.take()) == []
        assert channel.ended
