"""Scales of PEFT's adapters, which keep no alpha in the weights (peft 0.19, `tuners/lora/layer.py`)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

#: Where diffusers keeps the configurations of the parts that it saved, in the safetensors metadata.
DIFFUSERS_METADATA = "lora_adapter_metadata"
_MAX_PATTERN = 500
_KNOWN = frozenset({"LORA", "LOHA", "LOKR", "IA3"})


class PeftConfig:
    """One `adapter_config.json`, asked for the scale of each module."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        self.problems: list[str] = []
        kind = str(config.get("peft_type") or "LORA")
        if kind not in _KNOWN:
            self.problems.append(f"adapter_config.json: {kind[:40]} is no kind of adapter whose ΔW is known here")
        self.rslora = config.get("use_rslora") is True
        self.fan_in_fan_out = config.get("fan_in_fan_out") is True
        self.targets = {name for name in config.get("target_parameters") or () if isinstance(name, str)}
        self._alphas = self._patterns("alpha_pattern")
        self._ranks = self._patterns("rank_pattern")
        # LoHa and LoKr call it alpha.
        self._alpha = self._number(config.get("lora_alpha", config.get("alpha")), 8.0, "lora_alpha")
        self._rank = self._number(config.get("r"), 8.0, "r")

    def rank(self, module: str) -> int:
        """The rank that the configuration gives the module with PEFT's name `module`; at least 1."""
        return max(1, int(self._matching(self._ranks, module, self._rank)))

    def scale(self, module: str, rank: int) -> tuple[float, float]:
        """(alpha, scale) of a module whose factors have this rank."""
        alpha = self._matching(self._alphas, module, self._alpha)
        return alpha, alpha / (math.sqrt(rank) if self.rslora else rank)

    def _matching(
        self, patterns: list[tuple[str, re.Pattern[str] | None, float]], module: str, usual: float
    ) -> float:
        for text, pattern, value in patterns:
            if module == text or module.endswith("." + text) or (pattern is not None and pattern.match(module)):
                return value
        return usual

    def _patterns(self, key: str) -> list[tuple[str, re.Pattern[str] | None, float]]:
        """(text, pattern, value); peft's `get_pattern_key` takes the text for an expression that ends the name."""
        found = self.config.get(key) or {}
        if not isinstance(found, dict):
            self.problems.append(f"adapter_config.json: {key} is not an object")
            return []
        patterns = []
        for text, value in found.items():
            pattern = None
            # Plain names, by far the most, need no expression; strange ones could take forever.
            if not re.fullmatch(r"[\w.]+", text):
                pattern = self._compile(key, text)
            patterns.append((text, pattern, self._number(value, 8.0, key)))
        return patterns

    def _compile(self, key: str, text: str) -> re.Pattern[str] | None:
        if len(text) > _MAX_PATTERN or re.search(r"[*+}]\)*[*+{]", text):
            self.problems.append(f"adapter_config.json: {key} has an expression that is not used: {text[:80]!r}")
            return None
        try:
            return re.compile(rf"(.*\.)?({text})$")
        except (re.error, RecursionError, OverflowError):
            self.problems.append(
                f"adapter_config.json: {key} has an expression that cannot be read: {text[:80]!r}"
            )
            return None

    def _number(self, value: object, usual: float, key: str) -> float:
        if value is None:
            return usual
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            self.problems.append(
                f"adapter_config.json: {key} is {str(value)[:40]!r}, not a number; {usual:g} taken"
            )
            return usual
        return float(value)


def diffusers_configs(metadata: Mapping[str, str]) -> dict[str, PeftConfig]:
    """Configurations that diffusers put into the file, by part (`transformer`, `unet`, `text_encoder` …)."""
    try:
        stated = json.loads(metadata.get(DIFFUSERS_METADATA, "{}"))
    except (ValueError, RecursionError):
        return {}
    parts: dict[str, dict[str, Any]] = {}
    for name, value in stated.items() if isinstance(stated, dict) else ():
        part, _, key = name.partition(".")
        if key:
            parts.setdefault(part, {})[key] = value
    return {part: PeftConfig(config) for part, config in parts.items()}
