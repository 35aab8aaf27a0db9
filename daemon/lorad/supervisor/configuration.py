"""The configuration in force, and how another one is taken over: after SIGHUP, and when a root leads elsewhere."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import Protocol

import msgspec

from loracore.config import Config, Watch, describe_changes, reloaded
from loracore.errors import LoraError
from lorad.supervisor.announcer import Announcer
from lorad.supervisor.logs import get_logger
from lorad.supervisor.systemd import Notifier
from lorad.watch.place import resolved


class Loader(Protocol):
    """Reads the configuration again. Raises ConfigError."""

    def __call__(self) -> Config: ...


class Apply(Protocol):
    """Has all parts go by it. `before` was watched; `again`: files that it names are read again."""

    def __call__(self, before: Watch, *, again: bool) -> None: ...


class Configuration:
    """`config` is as it was read; `here` is that for all that looks at files, with roots where they lead to.

    For the loop's thread, but for `asked`.
    """

    def __init__(self, config: Config, load: Loader | None, notifier: Notifier, announcer: Announcer) -> None:
        self._load = load
        self._notifier = notifier
        self._announcer = announcer
        self._log = get_logger()
        self.config = config
        #: Where each root leads to.
        self.leads = resolved(config.watch.roots, {})
        self.here = located(config, self.leads)
        #: Set, from any thread, when it is to be read again.
        self.asked = threading.Event()

    def reconfigure(self, apply: Apply) -> None:
        """After a SIGHUP, take over a new configuration, if it is sound."""
        if not self.asked.is_set() or self._load is None:
            return
        self.asked.clear()
        self._notifier.reloading()
        try:
            config = self._load()
        except LoraError as error:
            self._announcer.complain(f"the configuration stays as it was: {error}")
        else:
            before, self.config = self.config, reloaded(self.config, config)
            for change in describe_changes(before, config):
                self._log.info("setting changed", setting=str(change))
            self.leads = resolved(self.config.watch.roots, self.leads)
            self._go_by_it(apply, again=True)
            self._log.info("configuration read again")
        self._notifier.ready()

    def follow_root(self, link: bytes, leads: bytes, apply: Apply) -> None:
        """A root's path leads to another folder than it did."""
        if link in self.leads:
            self._log.info("a root leads elsewhere", root=link, leads=leads)
            self.leads[link] = leads
            self._go_by_it(apply, again=False)

    def _go_by_it(self, apply: Apply, *, again: bool) -> None:
        """Have all parts go by it and by where its roots lead to, one as the other."""
        before, self.here = self.here.watch, located(self.config, self.leads)
        if len(self.here.watch.roots) < len(set(self.leads.values())):
            state = self.config.state_dir
            self._announcer.complain(f"{state}: the state folder cannot be watched; let no root lead there")
        apply(before, again=again)


def located(config: Config, leads: Mapping[bytes, bytes]) -> Config:
    """A configuration with its roots where they lead to, each once, without one that leads to the state folder."""
    paths = dict.fromkeys(os.fsdecode(leads[os.fsencode(root)]) for root in config.watch.roots)
    roots = tuple(path for path in paths if path != os.path.realpath(config.state_dir))
    return msgspec.structs.replace(config, watch=msgspec.structs.replace(config.watch, roots=roots))
