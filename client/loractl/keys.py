"""Key files for daemons by TCP: a client's own pair, and the public keys that a daemon allows.

The files are those of `zmq.auth`: NAME.key with the public key, NAME.key_secret with both.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import zmq.auth
from zmq.utils import z85

from loracore.errors import UsageError
from loracore.paths import shown
from loracore.whole import regular, write_whole

_KEY_CHARACTERS = 40


class PublicKey(NamedTuple):
    """A public key in a file, and the name it has there."""

    name: str
    key: str
    path: str


def make_pair(folder: str, name: str) -> PublicKey:
    """A new pair in `folder`, the secret key for the user's eyes only. Raises UsageError where there is one."""
    secret = os.path.join(folder, f"{name}.key_secret")
    if os.path.exists(secret):
        raise UsageError(f"{shown(secret)}: there is a key already; give another --name, or `loractl keys show`")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    before = os.umask(0o077)
    try:
        public, _ = zmq.auth.create_certificates(folder, name)
    finally:
        os.umask(before)
    return _read(str(public))


def allow(key: str, keys_dir: str, name: str) -> PublicKey:
    """Add a public key to those that the daemon with this folder allows."""
    if not name or "/" in name or name.startswith("."):
        raise UsageError(f"--name {name!r}: give a plain word, such as the client's host")
    public = public_key(key)
    folder = os.path.join(keys_dir, "allowed")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    path = os.path.join(folder, f"{name}.key")
    write_whole(path, f'metadata\ncurve\n    public-key = "{public.decode()}"\n'.encode("ascii"))
    return PublicKey(name, public.decode(), path)


def public_keys(folder: str) -> list[PublicKey]:
    """The public keys in a folder, by name; none where there is no such folder."""
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    return [_read(os.path.join(folder, name)) for name in names if name.endswith(".key")]


def public_key(given: str) -> bytes:
    """A public key as given: itself, in 40 characters, or the name of a file. Raises UsageError."""
    if len(given) == _KEY_CHARACTERS and not os.path.exists(given):
        try:
            z85.decode(given)
        except (ValueError, KeyError) as error:
            raise UsageError(f"{given}: not a key; `loractl keys show` prints it") from error
        return given.encode()
    return _read(given).key.encode()


def load_pair(path: str) -> tuple[bytes, bytes]:
    """Our public and secret key. Raises UsageError."""
    public, secret = _load(path)
    if secret is None:
        raise UsageError(f"{shown(path)}: no secret key in it; give the .key_secret file")
    return public, secret


def _read(path: str) -> PublicKey:
    public, _ = _load(path)
    return PublicKey(os.path.basename(path).removesuffix(".key"), public.decode(), path)


def _load(path: str) -> tuple[bytes, bytes | None]:
    try:
        with open(path, "rb", opener=regular):
            pass  # A pipe would be waited for.
        public, secret = zmq.auth.load_certificate(path)
        z85.decode(public)
    except OSError as error:
        raise UsageError(f"{shown(path)}: no key there; make one with `loractl keys make`") from error
    except (ValueError, KeyError) as error:
        raise UsageError(f"{shown(path)}: not a key file; make one with `loractl keys make`") from error
    return public, secret
