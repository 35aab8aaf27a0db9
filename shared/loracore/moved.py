"""Import paths of earlier versions: each gives the module that has its contents now, and a DeprecationWarning.

Installed by `loracore` itself, so that it holds for every package here. It looks at names alone, and imports
nothing until an old one is asked for. A module that is moved gets a line here, and lines that led to it change:
each leads in one step to where the contents are.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any
from warnings import warn

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

#: Old path: new path, also for the modules below it. None: a package that held nothing but modules.
MOVED: dict[str, str | None] = {
    "loracore.jobs.array": "loracore.jobs.results",
    "loracore.jobs.faults": "loracore.jobs.results",
    "loracore.jobs.finding": "loracore.jobs.job",
    "loracore.jobs.frame": "loracore.jobs.job",
    "loracore.jobs.plain": "loracore.jobs.results",
    "loracore.jobs.table": "loracore.jobs.results",
    "lorad.dedupe.action.attributes": "loracore.attributes",
    "lorakit.analysis": None,
    "lorakit.analysis.importance": "lorakit.jobs.importance",
    "lorakit.analysis.likeness": "lorakit.plots.comparison",
    "lorakit.analysis.matrices": "lorakit.modules.matrices",
    "lorakit.analysis.pca": "lorakit.jobs.pca",
    "lorakit.analysis.principal": "lorakit.lowrank.principal",
    "lorakit.analysis.spectrum": "lorakit.jobs.spectrum",
    "lorakit.analysis.survey": "lorakit.modules.survey",
    "lorakit.change": None,
    "lorakit.change.alignment": "lorakit.jobs.merge.alignment",
    "lorakit.change.assembly": "lorakit.jobs.merge.layout",
    "lorakit.change.baking": "lorakit.jobs.bake",
    "lorakit.change.baking.places": "lorakit.jobs.bake.targets",
    "lorakit.change.carrying": "lorakit.output.carried",
    "lorakit.change.combining": "lorakit.jobs.merge.combine",
    "lorakit.change.compare": "lorakit.jobs.compare.job",
    "lorakit.change.comparison": "lorakit.difference",
    "lorakit.change.comparison.difference": "lorakit.difference.measure",
    "lorakit.change.comparison.modules": "lorakit.difference.pairs",
    "lorakit.change.comparison.place": "lorakit.difference.folder",
    "lorakit.change.comparison.records": "lorakit.difference.journal",
    "lorakit.change.comparison.texts": "lorakit.jobs.compare.texts",
    "lorakit.change.comparison.torchway": "lorakit.jobs.compare.torch_engine",
    "lorakit.change.conversion": "lorakit.jobs.convert",
    "lorakit.change.conversion.parts": "lorakit.modules.parts",
    "lorakit.change.decomposition": "lorakit.lowrank.svd",
    "lorakit.change.destination": "lorakit.output.destination",
    "lorakit.change.device": "lorakit.lowrank.device",
    "lorakit.change.election": "lorakit.jobs.merge.ties",
    "lorakit.change.extract": "lorakit.jobs.extract",
    "lorakit.change.factors": "lorakit.modules.factors",
    "lorakit.change.inputs": "lorakit.modules.inputs",
    "lorakit.change.keys": "loracore.names.conventions",
    "lorakit.change.knots": "lorakit.jobs.merge.ties",
    "lorakit.change.merge": "lorakit.jobs.merge.job",
    "lorakit.change.models": "lorakit.models",
    "lorakit.change.models.hashing": "lorakit.models.shards",
    "lorakit.change.originals": "loracore.names.originals",
    "lorakit.change.peftfolder": "lorakit.output.peftfolder",
    "lorakit.change.places": "lorakit.output.factor_layers",
    "lorakit.change.planning": "lorakit.jobs.resize.plan",
    "lorakit.change.probing": "lorakit.jobs.merge.weights",
    "lorakit.change.ranks": "lorakit.jobs.resize.ranks",
    "lorakit.change.relayout": "lorakit.jobs.resize.layout",
    "lorakit.change.report": "lorakit.jobs.report.job",
    "lorakit.change.reporting": "lorakit.jobs.report",
    "lorakit.change.reporting.summary": "lorakit.jobs.report.job",
    "lorakit.change.resize": "lorakit.jobs.resize.job",
    "lorakit.change.sketching": "lorakit.jobs.merge.combine",
    "lorakit.change.sums": "lorakit.jobs.merge.layout",
    "lorakit.change.weighing": "lorakit.jobs.merge.weights",
    "lorakit.excerpts": "lorakit.filehash.shared_read",
    "lorakit.facts.job": "lorakit.jobs.metadata.job",
    "lorakit.hashing": "lorakit.jobs.hashes.job",
    "lorakit.jobs.hashes.legacy": "lorakit.filehash.legacy",
    "lorakit.jobs.hashes.shared_read": "lorakit.filehash.shared_read",
    "lorakit.lanes": "lorakit.filehash.shared_read",
    "lorakit.legacyhash": "lorakit.filehash.legacy",
    "lorakit.statistics.spectra": "lorakit.lowrank.svd",
    "loractl.analyses": "loractl.view.analyses",
    "loractl.commands.leftout": "loractl.commands.changing",
    "loractl.embedded": "loractl.scan",
    "loractl.exchange": "loractl.session",
    "loractl.exports": "loractl.view.exports",
    "loractl.facts": "loractl.view.metadata",
    "loractl.forms": "loractl.view.forms",
    "loractl.joblist": "loractl.commands.jobs",
    "loractl.jobscreen": "loractl.view.status_screen",
    "loractl.link": "loractl.client",
    "loractl.matches": "loractl.commands.queries",
    "loractl.plans": "loractl.view.plan",
    "loractl.planscreen": "loractl.view.plan_screen",
    "loractl.reports": "loractl.scan",
    "loractl.screen": "loractl.view.status_screen",
    "loractl.show": "loractl.view.scan",
    "loractl.summary": "loractl.view.status",
    "loractl.tables": "loractl.view.tables",
    "loractl.units": "loractl.view.tables",
}

#: `from OLD import NAME` looks for NAME in the package that OLD is now.
_INSIDE = {
    f"{home}.{last}": new
    for package, _, last, new in ((*old.rpartition("."), new) for old, new in MOVED.items())
    if (home := MOVED.get(package))
}


class Moved:
    """What `sys.meta_path` asks for a module that is not loaded yet."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, last = name.rpartition(".")
        if name in MOVED:
            new = MOVED[name]
        elif home := MOVED.get(package):
            new = f"{home}.{last}"
        elif name in _INSIDE:
            new = _INSIDE[name]
        else:
            return None
        from importlib.machinery import ModuleSpec  # noqa: PLC0415 - only where an old path is used

        loader: Any = new and _Loader(new)
        return ModuleSpec(name, loader, is_package=new is None)


class _Loader:
    def __init__(self, new: str) -> None:
        self._new = new

    def create_module(self, spec: ModuleSpec) -> None:
        """The import system makes an empty module; `exec_module` puts the real one in its place."""

    def exec_module(self, module: ModuleType) -> None:
        from importlib import import_module  # noqa: PLC0415 - only where an old path is used

        old = module.__name__
        sys.modules[old] = import_module(self._new)
        warn(f"{old} is {self._new} now; the old path will go", DeprecationWarning, stacklevel=2)


def install() -> None:
    """Ask the table first: the finder of files would load the modules of a renamed package a second time."""
    if Moved not in sys.meta_path:
        sys.meta_path.insert(0, Moved)
