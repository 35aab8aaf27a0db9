"""What the job `convert` takes: another naming convention, dtype or container (SPEC section 8)."""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

from loracore.jobs.change import Changed, Writing
from loracore.jobs.job import Spec

Convention = Literal["kohya", "peft", "diffusers"]
#: Those of `loracore.names.conventions` that can be written.
CONVENTIONS: tuple[Convention, ...] = get_args(Convention)


class ConvertParameters(msgspec.Struct, frozen=True):
    """`to` None: names stay as they are. The result is a `Changed`.

    `fold`: the scale goes into the factors, for readers that know no alpha. `leave_out`: what has no name in the
    other convention is left out, and told as a fault; otherwise it is an error.
    """

    path: bytes
    writing: Writing
    to: Convention | None = None
    fold: bool = False
    leave_out: bool = False


SPEC = Spec(
    "convert", ConvertParameters, Changed, help="kohya, PEFT or diffusers naming, another dtype or container."
)
