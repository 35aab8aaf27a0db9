"""How many files the daemon may have open, and how many of these may be clients' connections.

Connections are the only descriptors whose number others choose, so they get a share, and what the daemon opens the
rest. Where the share is used up, clients are turned away (`lorad.control.clients`).
"""

from __future__ import annotations

import resource

from loracore.errors import UsageError

#: The least to work with: about forty for the daemon itself, some for actions on files and jobs, half for clients.
_LEAST = 128
#: As in the unit. More is of no use, and other programs that jobs start may be slow with it.
_WANTED = 65536
#: Clients at most, and descriptors for each of them.
_CLIENTS, _SHARE = 4096, 2


def raise_limit() -> None:
    """Allow this process and its children as many as they may have. Raises UsageError where that is too few."""
    soft, hard = (_WANTED if limit == resource.RLIM_INFINITY else limit for limit in _limits())
    if hard < _LEAST:
        raise UsageError(
            f"only {hard} files may be open here, and lorad needs {_LEAST}: "
            "raise it by LimitNOFILE= in the service, or by ulimit -n"
        )
    if soft < min(hard, _WANTED):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, _WANTED), _limits()[1]))


def for_clients() -> int:
    """How many connections there may be."""
    soft, _ = _limits()
    return _CLIENTS if soft == resource.RLIM_INFINITY else min(_CLIENTS, soft // _SHARE)


def _limits() -> tuple[int, int]:
    return resource.getrlimit(resource.RLIMIT_NOFILE)
