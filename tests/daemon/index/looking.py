"""The parts of the engine that look at names, without those that read files and tell them apart."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from loracore.control import Event
from lorad.index.arrivals import Arrivals
from lorad.index.away import Away
from lorad.index.configs import Configs
from lorad.index.failures import Failures
from lorad.index.known_files import Files
from lorad.index.looks import Looks
from lorad.index.names import Names
from lorad.index.sweeps import Sweeps
from lorad.index.view import View
from lorad.library import Instruction, Library
from lorad.watch.exclude import Exclude


class Looking:
    """All below these roots."""

    def __init__(
        self,
        files: Files,
        roots: Sequence[bytes],
        *,
        exclude: Exclude,
        follow: bool = False,
        tell: Callable[[Event], None],
        defer: Callable[[bytes, os.stat_result], bool] | None = None,
    ) -> None:
        def do(instructions: list[Instruction]) -> None: ...

        library, configs = Library(), Configs(files, lambda layout: (), lambda *_: None)
        view = View(files, roots, exclude=exclude, follow=follow)
        self.away = Away(files, view)
        self.arrivals = Arrivals(files, view)
        names = Names(files, configs, library, follow=follow, do=do, tell=tell)
        failures = Failures(files, library, names, do=do, tell=tell)
        self.looks = Looks(
            files, view, away=self.away, configs=configs, names=names, arrivals=self.arrivals, failures=failures,
            do=do, tell=tell, defer=defer,
        )  # fmt: skip
        self.sweeps = Sweeps(files, view, self.looks, failures)

    def sweep(self, folder: bytes, *, view: bool = False) -> None:
        """Look through a folder to its end."""
        self.sweeps.add(folder, view=view)
        self.finish()

    def finish(self) -> None:
        while self.sweeps.active:
            self.sweeps.step(16)
