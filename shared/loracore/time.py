"""How a moment is written: RFC 3339, in UTC."""

from __future__ import annotations

import time
from datetime import UTC, datetime

#: The first and the last second that can be written. A file may have any time.
_FIRST, _LAST = -62135596800, 253402300799


def rfc3339(seconds: float, timespec: str = "milliseconds") -> str:
    """A moment in seconds since 1970, or the nearest one in the years 1 to 9999; `timespec` as in `isoformat`."""
    moment = datetime.fromtimestamp(max(_FIRST, min(seconds, _LAST)), UTC)
    return moment.isoformat(timespec=timespec).replace("+00:00", "Z")


def now_text(timespec: str = "milliseconds") -> str:
    """The time now."""
    return rfc3339(time.time(), timespec)
