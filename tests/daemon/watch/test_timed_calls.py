"""Calls to a file system that does not answer end all the same."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from lorad.watch import timed_calls
from lorad.watch.scanner import look, walk
from tests.disks import Hanging


def path_in(hanging: Hanging) -> bytes:
    (hanging.folder / "a.safetensors").write_bytes(b"x")
    return os.fsencode(hanging.folder / "a.safetensors")


def test_on_a_local_disk_they_are_made_at_once(tmp_path: Path) -> None:
    """In the thread that makes them, with whatever they raise."""
    assert timed_calls.do(os.fsencode(tmp_path), threading.get_ident) == threading.get_ident()
    with pytest.raises(FileNotFoundError):
        timed_calls.stat(os.fsencode(tmp_path / "none"))
    assert not timed_calls.hangs(os.fsencode(tmp_path))


def test_where_a_program_serves_the_files_they_give_the_same(hanging: Hanging) -> None:
    path = path_in(hanging)
    assert timed_calls.stat(path) == os.stat(path)
    assert timed_calls.is_folder(os.path.dirname(path))
    with pytest.raises(FileNotFoundError):
        timed_calls.stat(path + b"none")
    with pytest.raises(ZeroDivisionError):
        timed_calls.do(path, lambda: 1 // 0)


def test_they_are_given_up_while_it_hangs_and_made_again_afterwards(hanging: Hanging) -> None:
    path = path_in(hanging)
    hanging.hang()
    for _ in range(3):
        with pytest.raises(timed_calls.NoAnswer, match="does not answer"):
            timed_calls.stat(path)
    assert timed_calls.hangs(path)
    seen = list(walk([os.path.dirname(path)], follow=False))
    assert [(one.path, one.failed) for one in seen] == [(os.path.dirname(path), True)]
    hanging.go_on()
    size = 0
    while not size:
        # The call that it held up ends after those that ask whether it answers, or before.
        with suppress(timed_calls.NoAnswer):
            size = timed_calls.stat(path).st_size
    assert size == 1
    found = look(path, follow=False)
    assert found is not None
    assert [one.path for one in walk([os.path.dirname(path)], follow=False)] == [path]


def test_each_thread_finds_out_by_itself(hanging: Hanging) -> None:
    """A call that one of them has given up is not in the way of the others once that answers."""
    path = path_in(hanging)
    hanging.hang()
    with pytest.raises(timed_calls.NoAnswer):
        timed_calls.stat(path)
    failed: list[BaseException] = []

    def other() -> None:
        try:
            timed_calls.stat(path)
        except timed_calls.NoAnswer as error:
            failed.append(error)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert len(failed) == 1


def test_a_link_into_it_is_resolved_as_far_as_it_goes(hanging: Hanging, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(hanging.folder)
    assert timed_calls.real(os.fsencode(link)) == os.fsencode(hanging.folder)
    hanging.hang()
    inside = os.fsencode(link / "below")
    assert timed_calls.real(inside) == inside
    assert timed_calls.real(inside) == inside
