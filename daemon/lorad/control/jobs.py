"""Requests about jobs: handed on to whoever runs them."""

from __future__ import annotations

from typing import Protocol

from loracore.control import CancelJob, GetResult, ListJobs, StartJob, WaitJob
from lorad.control.acting import Reply

JobRequest = StartJob | ListJobs | WaitJob | CancelJob | GetResult


class Owner(Protocol):
    """A client whose jobs end with it."""

    #: Whether it is gone.
    closed: bool
    #: Whether it has begun a job.
    owns: bool


class JobRunner(Protocol):
    """Queues jobs, runs them and keeps their results."""

    def handle(self, request: JobRequest, reply: Reply, owner: Owner | None = None) -> None:
        """See to it that `reply` is called once, now or later, from any thread. Must not block.

        A job of an `owner` ends with it.
        """

    def gone(self, owner: Owner) -> None:
        """End the jobs of a client that is gone. Must not block."""
