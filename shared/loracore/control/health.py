"""Is what it says true (`audit`), and what is wrong with its machine (`doctor`)?"""

from __future__ import annotations

from loracore.control.frame import Struct


class Audit(Struct, frozen=True, tag="audit"):
    """Compare the disk with the catalogue and the JSON files; answered by `Audited`."""


class Doctor(Struct, frozen=True, tag="doctor"):
    """What the daemon sees of its machine, answered by `Examined`."""


class Difference(Struct, frozen=True):
    """A way in which the catalogue or a JSON file is not what it should be.

    `what` names the JSON file, or is, of a name on the disk: `missing` (the catalogue has it, the disk does not),
    `unknown` (the other way round), `changed` (not the file that was read), `stale` (judged otherwise now),
    `leftover` (set aside by an action that is not at its end), `undo` (an action needs it to be undone, and it is
    not there as it was).
    """

    path: bytes
    what: str
    text: str


class Audited(Struct, frozen=True, tag="audited"):
    """`files` were looked at. `omitted` counts differences beyond those that fit into an answer."""

    files: int
    differences: list[Difference]
    omitted: int = 0


class Finding(Struct, frozen=True):
    """`level`: `ok`, `warning` or `problem`. `remedy` is what to do, for the latter two."""

    name: str
    level: str
    text: str
    remedy: str = ""


class Examined(Struct, frozen=True, tag="examined"):
    findings: list[Finding]


HealthRequest = Audit | Doctor
HealthAnswer = Audited | Examined
