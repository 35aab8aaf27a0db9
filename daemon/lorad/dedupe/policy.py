"""What may be done with duplicates, and which of them is kept: `[dedupe]`, ready for use. No I/O."""

from __future__ import annotations

from collections.abc import Callable

from loracore.config import Dedupe
from lorad.dedupe.action.registry import Action, of_policy
from lorad.library.keepers import Rules, rules_of


class Policy(Rules, frozen=True):
    """The keep rules, and what becomes of the files that are not kept."""

    action: str = "report"
    levels: tuple[str, ...] = ("file", "tensors")
    min_age_ns: int = 0

    @classmethod
    def of(cls, settings: Dedupe, resolve: Callable[[str], bytes]) -> Policy:
        """`settings` with its folders as they stand in the catalogue's paths, which `resolve` tells."""
        rules = rules_of(settings, resolve)
        return cls(
            action=settings.action,
            levels=settings.levels,
            keep=rules.keep,
            scope=rules.scope,
            min_age_ns=int(settings.min_age * 1e9),
        )

    @property
    def kind(self) -> Action:
        return of_policy(self.action)

    @property
    def rules(self) -> Rules:
        """What decides which file is kept, alone."""
        return Rules(keep=self.keep, scope=self.scope)
