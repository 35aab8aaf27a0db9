"""The brain: groups, refinement and duplicates as a pure state machine. Events in, instructions out.

Here lives no I/O: no file, socket, clock or database. What the instructions ask for is read by
`lorad.pipeline`, remembered by `lorad.catalog`, and fed back by `lorad.index.engine`.
"""

from lorad.library.library import (
    Ask,
    Changed,
    Describe,
    Instruction,
    Library,
    Planned,
    ReadHeader,
    Share,
    Status,
)
from lorad.library.questions import LayoutShape, Piece, Question

__all__ = [
    "Ask", "Changed", "Describe", "Instruction", "LayoutShape", "Library", "Piece", "Planned", "Question",
    "ReadHeader", "Share", "Status",
]  # fmt: skip
