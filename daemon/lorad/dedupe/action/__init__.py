"""Carrying actions out on files: hiding, freeing, giving back, sharing blocks, and repair after a crash.

`actor` is the face. `order` says what is asked for and what came of it, `entry` and `journal` keep it; `place`
reaches a file, `hold` keeps writers from it, `compare` compares; `proof` and `apply` carry out, `free` removes,
`undo` and `remake` give back, `recovery` repairs. Each action has a file of its own, named below, by which it
is in the `registry`. Every file is looked at again before it is touched: nothing that a plan says is believed
here. Which files, and when, is decided outside.
"""

from lorad.dedupe.action import delete, hardlink, quarantine, reflink, symlink

__all__ = ["delete", "hardlink", "quarantine", "reflink", "symlink"]
