"""What the job `bake` takes: LoRAs that are merged into a base model (SPEC section 8)."""

from __future__ import annotations

import msgspec

from loracore.jobs.change import Changed, Writing
from loracore.jobs.job import Spec


class BakeParameters(msgspec.Struct, frozen=True):
    """The result is a `Changed`; its base model is none of the inputs that it tells of.

    `base`: a model's file, or a folder as Transformers or diffusers save one. `weights`: how much of each LoRA;
    empty for 1 each. `leave_out`: modules that the base lacks are left out, and told as faults; otherwise they are
    an error. `writing.dtype`: of all floats of the result; None keeps the base's.
    """

    paths: tuple[bytes, ...]
    base: bytes
    writing: Writing
    weights: tuple[float, ...] = ()
    leave_out: bool = False


SPEC = Spec("bake", BakeParameters, Changed, help="Merge LoRAs into a base model.")
