"""All that a file has besides names and bytes comes back; what could not is named before it is removed."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

from lorad.dedupe.action.order import Refused
from tests.daemon.dedupe.world import act, make_world

ACTIONS = ("hardlink", "symlink", "delete", "quarantine")


@pytest.mark.parametrize("action", ACTIONS)
def test_a_mode_without_an_acl_comes_back(tmp_path: Path, action: str) -> None:
    """Every bit of it, whatever the umask is."""
    world = make_world(str(tmp_path))
    for path in (world.kept, world.gone):
        os.removexattr(path, "system.posix_acl_access")
        os.chmod(path, 0o1657)
    before = world.look()
    number = world.apply(action).id
    world.free(number)
    world.undo(number)
    assert world.look() == before


@pytest.mark.parametrize(
    ("call", "number", "said"),
    [
        ("fchown", errno.EPERM, r"the owner \d+:\d+ \(chown\): operation not permitted; .*CAP_CHOWN"),
        ("setxattr", errno.ENOSPC, r"the attribute \S+ \(setxattr\): no space left on device; make room"),
        ("fchmod", errno.EROFS, r"the mode \d+ \(chmod\): read-only file system; mount it for writing"),
    ],
)
def test_attributes_that_could_not_be_given_back_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, said: str
) -> None:
    """It stays hidden. Which of them it is, and what helps depends on why."""
    world = make_world(str(tmp_path))
    if call == "fchown" and os.geteuid():
        pytest.skip("only root can give a file away")

    def fails(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    action = world.apply("delete").id
    before = world.look()
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fails)
        result = world.free(action)
    assert result.state == "waiting"
    with pytest.raises(AssertionError, match="cannot give a copy of it " + said):
        raise AssertionError(result.text)
    assert world.look() == before
    assert world.free(action).state == "freed"


def test_what_attributes_were_tried_on_stands_in_no_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the rehearsal, it is freed at the next try, and nothing is left."""
    world = make_world(str(tmp_path))
    before = world.look()
    number = world.apply("delete").id
    with monkeypatch.context() as patch:
        patch.setattr("loracore.attributes.Attributes.give", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        pid = os.fork()
        if not pid:
            world.free(number)
            os._exit(1)
        os.waitpid(pid, 0)
    assert [name for name in world.leftovers() if name.endswith(b".tmp")]
    result = world.free(number)
    assert result.state == "freed", result.text
    assert not world.leftovers()
    world.undo(number)
    assert world.look() == before


@pytest.mark.parametrize("action", ["delete", "hardlink", "symlink", "quarantine"])
def test_times_that_the_journal_cannot_keep_are_named(tmp_path: Path, action: str) -> None:
    """Nobody could give them back: the file stays as it is."""
    world = make_world(str(tmp_path))
    for path in (world.kept, world.gone):
        os.utime(path, ns=(1 << 62, 10**9 * 60 * 60 * 24 * 365 * 330))
    before = world.look()
    with world.actor() as actor, pytest.raises(Refused, match="touch it"):
        act(actor, world.order(action))
    assert world.look() == before
    assert not world.leftovers()
