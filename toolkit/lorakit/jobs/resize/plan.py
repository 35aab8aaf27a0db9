"""Which rank each module of a file is to have, before anything is written."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

from loracore.adapter import Module
from loracore.errors import UsageError
from loracore.jobs.job import Context
from loracore.jobs.resize import ResizeParameters
from lorakit.jobs.resize.layout import NewLayout
from lorakit.jobs.resize.ranks import Claim, Rule, by_block, by_budget, rule_of
from lorakit.lowrank.svd import Doubles, residual
from lorakit.modules.factors import decomposed, energy, greatest_rank, has_factors
from lorakit.modules.inputs import each
from lorakit.modules.matrices import Opened
from lorakit.statistics.shares import covering

#: How many modules a warning names.
_NAMED = 5


@dataclass(frozen=True)
class Plan:
    """The rank of each module: None where it is kept as it is, 0 where it is left out. `error`: where known."""

    ranks: Mapping[Module, int | None]
    error: float | None
    warnings: tuple[str, ...]


def plan(file: Opened, parameters: ResizeParameters, context: Context) -> Plan:
    """Raises UsageError for what cannot be meant, MalformedFile for NaN in a layer, and FileError."""
    rule = rule_of(parameters)
    _check(parameters, rule)
    given = parameters.writing
    modules = [module for module in file.modules if _resizable(module, parameters.method)]
    table = by_block(sorted({module.block for module in file.modules}), parameters.block_ranks)
    spectra: dict[Module, Doubles] = {}
    energies: dict[Module, float] = {}
    if given.check or rule or parameters.prune is not None or parameters.budget is not None:
        known = [module for module in file.modules if has_factors(module)]
        spectra = each(file, known, lambda module: decomposed(module).values, context)
        energies = {module: residual(values, 0) for module, values in spectra.items()}
        rest = [module for module in file.modules if module not in energies]
        energies |= each(file, rest, energy, context) if rest else {}
    out = _pruned(file.modules, energies, parameters.prune)
    out |= {block for block, rank in table.items() if rank == 0}
    ranks: dict[Module, int | None] = {module: 0 if module.block in out else None for module in file.modules}
    left = [module for module in modules if ranks[module] is None]
    caps = {module: table.get(module.block, parameters.rank) for module in left}
    _check_possible(caps, parameters, rule)
    if parameters.budget is not None:
        ranks |= _budgeted(file, ranks, {module: spectra[module] for module in left}, caps, parameters)
    else:
        ranks |= {
            module: _chosen(module, caps[module], rule, spectra.get(module), parameters.method) for module in left
        }
    if not any(rank != 0 for rank in ranks.values()):
        raise UsageError("nothing would be left; give a greater rank, share or size")
    kept = [module for module in file.modules if ranks[module] is None and module not in modules]
    error = _error(ranks, spectra, energies) if parameters.method == "svd" and spectra else None
    unread = [f"{fault.module}: {fault.reason}; its layers are kept" for fault in file.faults]
    return Plan(ranks, error, (*unread, *_warnings(kept, ranks)))


def _check(parameters: ResizeParameters, rule: Rule | None) -> None:
    by_values = rule is not None or parameters.budget is not None
    if parameters.rank is not None and parameters.rank < 1:
        raise UsageError(f"rank {parameters.rank}: give 1 or more")
    if parameters.prune is not None and not 0 < parameters.prune <= 1:
        raise UsageError(f"--prune {parameters.prune:g}: give a share above 0 and up to 1")
    if rule is not None and parameters.budget is not None:
        raise UsageError("a rule and a budget both choose ranks; give one of them")
    if by_values and parameters.method != "svd":
        raise UsageError(
            f"--method {parameters.method} takes --rank or --rank-per-block alone; leave --method out"
        )
    if parameters.rank is None and not parameters.block_ranks and parameters.prune is None and not by_values:
        raise UsageError("what size? give --rank, --rank-per-block, --budget, --prune or one of --sv-…")


def _resizable(module: Module, method: str) -> bool:
    """Cutting off and adding need the factors themselves, which LoHa and LoKr have not."""
    return has_factors(module) and (method == "svd" or module.algorithm not in {"loha", "lokr"})


def _check_possible(caps: Mapping[Module, int | None], parameters: ResizeParameters, rule: Rule | None) -> None:
    """Raises UsageError for a rank that no module can have, or that all have passed already."""
    if parameters.rank is None or rule is not None or parameters.budget is not None or not caps:
        return
    most = max(map(greatest_rank, caps))
    own = [module.rank or 0 for module in caps]
    if parameters.method == "pad":
        sides = max(min(module.shape[0], prod(module.shape[1:])) for module in caps)
        if parameters.rank > sides:
            raise UsageError(f"rank {parameters.rank}: no module has a side of more than {sides}; give up to that")
        if parameters.rank < min(own):
            raise UsageError(f"--method pad to {parameters.rank}: all have {min(own)} or more; give --method svd")
    elif parameters.rank > most:
        wider = "; --method pad widens with zeros" if max(own) <= most else ""
        raise UsageError(f"rank {parameters.rank}: no module can have more than {most}; give up to that{wider}")


def _chosen(module: Module, cap: int | None, rule: Rule | None, values: Doubles | None, method: str) -> int | None:
    """The module's rank; None where it has no greater one already."""
    own = None if module.algorithm in {"loha", "lokr"} else module.rank
    if method == "pad":
        return cap if cap is not None and own is not None and cap > own else None
    wanted = cap
    if rule is not None and values is not None:
        wanted = min(rule(values), values.size if cap is None else cap)
    if wanted is None or (own is not None and wanted >= own):
        return None
    return min(wanted, greatest_rank(module)) if method == "svd" else wanted


