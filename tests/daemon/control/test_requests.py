"""Frames become requests or typed refusals, whatever is in them."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loracore.control import (
    MAX_REQUEST,
    ApplyDedupe,
    Asked,
    Find,
    GetSavings,
    GetStatus,
    ListHistory,
    NoteEdits,
    PlanDedupe,
    Request,
    Show,
    UndoActions,
)
from loracore.identity import Edited, Identity
from lorad.control.requests import RefusedRequest, Requests

encode = msgspec.msgpack.encode


def _edit(after: list[float]) -> dict[str, object]:
    return {"path": b"/a", "before": [1, 2, 3, 4, 5], "after": after}


def refused(*frames: bytes) -> RefusedRequest:
    with pytest.raises(RefusedRequest) as caught:
        Requests().read("somebody", list(frames))
    return caught.value


@pytest.mark.parametrize(
    "request_",
    [
        GetStatus(),
        Show(b"/a\xff"),
        Find("abcd"),
        PlanDedupe("delete", [b"oldest", b"path-prefix:/a\xff"], ["file"], "x"),
        PlanDedupe(),
        ApplyDedupe("symlink", [b"newest"], ["file", "tensors"]),
        UndoActions([1, 2**63]),
        UndoActions(all=True),
        ListHistory("7"),
        GetSavings(),
        NoteEdits([Edited(b"/a\xff", Identity(2**64 - 1, 2**63, 1, -1, 2), Identity(1, 2, 3, 4, 5))]),
        NoteEdits([]),
    ],
)
def test_requests_are_read(request_: Request) -> None:
    """What loracore encodes is what the daemon reads."""
    assert Requests().read("somebody", [encode(Asked(5, request_))]) == Asked(5, request_)


@pytest.mark.parametrize(
    ("frame", "number", "code"),
    [
        (b"", 0, "malformed"),
        (b"\xc1", 0, "malformed"),
        (b"\x91" * 60_000, 0, "malformed"),
        (encode({"id": 1, "request": 5, "deep": None})[:-1] + b"\x91" * 60_000, 0, "malformed"),
        (encode([1, 2]), 0, "malformed"),
        (encode({"id": "1", "request": {"type": "status"}}), 0, "malformed"),
        (encode({"id": -1, "request": {"type": "status"}}), 0, "malformed"),
        (encode({"id": 2**63, "request": {"type": "status"}}), 0, "malformed"),
        (encode({"id": 1}), 0, "malformed"),
        (encode(Asked(1, GetStatus()))[:-3], 0, "malformed"),
        (b"x" * (MAX_REQUEST + 1), 0, "too-large"),
        (encode({"id": 3, "request": {"type": "status"}, "version": 2}), 3, "version"),
        (encode({"id": 3, "request": {"type": "format-disk"}}), 3, "unknown-request"),
        (encode({"id": 3, "request": {"type": "show"}}), 3, "malformed"),
        (encode({"id": 3, "request": {"type": "show", "path": 7}}), 3, "malformed"),
        (encode({"id": 3, "request": {"type": b"status"}}), 3, "malformed"),
        (encode({"id": 3, "request": {"type": "plan", "keep": ["oldest"]}}), 3, "malformed"),
        (encode({"id": 3, "request": {"type": "dedupe", "action": None}}), 3, "malformed"),
        (encode({"id": 3, "request": {"type": "undo", "ids": "all"}}), 3, "malformed"),
        (encode({"id": 3, "request": {"type": "undo", "ids": [1.5], "all": 1}}), 3, "malformed"),
        (encode({"id": 3, "request": {"type": "note-edits"}}), 3, "malformed"),
        (encode({"id": 3, "request": {"type": "note-edits", "files": [{"path": "/a"}]}}), 3, "malformed"),
        (encode({"id": 3, "request": {"type": "note-edits", "files": [_edit([1, 2, 3, 4])]}}), 3, "malformed"),
        (
            encode({"id": 3, "request": {"type": "note-edits", "files": [_edit([1, 2, 3, 4, 5.5])]}}),
            3,
            "malformed",
        ),
        (encode({"id": 3, "request": []}), 3, "malformed"),
        (encode({"id": 3, "request": {"type": "\x1b[31m" * 1000}}), 3, "unknown-request"),
    ],
)
def test_what_is_no_request_is_refused(frame: bytes, number: int, code: str) -> None:
    """Each way to be wrong has its code, and a text short and plain enough to be shown."""
    error = refused(frame)
    assert (error.id, error.refusal.code) == (number, code)
    assert len(error.refusal.text) < 300
    assert error.refusal.text.isprintable()


def test_a_request_is_one_frame() -> None:
    assert refused(b"", encode(Asked(1, GetStatus()))).refusal.code == "malformed"
    assert refused().refusal.code == "malformed"


def test_numbers_of_a_connection_must_grow() -> None:
    """The same number, or an earlier one, is not answered again; other connections have their own numbers."""
    requests = Requests()
    for number in (1, 2, 10):
        requests.read("a", [encode(Asked(number, GetStatus()))])
    for number in (10, 9, 1):
        with pytest.raises(RefusedRequest) as caught:
            requests.read("a", [encode(Asked(number, GetStatus()))])
        assert (caught.value.id, caught.value.refusal.code) == (number, "replayed")
    requests.read("b", [encode(Asked(1, GetStatus()))])
    requests.read("a", [encode(Asked(11, GetStatus()))])


def test_the_memory_of_connections_is_bounded() -> None:
    requests = Requests()
    for connection in range(10_000):
        requests.read(connection, [encode(Asked(1, GetStatus()))])
    assert len(requests._newest) < 5000


@given(frames=st.lists(st.binary(max_size=300), max_size=3))
def test_any_bytes_are_read_or_refused(frames: list[bytes]) -> None:
    """No bytes raise anything but RefusedRequest."""
    try:
        Requests().read("somebody", frames)
    except RefusedRequest as error:
        encode(error.refusal)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(
    message=st.fixed_dictionaries(
        {
            "id": _VALUES,
            "request": _VALUES
            | st.fixed_dictionaries({"type": _VALUES | st.sampled_from(["show", "find", "undo", "plan"])}),
        },
        optional={"version": _VALUES | st.just(1), "other": _VALUES},
    ),
    cut=st.integers(0, 40),
    flip=st.integers(0, 10_000),
)
def test_any_message_is_read_or_refused(message: dict[str, object], cut: int, flip: int) -> None:
    """The same for what is nearly a request."""
    frame = bytearray(encode(message))
    frame = frame[: len(frame) - cut] if cut < 20 else frame
    if frame and flip < 5000:
        frame[flip % len(frame)] ^= 1 + flip % 255
    try:
        Requests().read("somebody", [bytes(frame)])
    except RefusedRequest as error:
        encode(error.refusal)
