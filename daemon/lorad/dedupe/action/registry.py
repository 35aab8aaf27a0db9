"""The actions by their names: what each is for, and what it does to a file.

Each has a file of its own in `lorad.dedupe.action`, which registers it here. All else asks here.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from loracore import causes

if TYPE_CHECKING:
    from loracore.attributes import Attributes
    from lorad.dedupe.action.entry import Entry
    from lorad.dedupe.action.hold import Held
    from lorad.dedupe.action.journal import Context
    from lorad.dedupe.action.order import Order, Progress
    from lorad.dedupe.action.place import Reached


class Proven(NamedTuple):
    """An order that was found possible: its files are open, held, and the same.

    `reached`: what goes, a file or an adapter folder; `gone` is the weight file in it. `ranges`: see `reflink`.
    """

    order: Order
    kept: Held
    gone: Held
    reached: Reached
    entry: Entry
    ranges: list[tuple[int, int]]


class Action:
    """One action. What it does not say itself is what most do: the file is hidden beside its name."""

    name: ClassVar[str]
    #: Levels of sameness that it is for.
    levels: ClassVar[tuple[str, ...]] = ("file", "tensors")
    #: Whether the name stays, and leads to what the kept file holds; else the file goes away.
    links: ClassVar[bool] = False
    #: Whether that name is a symbolic link.
    symbolic: ClassVar[bool] = False
    #: Whether the file has another name until it is freed; else it stays where it is.
    hides: ClassVar[bool] = True
    #: Whether that name lies in a folder of lorad's own, where it stays until its removal is asked for.
    quarantines: ClassVar[bool] = False
    #: The state of one that was carried out, and of one whose hidden file was removed.
    state: ClassVar[str] = "hidden"
    final: ClassVar[str] = "freed"
    #: What it asks of the system first in the file's folder, and then of its name; see `causes`.
    calls: ClassVar[tuple[str, str]] = (causes.HIDE, causes.HIDE)

    @property
    def goes_away(self) -> bool:
        """Whether the file has its name no more afterwards."""
        return self.name in ACTIONS and not self.links

    @property
    def needs_exchange(self) -> bool:
        """Whether two names change places."""
        return self.links and self.hides

    @property
    def needs_equal_bytes(self) -> bool:
        """Whether it is for files of equal bytes on one file system alone."""
        return "tensors" not in self.levels

    def refuse(self, kept: Held, gone: Held, attributes: Attributes) -> None:
        """Raises Refused where it cannot be done to these files, whatever they hold. `attributes`: of `gone`."""

    def planned(self, context: Context, entry: Entry, gone: Reached) -> Entry:
        """The entry with what this action alone notes. Raises Refused and OSError."""
        return entry

    def perform(self, context: Context, act: Proven, places: dict[int, int], progress: Progress) -> None:
        """Do it to a file that is held. Raises Refused and OSError; what was begun is taken back then.

        `places` collects descriptors that are to be synced and closed, by the ids of actions.
        """
        raise NotImplementedError

    def is_ours(self, entry: Entry, reached: Reached, name: bytes, status: os.stat_result) -> bool:
        """Whether what stands at a name is the link that this action has made."""
        return False


#: All of them, by name.
ACTIONS: dict[str, Action] = {}


def register(action: type[Action]) -> type[Action]:
    ACTIONS[action.name] = action()
    return action


class _Report(Action):
    """What a policy may say in the place of an action: no trait of one is true of it."""

    name = "report"


_REPORT = _Report()


def of_policy(name: str) -> Action:
    """The action that a policy names, or `report`."""
    return ACTIONS.get(name, _REPORT)
