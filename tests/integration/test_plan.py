"""A real daemon plans by its configuration, and by a new one as soon as that is read (SPEC section 5)."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

from tests.builders.architectures import sd15
from tests.builders.weights import random_weights
from tests.builders.write import write_safetensors
from tests.integration.running import running


def test_a_new_policy_is_taken_over_without_a_restart(tmp_path: Path) -> None:
    """Action, rules and scope; a policy with a mistake leaves the one that was."""
    root = tmp_path / "loras"
    root.mkdir()
    first = root / "first.safetensors"
    write_safetensors(str(first), random_weights(sd15(4, width=4, every=12), 1))
    os.utime(first, ns=(0, 0))
    (root / "new").mkdir()
    for name in ("new/copy.safetensors", "copy.safetensors"):
        shutil.copyfile(first, root / name)
    with running(tmp_path, root) as daemon, daemon.client() as client:
        plan = client.plan_dedupe()
        assert (plan.action, len(plan.steps)) == ("report", 2)
        assert {step.kept for step in plan.steps} == {os.fsencode(first)}
        plain = daemon.config.read_text()
        for text in (f'action = "hardlink"\nkeep = ["newest"]\nscope = ["{root}/new"]', 'action = "burn"'):
            daemon.config.write_text(f"{plain}[dedupe]\n{text}\n")
            daemon.notices.forget()
            os.kill(daemon.pid, signal.SIGHUP)
            daemon.notices.wait_for("READY=1")
            plan = client.plan_dedupe()
            assert plan.action == "hardlink"
            assert [step.path for step in plan.steps] == [os.fsencode(root / "new/copy.safetensors")]
            assert {row.reason for row in plan.skipped} == {"not in scope"}
