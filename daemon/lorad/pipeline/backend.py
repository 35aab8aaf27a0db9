"""What the hasher's process digests with, and when it is to do without the GPU.

A GPU with which the hasher died again and again, hung or swelled is not tried again.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from lorad.pipeline.children import Children
from lorad.pipeline.dispatch import Dispatcher
from lorad.pipeline.protocol import Stop, Using
from lorad.pipeline.restarts import Fault

#: Seconds after which it does not count any more that the hasher died while it used the GPU.
_FORGIVEN = 600.0


class HasherBackend:
    """What the hasher uses, and why that; it is replaced by one without a GPU where that does no good."""

    def __init__(
        self, asked: str, children: Children, dispatcher: Dispatcher, uses: Callable[[Using], None]
    ) -> None:
        """`asked` as for `Distrust`; `uses` hears of what is worth telling."""
        self._children = children
        self._dispatcher = dispatcher
        self._uses = uses
        self._distrust = Distrust(asked)
        self.using = Using("cpu")
        #: Whether the hasher is about to be replaced by one without a GPU.
        self.retiring = False

    def says(self, message: Using) -> None:
        """What the hasher says that it uses."""
        self._distrust.known = message.backend
        # One that has nothing to add does what it was told to, and why that was stays worth telling.
        if message.note:
            self._use(message)
        if message.spent:
            self._retire()

    def let_go(self) -> None:
        """Have a hasher that is to be replaced end, when it has digested what it has."""
        if self.retiring and not self._dispatcher.digesting:
            self._children.send("hasher", Stop())

    def died(self, fault: Fault | None) -> None:
        """The hasher ended: have its successor do without the GPU, if that seems to be why."""
        self.retiring = False
        if self.using.backend != "cpu":
            self.using = Using("cpu")
        if why := self._distrust.died(time.monotonic(), fault):
            self._children.instruct("hasher", ("cpu", 0))
            self._use(Using("cpu", why, worse=True))

    def _retire(self) -> None:
        """Tasks that it had begun are done again: it may hold the beginning of a piece."""
        self._children.instruct("hasher", ("cpu", 0))
        self._distrust.asked = "cpu"
        self.retiring = True
        self._dispatcher.hasher_leaves()
        self.let_go()

    def _use(self, using: Using) -> None:
        self.using = using
        self._uses(using)


class Distrust:
    """Whether the hasher is to do without the GPU. `asked` is the hasher of the configuration.

    `known` is what the running one said that it uses; "" while it has said nothing, and may be about to try.
    """

    def __init__(self, asked: str) -> None:
        self.asked = asked
        self.known = ""
        self._died: float | None = None

    def died(self, now: float, fault: Fault | None) -> str:
        """The hasher's process ended, by itself or for a fault; why its successor gets no GPU, "" where it may.

        To hang, or to hold too much memory, is taken for the GPU's doing at once. All else may have any reason,
        once in ten minutes.
        """
        used, self.known = self.asked != "cpu" and self.known != "cpu", ""
        if not used:
            return ""
        before, self._died = self._died, now
        if fault is Fault.MEMORY:
            why = "held too much memory with it"
        elif fault in {Fault.STALLED, Fault.STARTING}:
            why = "hung with it"
        elif before is not None and now - before <= _FORGIVEN:
            why = "ended twice while it used it"
        else:
            return ""
        self.asked = "cpu"
        return f"no GPU: the hasher's process {why}; restart lorad to try it again"
