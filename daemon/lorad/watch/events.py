"""What an emitter puts into watchdog's queue besides watchdog's own events of files and folders."""

from __future__ import annotations

from dataclasses import dataclass

from watchdog.events import FileSystemEvent


@dataclass(unsafe_hash=True)
class RescanEvent(FileSystemEvent):
    """Anything in this folder may have changed."""

    reason: str = ""
    view: bool = False
    event_type = "rescan"


@dataclass(unsafe_hash=True)
class LedEvent(FileSystemEvent):
    """A path that led to the root leads to another folder now, or back."""

    link: bytes = b""
    leads: bytes = b""
    event_type = "led"


@dataclass(unsafe_hash=True)
class HealthEvent(FileSystemEvent):
    """The root is watched in another way than before."""

    health: str = ""
    reason: str = ""
    event_type = "health"


@dataclass(unsafe_hash=True)
class EchoEvent(FileSystemEvent):
    """All that happened before this canary was made is in the queue before this event."""

    number: int = 0
    event_type = "echo"
