"""`loractl.Client`: typed answers, typed errors, and none of them late."""

from __future__ import annotations

import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import zmq

import loractl
from loracore import config
from loracore.control import (
    Answered,
    Audited,
    Examined,
    FileGone,
    PublishedEvent,
    Waited,
)
from loracore.errors import LoraError, NoDaemonError, RefusedError, TimedOutError, UsageError
from lorad.control import pages
from tests.daemon.control.serving import ODD, SECONDS, STATUS, Library, Served, serving
from tests.integration.scanning import view


@pytest.fixture
def client(served: Served) -> Iterator[loractl.Client]:
    with loractl.Client(served.socket) as made:
        yield made


def test_every_query_has_a_method(client: loractl.Client, served: Served) -> None:
    """SPEC 10: what the commands show, scripts get as structs."""
    written = view(served.library.state, "duplicates")
    assert client.status().children == STATUS.children
    assert client.wait() == Waited(7)
    assert [group.signature.hex() for group in client.groups()] == sorted(
        view(served.library.state, "groups")["groups"]
    )
    assert {os.fsdecode(one.kept) for one in client.duplicates()} == set(written["duplicates"])
    assert {level for one in client.duplicates("inode") for _, level in one.others} == {"inode"}
    assert [os.path.basename(file.path) for file in client.failed()] == [b"bad.safetensors"]
    layout = next(iter(client.groups())).signature.hex()
    assert {match.kind for match in client.find(layout[:10])} == {"layout"}
    assert client.audit() == Audited(9, [])
    assert isinstance(client.doctor(), Examined)


