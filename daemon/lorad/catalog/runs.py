"""What a model is called by its path, and which training it came from: epochs and versions of one are a run."""

from __future__ import annotations

import re

from loracore.facts import Facts
from lorad.library.keepers import MARK

#: Names that say nothing: the folder does.
_FIXED = frozenset({"adapter_model", "pytorch_lora_weights"})
_CHECKPOINT = re.compile(r"(checkpoint|epoch|step)[-_]?\d+")
#: A mark of a copy or of a training step, as keep rules know them, or the bare number that ai-toolkit writes.
_MARKS = re.compile(rf"(?:{MARK.decode()}|_\d{{6,}})+\Z")


def called(path: bytes, layout: int | None, facts: Facts) -> tuple[str, str | None]:
    """The folded name of a model without suffix, and what its run is known by; None where it has no layout yet.

    Files of one layout are of one run where the trainer says so by a session id, else by the name that it was
    told, else where their names in one folder differ by marks alone.
    """
    *folders, name = path.decode("utf-8", "backslashreplace").casefold().split("/")
    stem = of_run = name.rpartition(".")[0] or name
    if stem in _FIXED and folders:
        stem = of_run = folders.pop()
        while len(folders) > 1 and _CHECKPOINT.fullmatch(of_run):
            # PEFT keeps each step in a folder of its own.
            of_run = folders.pop()
            stem = f"{of_run}/{stem}"
    if layout is None:
        return stem, None
    if facts.session:
        of = f"session {facts.session}"
    elif facts.output:
        of = f"output {_unmarked(facts.output.casefold())}"
    else:
        of = "/".join((*folders, _unmarked(of_run)))
    return stem, f"{layout} {of}"


def _unmarked(stem: str) -> str:
    return _MARKS.sub("", stem) or stem
