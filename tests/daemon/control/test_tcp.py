"""By TCP, only clients with an allowed key are answered, and nothing goes in the clear."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import zmq
import zmq.auth

from loracore import config
from loracore.control import Answered, Asked, GetStatus, Status
from loracore.errors import StateError
from lorad.control.client_keys import AllowList, answer_handshake, server_keys
from lorad.control.server import ControlServer
from tests.daemon.control.serving import SECONDS, Library, Line, Served, serving


def free_port() -> int:
    """A port such that the next one is free, too."""
    while True:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            try:
                other.bind(("127.0.0.1", one.getsockname()[1] + 1))
            except (OSError, OverflowError):
                continue
            return int(one.getsockname()[1])


@pytest.fixture
def remote(library: Library, tmp_path: Path) -> Iterator[tuple[Served, str, Path]]:
    """A server by TCP, its address, and its folder of keys."""
    keys = tmp_path / "keys"
    (keys / "allowed").mkdir(parents=True)
    address = f"127.0.0.1:{free_port()}"
    with serving(library, tmp_path / "run", config.Control(tcp=address, keys_dir=str(keys))) as served:
        yield served, f"tcp://{address}", keys


class Caller:
    """A client by TCP, with whatever keys it is given; events of its handshake on `monitor`."""

    def __init__(self, address: str, pair: tuple[bytes, bytes] | None, server_key: bytes | None) -> None:
        self.context: zmq.Context[zmq.SyncSocket] = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.set(zmq.LINGER, 0)
        self.socket.set(zmq.RCVTIMEO, 1000 * SECONDS)
        if pair and server_key:
            self.socket.set(zmq.CURVE_PUBLICKEY, pair[0])
            self.socket.set(zmq.CURVE_SECRETKEY, pair[1])
            self.socket.set(zmq.CURVE_SERVERKEY, server_key)
        self.monitor = self.socket.get_monitor_socket(
            zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_SUCCEEDED
        )
        self.socket.connect(address)

    def status(self) -> Status:
        self.socket.send(msgspec.msgpack.encode(Asked(1, GetStatus())))
        answer = msgspec.msgpack.decode(self.socket.recv(), type=Answered).answer
        assert isinstance(answer, Status)
        return answer

    def first_event(self) -> int:
        assert self.monitor.poll(1000 * SECONDS)
        return int.from_bytes(self.monitor.recv_multipart()[0][:2], "little")

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *exc: object) -> None:
        self.socket.disable_monitor()
        self.monitor.close()
        self.context.destroy(linger=0)


def allow(keys: Path, name: str) -> tuple[bytes, bytes]:
    """A new key pair that is allowed."""
    public, secret = zmq.curve_keypair()
    (keys / "allowed" / f"{name}.key").write_text(f'metadata\ncurve\n    public-key = "{public.decode()}"\n')
    return public, secret


def public_key(keys: Path) -> bytes:
    return zmq.auth.load_certificate(keys / "server.key")[0]


def test_an_allowed_key_is_answered(remote: tuple[Served, str, Path]) -> None:
    """Also one that was allowed while the daemon ran."""
    _, address, keys = remote
    pair = allow(keys, "laptop")
    with Caller(address, pair, public_key(keys)) as caller:
        assert caller.first_event() == zmq.EVENT_HANDSHAKE_SUCCEEDED
        assert isinstance(caller.status(), Status)


def test_events_come_by_tcp_from_the_next_port(remote: tuple[Served, str, Path]) -> None:
    _, address, keys = remote
    pair = allow(keys, "laptop")
    host, _, port = address.rpartition(":")
    context: zmq.Context[zmq.SyncSocket] = zmq.Context()
    listener = context.socket(zmq.SUB)
    listener.set(zmq.RCVTIMEO, 1000 * SECONDS)
    listener.set(zmq.CURVE_PUBLICKEY, pair[0])
    listener.set(zmq.CURVE_SECRETKEY, pair[1])
    listener.set(zmq.CURVE_SERVERKEY, public_key(keys))
    listener.subscribe(b"!ready")
    listener.connect(f"{host}:{int(port) + 1}")
    assert listener.recv_multipart() == [b"!ready", b""]
    context.destroy(linger=0)


def test_strangers_are_turned_away(remote: tuple[Served, str, Path]) -> None:
    """A key that is not allowed, one that is wrong about the server's, and none: no request is read."""
    served, address, keys = remote
    stranger, friend = zmq.curve_keypair(), allow(keys, "friend")
    wrong, _ = zmq.curve_keypair()
    for pair, server_key in ((stranger, public_key(keys)), (friend, wrong), (None, None)):
        with Caller(address, pair, server_key) as caller:
            caller.socket.send(msgspec.msgpack.encode(Asked(1, GetStatus())))
            assert caller.first_event() != zmq.EVENT_HANDSHAKE_SUCCEEDED
            assert not caller.socket.poll(0)
    with Caller(address, friend, public_key(keys)) as caller:
        assert isinstance(caller.status(), Status)
    with Line(served) as line:
        assert isinstance(line.ask(GetStatus()), Status)


