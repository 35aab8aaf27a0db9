"""What the entries of a header become, and whether that changes more than words. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from loracore.adapter.function import header_function, may_say_function
from loracore.errors import UsageError
from loracore.jobs.edit import Change, EditParameters

TITLE, TRIGGER = "modelspec.title", "modelspec.trigger_phrase"
#: Without it, transformers and others refuse the file.
_FORMAT = "format"
#: What programs go by when they load a file, and so is kept when all is stripped; what says the function is, too.
#: kohya's are those that sd-scripts keeps with --no_metadata (`SS_METADATA_MINIMUM_KEYS`).
_LOADING = frozenset({
    _FORMAT, "ss_v2", "ss_base_model_version", "ss_network_module", "modelspec.sai_model_spec",
    "modelspec.architecture", "modelspec.implementation", "modelspec.prediction_type", "modelspec.predict_key",
    "config", "quantization_config", "_quantization_metadata",
})  # fmt: skip
#: Characters of a value, and changes of a file, that a plan shows.
_VALUE, _SHOWN = 200, 1000


def check_parameters(wanted: EditParameters) -> None:
    """Raises UsageError for what contradicts itself, or can be no entry of a header."""
    given = _settings(wanted)
    both = sorted(given.keys() & set(wanted.unset))
    if both:
        raise UsageError(f"{both[0][:80]!r} is both set and unset; leave one of them out")
    for key, option, value in ((TITLE, "title", wanted.title), (TRIGGER, "trigger", wanted.trigger or None)):
        if key in wanted.set and value is not None:
            raise UsageError(f"{key!r} is set twice: --{option} sets it as well; leave one of them out")
    for text in (*given, *given.values(), *wanted.unset, *wanted.strip):
        if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
            raise UsageError(f"{text[:80]!r} is no Unicode, which a header has to be; give it as UTF-8")
    if "" in given or "" in wanted.strip:
        raise UsageError("an entry needs a name: give KEY=VALUE, or a pattern")
    if not (given or wanted.unset or wanted.strip or wanted.strip_all or wanted.repair_hashes):
        raise UsageError(
            "nothing is to be changed: give --set, --unset, --strip, --title, --trigger or --repair-hashes"
        )


def changed_entries(wanted: EditParameters, metadata: Mapping[str, str]) -> dict[str, str]:
    """The entries of a header after the edit, but for its hashes; those that stay keep their order."""
    left = {key: value for key, value in metadata.items() if not _goes(wanted, key)}
    return left | _settings(wanted)


def listed(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[tuple[Change, ...], int]:
    """The entries that differ, the first ones with their values; and how many they are in all."""
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    shown = tuple(Change(_cut(key) or "", _cut(before.get(key)), _cut(after.get(key))) for key in keys[:_SHOWN])
    return shown, len(keys)


def touches_function(before: Mapping[str, str], after: Mapping[str, str], layers: list[str]) -> list[str]:
    """The changed entries by which the file does something else to a base model, or cannot be loaded."""
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    found = [_FORMAT] if _FORMAT in before and _FORMAT in keys else []
    said = [key for key in keys if may_say_function(key)]
    if said and header_function(before, layers) != header_function(after, layers):
        found += said
    return found


def _settings(wanted: EditParameters) -> dict[str, str]:
    given = dict(wanted.set)
    if wanted.title is not None:
        given[TITLE] = wanted.title
    if wanted.trigger:
        given[TRIGGER] = ", ".join(wanted.trigger)
    return given


def _goes(wanted: EditParameters, key: str) -> bool:
    if key in wanted.unset or any(fnmatchcase(key, pattern) for pattern in wanted.strip):
        return True
    return wanted.strip_all and key not in _LOADING and not may_say_function(key)


def _cut(text: str | None) -> str | None:
    if text is None or len(text) <= _VALUE:
        return text
    return f"{text[:_VALUE]}… ({len(text):,} characters)"
