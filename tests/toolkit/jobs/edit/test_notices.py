"""An edit says which files it put in place: all of them, soon, and many at once."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from loracore.control import MAX_REQUEST, MOST_EDITED, Asked, NoteEdits
from loracore.identity import Edited, Identity
from lorakit.jobs.edit import notices
from lorakit.jobs.edit.batch import _FILES
from lorakit.jobs.edit.notices import Notices

LARGE = Identity(2**64 - 1, 2**64 - 1, 2**63 - 1, 2**63 - 1, 2**63 - 1)


def file(number: int, length: int) -> Edited:
    return Edited(b"/%0*d" % (length, number), LARGE, LARGE)


@pytest.mark.parametrize("length", [10, 4096])
def test_each_message_is_a_request_that_is_taken(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    """Also of the longest names; none is lost, and their order stays."""
    monkeypatch.setattr(notices, "_EVERY", 1e9)
    sent: list[Sequence[Edited]] = []
    all_ = Notices(sent.append)
    files = [file(number, length) for number in range(_FILES)]
    for each in files:
        all_.add(each)
    all_.send()
    all_.send()
    assert [each for one in sent for each in one] == files
    assert 1 < len(sent) < 20
    for one in sent:
        assert len(one) <= MOST_EDITED
        assert len(msgspec.msgpack.encode(Asked(2**63 - 1, NoteEdits([*one])))) <= MAX_REQUEST


def test_what_waits_is_said_while_a_long_file_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first at once, the others when some time has passed."""
    sent: list[Sequence[Edited]] = []
    monkeypatch.setattr(notices, "_EVERY", 1e9)
    all_ = Notices(sent.append)
    for number in range(3):
        all_.add(file(number, 5))
    all_.send_due()
    assert [len(one) for one in sent] == [1]
    monkeypatch.setattr(notices, "_EVERY", 0.0)
    all_.send_due()
    assert [len(one) for one in sent] == [1, 2]
