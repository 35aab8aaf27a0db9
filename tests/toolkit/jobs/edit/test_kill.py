"""SIGKILL at every step of an edit and of an undo: each file is the old or the new one, whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.timeout(600)
@pytest.mark.parametrize("what", ["edit", "undo"])
@pytest.mark.parametrize("names", ["exchanged", "plain"])
def test_a_kill_at_any_step_leaves_the_old_or_the_new_file(tmp_path: Path, what: str, names: str) -> None:
    """The next edit ends what was interrupted, and nothing hidden stays; undo brings back the old bytes.

    `plain`: as on file systems that know neither files without a name nor an exchange of names.
    """
    command = [sys.executable, "-m", "tests.toolkit.jobs.edit.killed", str(tmp_path), what, names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) > 80
