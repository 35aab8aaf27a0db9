"""Going through modules: what is left out, and how it ends when nobody wants it any more."""

from __future__ import annotations

from threading import Event

import numpy as np
import pytest

from loracore.errors import FileError
from loracore.jobs.job import Alone, Cancelled
from lorakit.modules.survey import Unfit, survey
from lorakit.statistics.matrix import Bounds, Entries, Product
from lorakit.statistics.scan import Workspace


def test_what_cannot_be_analysed_is_left_out_with_its_reason_and_the_rest_is_in_order() -> None:
    def work(item: int, workspace: Workspace) -> int:
        if item == 1:
            raise Unfit("it is one")
        if item == 2:
            raise FileError("it ends early", "a file")
        return -item

    found = survey([3, 1, 0, 2], name=str, weight=float, work=work, context=Alone(2))
    assert found.results == {"3": -3, "0": 0}
    assert [(fault.module, fault.reason) for fault in found.faults] == [("1", "it is one"), ("2", "it ends early")]


def test_a_cancelled_survey_gives_up_what_it_is_at() -> None:
    """A module of hours ends between two blocks, whoever cancels: the job's context, or Ctrl-C."""
    for wanted in (Cancelled("not wanted"), KeyboardInterrupt()):

        def progress(done: float, total: float, what: str, raised: BaseException = wanted) -> None:
            raise raised

        def work(item: str, workspace: Workspace) -> None:
            while item == "endless":
                workspace.go_on()

        with pytest.raises(type(wanted)):
            survey(["endless", "short"], name=str, weight=len, work=work, context=Alone(2, progress))


def test_blocks_and_pieces_end_when_nobody_waits_for_the_rest() -> None:
    stop = Event()
    workspace, bounds = Workspace(stop), Bounds()
    factors = (Entries(np.ones(shape, np.float32), bounds, workspace) for shape in ((2048, 2), (2, 512)))
    product = Product(*factors, 1.0, bounds, workspace)
    for parts in (product.blocks(), product.pieces()):
        stop.clear()
        assert next(parts).max() == 2
        stop.set()
        with pytest.raises(Cancelled):
            next(parts)
