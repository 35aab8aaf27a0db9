"""How changes in a root are noticed: by inotify, or by polling where no events come."""

from __future__ import annotations

import select
from collections.abc import Callable, Sequence
from typing import TypeVar

from watchdog.events import FileSystemEvent

from lorad.watch import tree
from lorad.watch.inotify_events import Listener
from lorad.watch.mounts import Mount, find, inside, why_polled
from lorad.watch.root_settings import Plan

_T = TypeVar("_T")


class Coverage:
    """The listener over one root, where there can be one, and why all or some of its folders are polled."""

    def __init__(
        self,
        plan: Plan,
        ears: select.poll,
        beat: Callable[[], None],
        emit: Callable[[FileSystemEvent], None],
    ) -> None:
        """The listener is registered with `ears`; it gets `beat` and `emit`."""
        self._plan = plan
        self._ears = ears
        self._beat = beat
        self._emit = emit
        self.listener: Listener | None = None
        #: Why all of the root is polled; empty where it has not to be.
        self.remote = ""
        self._trouble = ""
        self._below: dict[bytes, Mount] = {}
        #: A walk through many folders may take longer than a canary's echo.
        self.walking = False

    @property
    def folders(self) -> int:
        """Those in which changes are noticed as they happen. Any thread may ask."""
        listener = self.listener
        return listener.tree.watched if listener else 0

    @property
    def echoes(self) -> bool:
        """Whether canaries are expected to be heard, if only once a walk is over. Any thread may ask."""
        listener = self.listener
        return listener is not None and listener.echoes

    def begin(self, mounts: Sequence[Mount]) -> None:
        """Watch the root, which is there."""
        self._trouble = ""
        self.remote = why_polled(find(mounts, self._plan.root))
        if not self.remote:
            self._listen(mounts)

    def end(self) -> None:
        if self.listener is not None:
            self._ears.unregister(self.listener.instance.fd)
            self.listener.instance.close()
            self.listener = None

    def renew(self) -> None:
        """Make sure of every folder."""
        if self.listener is not None:
            self._walk(self.listener.tree.renew)

    def mounts_changed(self, mounts: Sequence[Mount]) -> bool:
        """Whether something was mounted or unmounted in the root, of which no folder's watch tells."""
        if self.listener is None or inside(mounts, self._plan.root) == self._below:
            return False
        self.listener.tree.remote = self._remote_inside(mounts)
        self.renew()
        return True

    def retry(self, mounts: Sequence[Mount]) -> list[bytes]:
        """Try again what could not be watched; the folders to look through, as nothing told of them."""
        if self.listener is not None:
            return self._walk(self.listener.retry)
        if not self.remote:
            self._listen(mounts)
        return [self._plan.root]

    def health(self) -> tuple[str, str]:
        """How the root is watched, and why not better."""
        if self.remote:
            return "polling", self.remote
        trouble = self._trouble or (self.listener.trouble() if self.listener else "")
        return ("degraded", trouble) if trouble else ("watching", "")

    def _listen(self, mounts: Sequence[Mount]) -> None:
        try:
            self.listener = listener = Listener(self._plan, self._beat, self._emit)
        except OSError as error:
            self._trouble = tree.explain_instance(error)
            return
        self._ears.register(listener.instance.fd, select.POLLIN)
        self._trouble = ""
        listener.tree.remote = self._remote_inside(mounts)
        self._walk(lambda: listener.tree.adopt(self._plan.root))

    def _remote_inside(self, mounts: Sequence[Mount]) -> dict[bytes, str]:
        self._below = inside(mounts, self._plan.root)
        return {point: why for point, mount in self._below.items() if (why := why_polled(mount))}

    def _walk(self, walk: Callable[[], _T]) -> _T:
        self.walking = True
        result = walk()
        self.walking = False
        return result
