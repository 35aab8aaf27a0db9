"""When a hasher is to do without the GPU, with a clock of the test's own."""

from __future__ import annotations

import pytest

from lorad.pipeline.backend import Distrust
from lorad.pipeline.restarts import Fault


def test_a_hasher_that_dies_twice_on_the_gpu_does_without() -> None:
    """One death may be anything, to be stopped by somebody included; two in ten minutes are the GPU's fault."""
    distrust = Distrust(asked="auto")
    assert not distrust.died(0.0, None)
    distrust.known = "cuda"
    assert not distrust.died(601.0, Fault.SILENT)
    assert "ended twice while it used it" in distrust.died(700.0, None)
    assert not distrust.died(701.0, Fault.STALLED), "it has no GPU any more"


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (Fault.STALLED, "hung with it"),
        (Fault.STARTING, "hung with it"),
        (Fault.MEMORY, "held too much memory with it"),
    ],
)
def test_a_hasher_that_hangs_or_swells_with_the_gpu_does_without_at_once(fault: Fault, why: str) -> None:
    """Also where it has not said yet what it uses, since it may be about to open it."""
    for known in ("", "cuda"):
        distrust = Distrust(asked="cuda")
        distrust.known = known
        assert why in distrust.died(0.0, fault)


def test_a_hasher_on_the_cpu_says_nothing_about_the_gpu() -> None:
    """Nor does one that found none."""
    distrust = Distrust(asked="auto")
    for now in range(5):
        distrust.known = "cpu"
        assert not distrust.died(float(now), Fault.STALLED)
    assert not any(Distrust(asked="cpu").died(float(now), Fault.MEMORY) for now in range(5))
