"""Keys for TCP: the daemon's own, the clients' that are allowed, and the handshake's question about them.

Key files are those of `zmq.auth` (what `loractl keys` makes). ZAP: https://rfc.zeromq.org/spec/27/.
"""

from __future__ import annotations

import logging
import os

import zmq.auth
from zmq.utils import z85

from loracore.errors import StateError
from loracore.paths import shown
from loracore.whole import regular

_LOG = logging.getLogger(__name__)
_NAME = "server"
ZAP_ADDRESS = "inproc://zeromq.zap.01"
_ZAP_FRAMES = 7


def server_keys(folder: str) -> tuple[bytes, bytes]:
    """The daemon's public and secret key, made if need be. Raises StateError."""
    secret_file = os.path.join(folder, f"{_NAME}.key_secret")
    try:
        if not os.path.exists(secret_file):
            os.makedirs(folder, mode=0o700, exist_ok=True)
            before = os.umask(0o077)
            try:
                public_file, _ = zmq.auth.create_certificates(folder, _NAME)
            finally:
                os.umask(before)
            os.chmod(public_file, 0o644)
        if os.stat(secret_file).st_mode & 0o077:
            raise StateError(f"{shown(secret_file)}: others may read the daemon's secret key; chmod 600 it")
        with open(secret_file, "rb", opener=regular):
            pass  # A pipe would be waited for.
        public, secret = zmq.auth.load_certificate(secret_file)
    except (OSError, ValueError) as error:
        raise StateError(f"{shown(secret_file)}: not a usable key: {error}; move it away for a new one") from error
    if secret is None:
        raise StateError(f"{shown(secret_file)}: holds no secret key; move it away for a new one")
    return public, secret


class AllowList:
    """The public keys in a folder. Looked at again whenever the folder has changed, and on `reload`."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._seen: int | None = None
        self._keys: frozenset[bytes] = frozenset()
        self.reload()

    def reload(self) -> bool:
        """Read all anew; whether a key that was allowed is not any more."""
        before = self._keys
        self._seen = self._changed()
        keys = set()
        try:
            names = sorted(os.listdir(self._folder))
        except OSError:
            names = []
        for name in names:
            if not name.endswith(".key"):
                continue
            path = os.path.join(self._folder, name)
            try:
                with open(path, "rb", opener=regular):
                    pass
                public, _ = zmq.auth.load_certificate(path)
                keys.add(z85.decode(public))
            except (OSError, ValueError, KeyError) as error:
                _LOG.warning("%s: not a key, so nobody is allowed by it: %s", shown(path), error)
        self._keys = frozenset(keys)
        return bool(before - self._keys)

    def allows(self, key: bytes) -> bool:
        if self._changed() != self._seen:
            self.reload()
        return key in self._keys

    def _changed(self) -> int | None:
        try:
            return os.stat(self._folder).st_mtime_ns
        except OSError:
            return None


def answer_handshake(frames: list[bytes], allowed: AllowList) -> list[bytes]:
    """The answer to ZAP's question whether a connection may be. Only CURVE with an allowed key may."""
    version, number = [*frames, b"", b""][:2]
    good = len(frames) == _ZAP_FRAMES and frames[5] == b"CURVE" and allowed.allows(frames[6])
    code, text = (b"200", b"OK") if good else (b"400", b"this key is not allowed")
    return [version, number, code, text, b"", b""]
