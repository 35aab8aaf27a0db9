"""The server answers honest requests whatever others send it."""

from __future__ import annotations

import contextlib
import os
import queue
import random
import socket
import stat
import threading
from pathlib import Path

import msgspec
import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loracore import config
from loracore.control import (
    MAX_REQUEST,
    MOST_EDITED,
    Answer,
    Asked,
    Audit,
    Audited,
    GetStatus,
    ListDuplicates,
    ListGroups,
    Noted,
    NoteEdits,
    Refusal,
    Status,
    Wait,
    Waited,
)
from loracore.errors import StateError, UsageError
from loracore.identity import Edited, Identity
from lorad.control.handlers import Command
from lorad.control.server import ControlServer
from lorad.control.sockets import MAX_FRAME
from tests.daemon.control.serving import SECONDS, STATUS, Library, Line, Served, serving

encode = msgspec.msgpack.encode


def honest(served: Served) -> None:
    """A stranger's status request is answered."""
    with Line(served) as line:
        assert isinstance(line.ask(GetStatus()), Status)


def code(answer: Answer) -> str:
    assert isinstance(answer, Refusal)
    return answer.code


def test_a_status_is_the_newest_one_with_the_time_gone_on(served: Served) -> None:
    """The core is not asked: what it left last is answered, and uptime goes on."""
    served.held = queue.Queue()
    with Line(served) as line:
        first = line.ask(GetStatus())
        assert isinstance(first, Status)
        assert msgspec.structs.replace(first, uptime_seconds=5.0) == STATUS
        assert 5 <= first.uptime_seconds < 5 + SECONDS
        served.server.handlers.set_status(msgspec.structs.replace(STATUS, state="reading"))
        second = line.ask(GetStatus())
        assert isinstance(second, Status)
        assert second.state == "reading"
    assert served.held.empty()


def test_before_the_first_status_a_daemon_is_loading(library: Library, tmp_path: Path) -> None:
    """A typed refusal, not silence; queries are answered already."""
    served = Served(library, tmp_path / "run", config.Control())
    served.server.start()
    try:
        with Line(served) as line:
            assert code(line.ask(GetStatus())) == "loading"
            assert not isinstance(line.ask(ListGroups()), Refusal)
    finally:
        served.server.stop()


def test_a_wait_is_answered_when_the_core_says_so(served: Served) -> None:
    """It goes to the core, others are answered meanwhile, and a second reply changes nothing."""
    served.held = queue.Queue()
    with Line(served) as line:
        line.send(encode(Asked(1, Wait())))
        command = served.held.get(timeout=SECONDS)
        assert command.request == Wait()
        honest(served)
        command.reply(Waited(42))
        command.reply(Waited(43))
        answered = line.receive()
        assert (answered.id, answered.answer) == (1, Waited(42))
        line.number = 1
        assert isinstance(line.ask(GetStatus()), Status)


def test_an_audit_is_asked_of_the_core_and_done_beside_it(served: Served) -> None:
    with Line(served) as line:
        assert line.ask(Audit()) == Audited(9, [])


def test_waits_are_bounded(served: Served) -> None:
    """Beyond some hundred, clients are told to come again; the earlier ones are still answered."""
    served.held = queue.Queue()
    with Line(served) as line:
        for number in range(1, 300):
            line.send(encode(Asked(number, Wait())))
        refused = {line.receive().id for _ in range(299 - 256)}
        assert refused == set(range(257, 300))
        for _ in range(256):
            served.held.get(timeout=SECONDS).reply(Waited(1))
        assert {line.receive().id for _ in range(256)} == set(range(1, 257))


def test_a_core_that_raises_harms_nobody(library: Library, tmp_path: Path) -> None:
    def post(command: Command) -> None:
        raise RuntimeError("no")

    served = Served(library, tmp_path / "run", config.Control())
    served.server = ControlServer(str(served.runtime), str(library.state), config.Control(), post)
    served.server.start()
    served.server.handlers.set_status(STATUS)
    try:
        with Line(served) as line:
            assert code(line.ask(Wait())) == "failed"
            assert isinstance(line.ask(GetStatus()), Status)
    finally:
        served.server.stop()


