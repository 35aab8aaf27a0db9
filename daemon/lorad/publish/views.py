"""Which files there are, and which generation of them is on the disk. Light: the core imports it."""

from __future__ import annotations

import os
import re

from loracore.whole import regular

FORMAT = 1
VIEWS = ("processed.json", "groups.json", "refined_groups.json", "duplicates.json", "statistics.json")
_HEAD = re.compile(rb'\{"format": %d, "generation": (\d+), ' % FORMAT)


def written_generation(folder: str) -> int:
    """The generation that all five files in `folder` are of; -1 if one is missing or of another."""
    generations = set()
    for name in VIEWS:
        try:
            with open(os.path.join(folder, name), "rb", opener=regular) as file:
                head = _HEAD.match(file.read(100))
        except OSError:
            return -1
        generations.add(int(head[1]) if head else -1)
    return generations.pop() if len(generations) == 1 else -1
