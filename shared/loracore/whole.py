"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile


def write_whole(path: str | bytes | os.PathLike[str], data: bytes) -> None:
    """Write a file under a temporary name beside `path`, then give it its name; one of that name is replaced.

    Its mode is what the umask leaves. Raises OSError.
    """
    name = os.fsdecode(path)
    handle, temporary = tempfile.mkstemp(prefix=".lorad-", dir=os.path.dirname(os.path.abspath(name)))
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), 0o666 & ~_umask())
        os.replace(temporary, name)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
