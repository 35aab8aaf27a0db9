"""Requests about jobs: handed on to whoever runs them."""

from __future__ import annotations

from typing import Protocol

from loracore.control import CancelJob, GetResult, ListJobs, StartJob, WaitJob
from lorad.control.acting import Reply

JobRequest = StartJob | ListJobs | WaitJob | CancelJob | GetResult


class JobRunner(Protocol):
    """Queues jobs, runs them and keeps their results."""

    def handle(self, request: JobRequest, reply: Reply) -> None:
        """See to it that `reply` is called once, now or later, from any thread. Must not block."""