def _pruned(modules: Iterable[Module], energies: Mapping[Module, float], share: float | None) -> set[str]:
    """Blocks outside the smallest set that holds this share of ‖ΔW‖², as `importance` tells them."""
    if share is None:
        return set()
    blocks: dict[str, float] = defaultdict(float)
    for module in modules:
        if energies[module] > 0:
            blocks[module.block] += energies[module]
    silent = {module.block for module in modules} - blocks.keys()
    held = set(covering(blocks, share))
    if not held:
        raise UsageError("--prune: all of ΔW is zero")
    # A block whose modules have no ΔW that could be told is not known to weigh nothing.
    told = {module.block for module in modules if has_factors(module)}
    return (blocks.keys() - held) | (silent & told)


def _budgeted(
    file: Opened,
    ranks: Mapping[Module, int | None],
    spectra: Mapping[Module, Doubles],
    caps: Mapping[Module, int | None],
    parameters: ResizeParameters,
) -> dict[Module, int | None]:
    """Ranks within the budget. Raises UsageError where it is too small for what is not resized."""
    least = NewLayout(file, {**ranks, **dict.fromkeys(spectra, 1)}, parameters)
    claims = []
    for module, values in spectra.items():
        where = least.places[module]
        claims.append(Claim(values[: caps[module]] ** 2, where.up.nbytes + where.down.nbytes))
    fixed = least.size() - sum(claim.bytes for claim in claims)
    budget = parameters.budget or 0
    if fixed >= budget:
        raise UsageError(f"--budget: names, metadata and what has no rank take {fixed:,} bytes already; give more")
    return dict(zip(spectra, by_budget(claims, budget - fixed), strict=True))


def _error(
    ranks: Mapping[Module, int | None], spectra: Mapping[Module, Doubles], energies: Mapping[Module, float]
) -> float:
    """‖ΔW - ΔW'‖ / ‖ΔW‖ over all modules."""
    lost = 0.0
    for module, rank in ranks.items():
        if rank is not None:
            lost += residual(spectra[module], rank) if module in spectra else energies[module]
    whole = sum(energies.values())
    return float((lost / whole) ** 0.5) if whole else 0.0


def _warnings(kept: list[Module], ranks: Mapping[Module, int | None]) -> list[str]:
    """What is not resized, and what of DoRA is."""
    found = []
    by_algorithm: dict[str, list[Module]] = defaultdict(list)
    for module in kept:
        by_algorithm[module.algorithm].append(module)
    for algorithm, modules in by_algorithm.items():
        names = ", ".join(module.name for module in modules[:_NAMED]) + (" …" if len(modules) > _NAMED else "")
        found.append(
            f"{len(modules):,} modules ({algorithm}) have no rank to change and stay as they are: {names}"
        )
    made = sum(bool(rank) and module.algorithm in {"loha", "lokr"} for module, rank in ranks.items())
    if made:
        found.append(f"{made:,} modules are LoHa or LoKr: they become LoRA")
    decomposed_weights = sum(bool(rank) and module.algorithm == "dora" for module, rank in ranks.items())
    if decomposed_weights:
        found.append(
            f"{decomposed_weights:,} modules are DoRA: their direction is resized, their magnitude is kept"
        )
    return found
