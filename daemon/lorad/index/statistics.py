"""What each stage of the work cost: files, bytes, seconds. The numbers behind `statistics.json`."""

from __future__ import annotations

import msgspec

from lorad.pipeline.dispatch import Finished, HeaderJob, ResidueJob


class Stage(msgspec.Struct):
    """Seconds are summed over processes, so they can exceed the time that passed."""

    files: int = 0
    bytes: int = 0
    seconds: float = 0.0


class Statistics:
    """One `Stage` each for `walk headers samples layers residue publish`."""

    def __init__(self) -> None:
        self.stages = {name: Stage() for name in ("walk", "headers", "samples", "layers", "residue", "publish")}

    def add(self, stage: str, *, files: int = 0, bytes_: int = 0, seconds: float = 0.0) -> None:
        counted = self.stages[stage]
        counted.files += files
        counted.bytes += bytes_
        counted.seconds += seconds

    def finished(self, finished: Finished) -> None:
        """Count what came of each file in the stage of its job."""
        if isinstance(finished.job, HeaderJob):
            stage = "headers"
        elif isinstance(finished.job, ResidueJob):
            stage = "residue"
        else:
            stage = "layers" if finished.job.sequential else "samples"
        for outcome in finished.outcomes:
            self.add(stage, files=1, bytes_=outcome.bytes_read, seconds=outcome.seconds)

    @property
    def bytes_read(self) -> int:
        return sum(stage.bytes for stage in self.stages.values())