def test_files_are_shown_by_any_path_to_them(
    client: loractl.Client, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative, through a symbolic link to the folder, as bytes that are not UTF-8."""
    folder = served.library.folder
    link = tmp_path / "link"
    link.symlink_to(folder)
    monkeypatch.chdir(folder)
    for path in ("a.safetensors", link / "a.safetensors", "../loras/./a.safetensors", ODD, os.fsdecode(ODD)):
        assert client.show(path).status == "duplicate"
    with pytest.raises(RefusedError, match="no such file") as caught:
        client.show("nothing")
    assert caught.value.code == "not-found"


def test_groups_and_sets_are_whole_whatever_the_pages(
    client: loractl.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups, sets = list(client.groups()), list(client.duplicates())
    monkeypatch.setattr(pages, "PAGE_BYTES", 10)
    assert list(client.groups()) == groups
    # The pages of the whole list are kept for a while, so that this is another list.
    assert list(client.duplicates("tensors")) != sets
    assert {one.kept for one in client.duplicates("file")} <= {one.kept for one in sets}


def test_events_begin_when_the_call_returns(client: loractl.Client, served: Served) -> None:
    with client.events(["published", "gone"]) as events, client.events() as everything:
        served.server.tell(FileGone(b"/x"))
        served.server.tell(PublishedEvent(3))
        assert [events.next(SECONDS).event for _ in range(2)] == [FileGone(b"/x"), PublishedEvent(3)]
        assert everything.next(SECONDS).number == 1
        with pytest.raises(TimedOutError):
            events.next(0.01)


def test_a_wait_that_takes_too_long_times_out(client: loractl.Client, served: Served) -> None:
    """And its late answer is not taken for another request's."""
    served.held = queue.Queue()
    since = time.monotonic()
    with pytest.raises(TimedOutError) as caught:
        client.wait(timeout=0.1)
    assert time.monotonic() - since < SECONDS
    assert caught.value.exit_code == 4
    served.held.get(timeout=SECONDS).reply(Waited(1))
    assert client.status().state == "idle"


def test_a_daemon_that_ends_ends_the_wait(library: Library, tmp_path: Path) -> None:
    """With no limit of time, too."""
    with serving(library, tmp_path / "run") as served:
        served.held = queue.Queue()
        client = loractl.Client(served.socket)
        events = client.events()
        held = served.held
        stopper = threading.Thread(target=lambda: (held.get(timeout=SECONDS), served.server.stop()))
        stopper.start()
        with client, pytest.raises(NoDaemonError):
            client.wait()
        stopper.join()
    with pytest.raises(NoDaemonError):
        next(events)


def test_no_daemon_is_said_at_once_with_the_remedy(tmp_path: Path) -> None:
    """For a socket that is not there, one that nobody listens on, and what is no socket."""
    left = tmp_path / "left.sock"
    with socket.socket(socket.AF_UNIX) as old:
        os.chdir(tmp_path)
        old.bind("left.sock")
    (tmp_path / "file").touch()
    for path in (tmp_path / "nothing", left, tmp_path / "file", tmp_path / "file" / "sock"):
        with pytest.raises(NoDaemonError, match="start it: systemctl start lorad") as caught:
            loractl.Client(str(path))
        assert caught.value.exit_code == 3


def test_the_daemon_is_found_by_environment_and_place(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LORAD_SOCKET first, else the runtime folders; a folder stands for the socket in it."""
    monkeypatch.setenv("LORAD_SOCKET", served.socket)
    with loractl.Client() as client:
        assert client.status().pid == STATUS.pid
    monkeypatch.setenv("LORAD_SOCKET", str(served.runtime))
    with loractl.Client() as client:
        assert client.status().pid == STATUS.pid
    monkeypatch.delenv("LORAD_SOCKET")
    monkeypatch.setattr("loracore.paths.SYSTEM_RUNTIME_DIR", str(tmp_path / "none"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "xdg"))
    with pytest.raises(NoDaemonError, match=r"none/control.sock or .*xdg/lorad/control.sock or .*lorad/run"):
        loractl.Client()
    (tmp_path / "xdg").mkdir()
    (tmp_path / "xdg" / "lorad").symlink_to(served.runtime)
    with loractl.Client() as client:
        assert client.status().pid == STATUS.pid


@pytest.mark.parametrize("place", ["tcp://host", "tcp://host:0", "tcp://:55", "tcp://host:port"])
def test_a_wrong_address_is_wrong_usage(place: str) -> None:
    with pytest.raises(UsageError, match="tcp://host:port"):
        loractl.Client(place)


def test_a_socket_of_a_long_path_works(library: Library, tmp_path: Path) -> None:
    with serving(library, tmp_path / ("long" * 40)) as served, loractl.Client(served.socket) as client:
        assert client.status().pid == STATUS.pid
        with client.events() as events:
            served.server.tell(FileGone(b"/x"))
            assert events.next(SECONDS).event == FileGone(b"/x")


@pytest.mark.parametrize(
    ("frame", "error"),
    [
        (b"\xc1", LoraError),
        (b"\x91" * 9000, LoraError),
        (msgspec.msgpack.encode(Answered(1, Waited(1), version=7)), RefusedError),
        (msgspec.msgpack.encode({"version": 1, "id": 1, "answer": {"type": "new"}}), LoraError),
        (msgspec.msgpack.encode(Answered(1, Waited(1))), LoraError),
    ],
)
def test_a_daemon_that_answers_nonsense_is_an_error(tmp_path: Path, frame: bytes, error: type[Exception]) -> None:
    """Another program's socket, or a daemon of another version."""
    context: zmq.Context[zmq.SyncSocket] = zmq.Context()
    fake = context.socket(zmq.ROUTER)
    fake.set(zmq.RCVTIMEO, 1000 * SECONDS)
    os.chdir(tmp_path)
    fake.bind("ipc://fake.sock")

    def answer() -> None:
        identity, _ = fake.recv_multipart()
        fake.send_multipart([identity, frame])

    thread = threading.Thread(target=answer)
    thread.start()
    with loractl.Client("fake.sock") as client, pytest.raises(error):
        client.status()
    thread.join()
    context.destroy(linger=0)


def test_a_request_that_is_too_large_is_refused_here(client: loractl.Client) -> None:
    """The daemon would end the connection."""
    with pytest.raises(RefusedError) as caught:
        list(client.find("0" * 70_000))
    assert caught.value.code == "too-large"
    assert client.status().pid == STATUS.pid


def test_the_clients_are_loaded_when_they_are_asked_for() -> None:
    """`loractl --help` waits neither for ZeroMQ nor for rich or asyncio."""
    code = (
        "import sys, loractl.cli; "
        "loractl.cli.cli.main(['--help'], standalone_mode=False); "
        "assert not {'zmq', 'rich', 'asyncio', 'msgspec', 'torch', 'lorad'} & set(sys.modules), sys.modules; "
        "import loractl; loractl.Client; loractl.AsyncClient; assert 'zmq' in sys.modules; "
        "assert not {'rich', 'torch', 'lorad'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=SECONDS, stdout=subprocess.DEVNULL)


def test_clients_by_tcp(library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a key that was made here and allowed there; without it, an error says what to do."""
    from loractl import keys
    from tests.daemon.control.test_tcp import free_port

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    theirs = tmp_path / "keys"
    address = f"127.0.0.1:{free_port()}"
    settings = config.Control(tcp=address, keys_dir=str(theirs))
    place = f"tcp://{address}"
    with pytest.raises(NoDaemonError, match="refused"):
        loractl.Client(place)
    with serving(library, tmp_path / "run", settings) as served:
        server_key = str(theirs / "server.key")
        with pytest.raises(LoraError, match="--server-key"):
            loractl.Client(place)
        with pytest.raises(UsageError, match="loractl keys make"):
            loractl.Client(place, server_key=server_key)
        mine = keys.make_pair(str(tmp_path / "config" / "lorad"), "client")
        with loractl.Client(place, server_key=server_key) as client, pytest.raises(RefusedError) as caught:
            client.status()
        assert caught.value.code == "unauthorized"
        keys.allow(mine.key, str(theirs), "me")
        (known,) = keys.public_keys(str(theirs))
        with loractl.Client(place, server_key=known.key) as client:
            assert client.status().pid == STATUS.pid
            with client.events() as events:
                served.server.tell(FileGone(b"/x"))
                assert events.next(SECONDS).event == FileGone(b"/x")
        with (
            loractl.Client(place, server_key=mine.key) as client,
            pytest.raises(NoDaemonError, match="server-key"),
        ):
            client.status()
