"""What a file states of its modules, held against what they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lorakit.facts.stated import Statements, as_number, says_nothing, shortened

#: Where it is stated. A value for the whole file may be that of some modules alone: convolutions have their own.
RANKS = ("ss_network_dim", "ss_network_rank", "peft.r", "ot.lora_rank", "lora_rank")
ALPHAS = ("ss_network_alpha", "peft.lora_alpha", "ot.lora_alpha", "lora_alpha")
#: A stated alpha is rounded to the weights' dtype, 8 bits of it in bfloat16.
_ROUNDING = 2**-8


def disagreements(stated: Statements, keys: Sequence[str], what: str, found: Sequence[float]) -> Iterator[str]:
    """A line for each key that states what no module has."""
    stated.first(*keys)
    if not found or stated.values.get(f"peft.{what}_pattern"):
        return
    shows = f"{min(found):g}" if min(found) == max(found) else f"{min(found):g} to {max(found):g}"
    for key in keys:
        value = stated.values.get(key)
        if says_nothing(value) or stated.is_dynamic(key):
            continue
        number = as_number(value)
        if number is None:
            yield f"{key} states {what} {shortened(value)}, which is not a number; the modules have {shows}"
        elif not any(abs(number - one) <= _ROUNDING * abs(one) for one in found):
            yield f"{key} states {what} {number}, but the modules have {shows}"