def test_what_cannot_be_encoded_is_a_refusal(served: Served) -> None:
    """A status with text that is no UTF-8 is a fault of ours, and told as one."""
    served.server.handlers.set_status(msgspec.structs.replace(STATUS, hasher="\udcff"))
    with Line(served) as line:
        assert code(line.ask(GetStatus())) == "failed"
    served.server.handlers.set_status(STATUS)
    honest(served)


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ([b""], "malformed"),
        ([b"\xc1garbage"], "malformed"),
        ([encode(Asked(1, GetStatus()))[:-2]], "malformed"),
        ([b"\x91" * MAX_REQUEST], "malformed"),
        ([b"a", b"b", b"c"], "malformed"),
        ([b"x"] * 1000, "malformed"),
        ([b"\x00" * (MAX_REQUEST + 1)], "too-large"),
        ([b"\x00" * MAX_FRAME], "too-large"),
        ([encode({"id": 1, "version": 9, "request": {"type": "status"}})], "version"),
        ([encode({"id": 1, "request": {"type": "nonsense"}})], "unknown-request"),
    ],
    ids=["empty", "garbage", "cut", "nested", "frames", "many frames", "large", "larger", "version", "unknown"],
)
def test_hostile_messages_get_a_typed_error(served: Served, frames: list[bytes], expected: str) -> None:
    """SPEC 11: and both their sender's next request and everybody else's are answered."""
    with Line(served) as line:
        line.send(*frames)
        assert code(line.receive().answer) == expected
        line.number = 1
        assert isinstance(line.ask(GetStatus()), Status)
    honest(served)


def test_frames_of_ten_megabytes_end_their_connection_alone(served: Served) -> None:
    """They are not even read. The sender's socket connects again by itself and may go on."""
    with Line(served) as other, Line(served) as line:
        assert isinstance(other.ask(GetStatus()), Status)
        monitor = line.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        line.send(bytes(10 << 20))
        assert monitor.poll(1000 * SECONDS)
        line.socket.disable_monitor()
        monitor.close()
        assert isinstance(other.ask(GetStatus()), Status)
    honest(served)


def test_replayed_requests_are_refused(served: Served) -> None:
    with Line(served) as line:
        frame = encode(Asked(5, GetStatus()))
        line.send(frame)
        assert isinstance(line.receive().answer, Status)
        line.send(frame)
        answered = line.receive()
        assert (answered.id, code(answered.answer)) == (5, "replayed")
        line.number = 5
        assert isinstance(line.ask(GetStatus()), Status)


def test_two_hundred_connections_opened_and_dropped(served: Served) -> None:
    """Of every kind: silent ones, ones that stop in the greeting or send noise, ones that do not read answers."""
    raw = []
    for number in range(200):
        line = socket.socket(socket.AF_UNIX)
        line.settimeout(SECONDS)
        with Inside(served.runtime):
            line.connect("control.sock")
        with contextlib.suppress(BrokenPipeError):
            line.send([b"", b"\xff\0\0\0", os.urandom(100), b"GET / HTTP/1.1\r\n\r\n"][number % 4])
        raw.append(line)
    honest(served)
    for line in raw:
        line.close()
    for _ in range(20):
        with Line(served) as asker:
            for number in range(1, 40):
                asker.send(encode(Asked(number, ListDuplicates())))
    honest(served)