def test_a_key_taken_back_ends_its_connections_at_reload(remote: tuple[Served, str, Path]) -> None:
    """Others connect again by themselves."""
    served, address, keys = remote
    former, friend = allow(keys, "former"), allow(keys, "friend")
    with Caller(address, former, public_key(keys)) as caller:
        assert caller.first_event() == zmq.EVENT_HANDSHAKE_SUCCEEDED
        assert isinstance(caller.status(), Status)
        (keys / "allowed" / "former.key").unlink()
        served.server.reload()
        assert caller.first_event() == zmq.EVENT_DISCONNECTED
        while (event := caller.first_event()) == zmq.EVENT_DISCONNECTED:
            pass
        assert event == zmq.EVENT_HANDSHAKE_FAILED_AUTH
    with Caller(address, friend, public_key(keys)) as caller:
        assert isinstance(caller.status(), Status)


def test_the_secret_key_is_the_daemons_alone(tmp_path: Path) -> None:
    """It is made once, with mode 0600; one that others can read is not used."""
    folder = tmp_path / "keys"
    keys = server_keys(str(folder))
    secret = folder / "server.key_secret"
    assert stat.S_IMODE(os.stat(secret).st_mode) == 0o600
    assert server_keys(str(folder)) == keys
    secret.chmod(0o640)
    with pytest.raises(StateError, match="chmod 600"):
        server_keys(str(folder))


@pytest.mark.parametrize("content", ["garbage", 'curve\n    public-key = "short"\n'])
def test_a_broken_key_is_said(tmp_path: Path, content: str) -> None:
    secret = tmp_path / "server.key_secret"
    secret.write_text(content)
    secret.chmod(0o600)
    with pytest.raises(StateError, match="for a new one"):
        server_keys(str(tmp_path))


def test_broken_files_allow_nobody(tmp_path: Path) -> None:
    """And the good ones among them still count."""
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    public, _ = allow(tmp_path, "good")
    (allowed / "bad.key").write_text("garbage")
    (allowed / "short.key").write_text('metadata\ncurve\n    public-key = "abc"\n')
    (allowed / "note.txt").write_text("hello")
    (allowed / "folder.key").mkdir()
    keys = AllowList(str(allowed))
    assert keys.allows(zmq.utils.z85.decode(public))
    assert not keys.allows(b"garbage")
    assert not AllowList(str(tmp_path / "none")).allows(b"")


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b"1.0"],
        [b"1.0", b"1", b"lorad", b"::1", b"", b"NULL"],
        [b"1.0", b"1", b"lorad", b"::1", b"", b"CURVE", b"x"],
    ],
)
def test_handshakes_without_an_allowed_key_are_denied(tmp_path: Path, frames: list[bytes]) -> None:
    assert answer_handshake(frames, AllowList(str(tmp_path)))[2] == b"400"


def test_an_address_in_use_is_said(library: Library, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        settings = config.Control(tcp=f"127.0.0.1:{other.getsockname()[1]}", keys_dir=str(tmp_path / "keys"))
        server = ControlServer(str(tmp_path / "run"), str(library.state), settings, lambda command: None)
        with pytest.raises(StateError, match="another address"):
            server.start()
        server.stop()
