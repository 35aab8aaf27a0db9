"""The job `hashes` as it is, and as it would be with mistakes that some files bring to light, by their names."""

from __future__ import annotations

import os
import signal
import threading

from loracore.errors import MalformedFile
from loracore.jobs.hashes import HashesParameters, HashesResult
from loracore.jobs.job import Context, Job
from lorakit.jobs.hashes import job


def _run(parameters: HashesParameters, context: Context) -> HashesResult:
    name = os.path.basename(parameters.path)
    if b"poison" in name:
        os.kill(os.getpid(), signal.SIGKILL)
    if b"endless" in name:
        threading.Event().wait()
    if b"sour" in name:
        raise MalformedFile("it is sour; get it again", os.fsdecode(parameters.path))
    if b"shy" in name and not os.path.exists(parameters.path + b".met"):
        with open(parameters.path + b".met", "xb"):
            raise MalformedFile("it is shy; ask again", os.fsdecode(parameters.path))
    if b"lacking" in name:
        raise ModuleNotFoundError("No module named 'package_that_nobody_has'", name="package_that_nobody_has")
    if b"held" in name:
        context.progress(0, 1)
        with open(parameters.path + b".fifo", "rb") as fifo:
            fifo.read()
    return job.run(parameters, context)


JOB = Job("hashes", HashesParameters, HashesResult, _run)
