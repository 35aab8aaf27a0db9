"""What all messages have in common: their struct, their sizes, and the names of the sockets."""

from __future__ import annotations

import msgspec

#: The version of this protocol. A daemon refuses other ones, and says which it speaks.
VERSION = 1
MAX_REQUEST = 64 << 10
PAGE_BYTES = 1 << 20
#: A shorter beginning of a hash finds too much to be of use.
MIN_PREFIX = 4

CONTROL_SOCKET = "control.sock"
EVENTS_SOCKET = "events.sock"

#: For structs with a field named `bytes`.
Path = bytes


class Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=False):
    """A part of a message. Fields that a later version adds are ignored."""
