"""What the environment says about the emulated GPU: JSON in LORAD_EMULATED_GPU, read once, at import.

Launches are counted over the life of a process, from 1.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    devices: int = 1
    name: str = "NVIDIA Emulated GPU"
    #: Bytes of a GPU, and those of them that nobody else holds; None: all.
    memory: int = 2 << 30
    free: int | None = None
    #: When queued operations are carried out: "late", once somebody waits for them, or "early", at once.
    order: str = "late"
    #: In which order the lanes of a block take turns: 0 first to last, -1 last to first, others seed a shuffle.
    lanes: int = 0
    #: File that has to exist for launches to be counted; None: they are counted from the start.
    count_from: str | None = None
    #: After so many launches every call fails, for ever, as with a GPU that fell off the bus.
    fail_after: int | None = None
    #: At this launch the process is killed by SIGKILL.
    die_after: int | None = None
    #: This launch never ends, and who waits for it waits for ever.
    hang_after: int | None = None
    #: Seconds that the import takes.
    open_seconds: float = 0.0
    #: Whether host memory cannot be registered.
    refuse_register: bool = False
    #: File to which a byte is appended for each launch; `{pid}` in its name stands for the process.
    counter: str | None = None

    def __post_init__(self) -> None:
        if self.order not in {"late", "early"}:
            raise ValueError(f"LORAD_EMULATED_GPU: order is {self.order!r}, neither late nor early")


def read() -> Settings:
    """Raises TypeError for a setting that there is not."""
    return Settings(**json.loads(os.environ.get("LORAD_EMULATED_GPU") or "{}"))
