"""What a model is called by its path, and which training it came from: epochs and versions of one are a run."""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

from loracore.facts import Facts
from lorad.library.keepers import MARK

#: Names that say nothing: the folder does.
_FIXED = frozenset({"adapter_model", "pytorch_lora_weights"})
#: Folders of one step of a training, inside the folder of all of it.
_CHECKPOINT = re.compile(r"(?:checkpoint|epoch|step)[-_]?\d+")
_INSIDE = re.compile(rf"{_CHECKPOINT.pattern}|final|last|best|ema")
#: OneTrainer's: a time, and where it is not the last one the step, the epoch, and the step of the epoch.
_TIME = r"[-_ ]?\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d"
_SAVED = re.compile(rf"{_TIME}-save-(\d{{1,12}})-(\d{{1,12}})-\d+\Z")
#: A mark of a copy or of a training step, as keep rules know them, or those of ai-toolkit and OneTrainer.
_MARKS = re.compile(rf"(?:{MARK.decode()}|_\d{{6,}}|{_TIME}(?:-save-\d+-\d+-\d+)?)+\Z")
_COPY = re.compile(r"(?: \(\d+\)|(?: -)? copy(?: \(?\d+\)?)?| \(given back\)|~|\.bak|\.old)+\Z")
#: kohya's and musubi-tuner's epoch of six digits, of which a date is no epoch; others write the word.
_EPOCH = re.compile(r"-(00\d{4})\Z|[-_ ]?epoch[-_]?(\d{1,12})\Z")
#: kohya's step; ai-toolkit's of nine digits.
_STEPS = re.compile(r"-step(\d{8})\Z|_(00\d{7})\Z|[-_ ]?step[-_]?(\d{1,12})\Z")
_FOLDER_STEPS = re.compile(r"checkpoint-(\d{1,12})")


class Called(NamedTuple):
    """The folded name of a model without suffix, and what its run is known by; None where it has no layout yet.

    `is_folder`: its folder gave the name, as the file's own says nothing.
    """

    stem: str
    run: str | None
    is_folder: bool


def called(path: bytes, layout: int | None, facts: Facts) -> Called:
    """What a file is called, and its run.

    Files of one layout are of one run where the trainer says so by a session id, else by the name that it was
    told, with the same base model and trigger words, else where their names in one folder differ by marks alone.
    """
    *folders, name = _folded(path).split("/")
    stem = of_run = name.rpartition(".")[0] or name
    is_folder = stem in _FIXED and bool(folders)
    if is_folder:
        stem = of_run = folders.pop()
        while len(folders) > 1 and _INSIDE.fullmatch(of_run):
            # PEFT keeps each step in a folder of its own.
            of_run = folders.pop()
            stem = f"{of_run}/{stem}"
    if layout is None:
        return Called(stem, None, is_folder)
    if facts.session:
        of = f"session {facts.session}"
    elif facts.output:
        same = (facts.base or "", facts.base_file or "", *facts.triggers)
        of = "\n".join((f"output {_unmarked(facts.output.casefold()) or facts.output}", *same))
    else:
        within = [folder for folder in folders if not _CHECKPOINT.fullmatch(folder)]
        of = "/".join((*within, _unmarked(of_run)))
    return Called(stem, f"{layout} {of}", is_folder)


def run_name(run: str, facts: Facts) -> str:
    """What a run is called; `facts` are those of one of its files."""
    of = run.partition(" ")[2]
    if of.startswith("session ") and facts.output:
        return f"{facts.output} ({of})"
    return of.partition("\n")[0].removeprefix("output ")


def with_marks(facts: Facts, path: bytes) -> Facts:
    """With the epoch and the steps that its name states, where its header does not state them."""
    if facts.epoch is not None and facts.steps is not None:
        return facts
    *folders, name = _folded(path).split("/")
    stem = _COPY.sub("", name.rpartition(".")[0])
    epoch, steps = _number(_EPOCH, stem), _number(_STEPS, stem)
    if save := _SAVED.search(stem):
        steps, epoch = int(save[1]), int(save[2])
    # In the folder itself, or in that of an adapter that PEFT keeps beside others.
    for folder in map(_FOLDER_STEPS.fullmatch, folders[-2:]):
        steps = int(folder[1]) if folder and steps is None else steps
    if epoch is None and steps is None:
        return facts
    epoch = epoch if facts.epoch is None else facts.epoch
    return msgspec.structs.replace(facts, epoch=epoch, steps=steps if facts.steps is None else facts.steps)


def _number(pattern: re.Pattern[str], stem: str) -> int | None:
    found = pattern.search(stem)
    return int(found[found.lastindex or 0]) if found else None


def _folded(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace").casefold()


def _unmarked(stem: str) -> str:
    """Empty where it is of marks alone: the folder says which training it is."""
    return _MARKS.sub("", stem)