class Inside:
    """The current folder, for addresses that would be too long."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> None:
        self._before = os.getcwd()
        os.chdir(self._folder)

    def __exit__(self, *exc: object) -> None:
        os.chdir(self._before)


def test_many_queries_at_once_are_answered_or_refused(served: Served) -> None:
    """None is lost: each has an answer, be it that too much was asked at once."""
    with Line(served) as line:
        for number in range(1, 61):
            line.send(encode(Asked(number, ListGroups())))
        answers = [line.receive() for _ in range(60)]
        assert {answered.id for answered in answers} == set(range(1, 61))
        refused = {code(one.answer) for one in answers if isinstance(one.answer, Refusal)}
        assert refused <= {"busy"}
    honest(served)


def test_who_does_not_read_answers_loses_them_alone(served: Served) -> None:
    """Thousands of unread answers neither fill the memory nor keep others waiting."""
    with Line(served) as line:
        line.socket.set(zmq.RCVHWM, 1)
        for number in range(1, 5001):
            line.send(encode(Asked(number, GetStatus())))
        honest(served)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(messages=st.lists(st.lists(st.binary(max_size=200), min_size=1, max_size=4), max_size=8))
def test_any_messages_leave_the_server_well(served: Served, messages: list[list[bytes]]) -> None:
    """Fuzzing over the socket: an answer for each message, then an honest one."""
    with Line(served) as line:
        for frames in messages:
            line.send(*frames)
            assert isinstance(line.receive().answer, Refusal | Status | Waited)
        line.number = 2**62
        assert isinstance(line.ask(GetStatus()), Status)


def test_sockets_are_for_owner_and_group_alone(library: Library, tmp_path: Path) -> None:
    """0660 in a folder of 0750, or as configured, whatever the umask; gone when the daemon ends."""
    before = os.umask(0)
    try:
        with serving(library, tmp_path / "run") as served:
            assert _mode(served.runtime) == 0o750
            names = sorted(os.listdir(served.runtime))
            assert names == ["control.sock", "events.sock"]
            assert {_mode(served.runtime / name) for name in names} == {0o660}
        assert os.listdir(tmp_path / "run") == []
        with serving(library, tmp_path / "private", config.Control(socket_mode="0600")) as served:
            assert _mode(served.runtime / "control.sock") == 0o600
    finally:
        os.umask(before)


def _mode(path: Path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def test_sockets_left_by_a_kill_are_taken_over(library: Library, tmp_path: Path) -> None:
    runtime = tmp_path / "run"
    runtime.mkdir()
    left = socket.socket(socket.AF_UNIX)
    with Inside(runtime):
        left.bind("control.sock")
    left.close()
    with serving(library, runtime) as served:
        honest(served)


def test_a_long_runtime_folder_works(library: Library, tmp_path: Path) -> None:
    """Addresses of local sockets hold 107 bytes; folders may be longer."""
    with serving(library, tmp_path / ("long" * 40)) as served:
        honest(served)


@pytest.mark.parametrize(
    ("settings_", "word"),
    [
        (config.Control(socket_mode="rw-rw----"), "socket_mode"),
        (config.Control(socket_mode="0"), "socket_mode"),
        (config.Control(socket_group="no such group"), "groupadd"),
        (config.Control(tcp="5570"), "host:port"),
    ],
)
def test_wrong_settings_say_what_to_give(
    library: Library, tmp_path: Path, settings_: config.Control, word: str
) -> None:
    server = ControlServer(str(tmp_path / "run"), str(library.state), settings_, lambda command: None)
    with pytest.raises(UsageError, match=word):
        server.start()
    server.stop()


def test_a_runtime_folder_that_cannot_be_is_said(library: Library, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    server = ControlServer(
        str(tmp_path / "file" / "run"), str(library.state), config.Control(), lambda command: None
    )
    with pytest.raises(StateError, match="--runtime-dir"):
        server.start()
    server.stop()


def test_stop_ends_waiting_clients(library: Library, tmp_path: Path) -> None:
    """No thread stays, and whoever waits sees the connection end."""
    before = threading.active_count()
    with serving(library, tmp_path / "run") as served:
        served.held = queue.Queue()
        line = Line(served)
        monitor = line.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        line.send(encode(Asked(1, Wait())))
        served.held.get(timeout=SECONDS)
    assert monitor.poll(1000 * SECONDS)
    line.socket.disable_monitor()
    monitor.close()
    with line:
        assert threading.active_count() == before


def test_a_status_is_answered_while_the_core_computes(served: Served) -> None:
    """With a core that never rests and a queue of queries; `bench.daemon` says how fast."""
    ended = threading.Event()

    def compute() -> None:
        rng = random.Random(1)
        while not ended.is_set():
            sorted(rng.random() for _ in range(500))

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        with Line(served) as line, Line(served) as other:
            for number in range(1, 301):
                other.send(encode(Asked(number, ListGroups())))
                assert isinstance(line.ask(GetStatus()), Status)
    finally:
        ended.set()
        thread.join()


def test_edits_are_noted_at_once_and_so_many(served: Served) -> None:
    """The core gets them when it has time; too many in one request, and too many that wait, are refused."""
    served.held = queue.Queue()
    one = Edited(b"/a", Identity(1, 2, 3, 4, 5), Identity(1, 3, 3, 4, 6))
    with Line(served) as line:
        assert code(line.ask(NoteEdits([one] * (MOST_EDITED + 1)))) == "malformed"
        assert isinstance(line.ask(NoteEdits([one] * MOST_EDITED)), Noted)
        asked = 1
        while isinstance(answer := line.ask(NoteEdits([one])), Noted):
            asked += 1
        assert code(answer) == "busy"
        first = served.held.get(timeout=SECONDS)
        assert first.request == NoteEdits([one] * MOST_EDITED)
        assert served.held.qsize() == asked - 1 < 1000
        first.reply(Noted())
        assert isinstance(line.ask(NoteEdits([one])), Noted)
