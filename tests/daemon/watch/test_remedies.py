"""What inotify and watchdog leave unsaid is noticed and made good: nothing is missed silently."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest

from lorad.watch import mounts, watcher
from lorad.watch.news import Led, Rescan
from tests.daemon.watch.conftest import Begin, dirty, limited, mount, mounted, rescans, write


@pytest.fixture
def waits() -> Mapping[str, float]:
    """The same, without waiting as long for it."""
    return {"check": 0.2, "echo": 1.0}


def inotify_fds() -> set[int]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") == "anon_inode:inotify":
                found.add(int(name))
        except OSError:
            continue
    return found


# Overflow


def test_an_overflow_of_the_kernels_queue_has_the_root_looked_through(root: bytes, begin: Begin) -> None:
    """Watchdog drops the event that says so. What was made meanwhile is watched afterwards."""
    if os.geteuid() != 0:
        pytest.skip("only root can make the queue shorter")
    with limited("max_queued_events", 16):
        watched = begin(root)
    for number in range(300):
        os.makedirs(root + b"/%d/deep" % number)
        write(root + b"/%d/deep/file" % number)
    news = watched.synced()
    reasons = {item.reason for item in news if isinstance(item, Rescan)}
    assert root in rescans(news), reasons
    assert any("kernel" in reason for reason in reasons), reasons
    watched.synced()
    assert watched.health().folders == 601
    path = write(root + b"/299/deep/file")
    assert path in dirty(watched.synced())
    assert watched.health().health == "watching"


# Death


def test_a_thread_that_dies_is_replaced_at_once(root: bytes, begin: Begin) -> None:
    """And what happened in between is looked through."""
    watched = begin(root)
    victim = watched.watcher._observers[root].emitter
    assert victim.ident is not None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(victim.ident), ctypes.py_object(ValueError))
    write(root + b"/wakes it")
    watched.rescanned(root)
    watched.until(lambda _: watched.health().health == "watching")
    path = write(root + b"/x")
    assert dirty(watched.synced())[path] is True
    assert not victim.is_alive()


def test_a_watch_whose_thread_lives_but_hears_nothing_is_found_out_by_a_canary(root: bytes, begin: Begin) -> None:
    """`is_alive` says yes all the time."""
    before = inotify_fds()
    watched = begin(root, canary_seconds=0.2)
    (fd,) = inotify_fds() - before
    deaf = os.eventfd(0)
    os.dup2(deaf, fd, inheritable=False)
    os.close(deaf)
    write(root + b"/unheard")
    assert watched.watcher._observers[root].alive
    watched.rescanned(root)
    watched.until(lambda _: watched.health().health == "watching")
    path = write(root + b"/x")
    assert dirty(watched.synced()) == {path: True}


def test_a_watch_that_does_not_answer_in_time_does_not_hold_up_an_answer(root: bytes, begin: Begin) -> None:
    """Its root is looked through instead."""
    before = inotify_fds()
    watched = begin(root)
    (fd,) = inotify_fds() - before
    deaf = os.eventfd(0)
    os.dup2(deaf, fd, inheritable=False)
    os.close(deaf)
    write(root + b"/unheard")
    assert rescans(watched.synced()) == {root}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_dispatcher_is_replaced(root: bytes, begin: Begin) -> None:
    watched = begin(root, canary_seconds=0.2)
    observer = watched.watcher._observers[root]._observer
    observer.event_queue.put("nonsense")
    watched.rescanned(root)
    watched.until(lambda _: watched.health().health == "watching")
    path = write(root + b"/x")
    assert dirty(watched.synced())[path] is True


def test_a_watch_that_dies_again_and_again_is_made_anew_less_often(root: bytes, begin: Begin) -> None:
    watched = begin(root)
    failures = watched.watcher._failures
    for times in range(3):
        watched.until(lambda _: watched.health().health == "watching")
        ident = watched.watcher._observers[root].emitter.ident
        assert ident is not None
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(ValueError))
        write(root + b"/wakes it")
        watched.until(partial(_has_failed, failures, root, times))
    failure = failures[root]
    assert failure.times == 2
    assert failure.retry is not None
    assert failure.retry - failure.at == 4.0
    assert rescans(watched.synced()) == {root}, "nothing watches it now"


def _has_failed(failures: dict[bytes, watcher._Failure], root: bytes, times: int, _: object) -> bool:
    return root in failures and failures[root].times == times


def test_canaries_of_a_process_that_was_killed_are_swept_away(root: bytes, begin: Begin, tmp_path: Path) -> None:
    run = tmp_path / "state" / "run"
    run.mkdir(parents=True, exist_ok=True)
    (run / ".canary-1-1").touch()
    begin(root).synced()
    assert not [path for path in run.iterdir() if "canary" in path.name]


def test_without_a_state_folder_there_is_no_sign_of_life_and_that_is_said(
    root: bytes, begin: Begin, tmp_path: Path
) -> None:
    watched = begin(root, canary_seconds=0.1, poll_seconds=0.1)
    shutil.rmtree(tmp_path / "state" / "run")
    watched.becomes("degraded")
    watched.becomes("watching")
    path = write(root + b"/x")
    assert path in dirty(watched.synced())


# Limits


def test_when_there_are_no_more_watches_that_is_said_and_the_rest_is_polled(
    as_other_user: bytes, begin: Begin
) -> None:
    """Until there are more again; with the command that helps."""
    root = as_other_user + b"/models"
    for number in range(20):
        os.makedirs(root + b"/%02d" % number)
    state = as_other_user + b"/state"
    os.mkdir(state)
    with limited("max_user_watches", 8):
        watched = begin(root, state=state, poll_seconds=0.1)
        health = watched.health()
        assert health.health == "degraded"
        assert "7 of 21 folders" in health.reason
        assert "sysctl fs.inotify.max_user_watches=" in health.reason
        watched.until(lambda news: len(rescans(news)) == 14)
        assert root not in rescans(watched.until(bool)), "what is watched needs no polling"
        write(root + b"/00/file")
        write(root + b"/19/file")
        assert root in rescans(watched.synced())
    watched.becomes("watching")
    assert watched.health().folders == 21
    path = write(root + b"/19/file")
    assert dirty(watched.synced()) == {path: True}


def test_a_new_folder_that_cannot_be_watched_is_polled_from_then_on(as_other_user: bytes, begin: Begin) -> None:
    root, state = as_other_user + b"/models", as_other_user + b"/state"
    os.mkdir(root)
    os.mkdir(state)
    with limited("max_user_watches", 2):
        watched = begin(root, state=state, poll_seconds=0.1)
        assert watched.health().health == "watching"
        os.mkdir(root + b"/new")
        watched.becomes("degraded")
        watched.rescanned(root + b"/new")
        watched.rescanned(root + b"/new")
    watched.becomes("watching")


def test_when_there_are_no_more_inotify_instances_a_root_is_polled(as_other_user: bytes, begin: Begin) -> None:
    roots = [as_other_user + b"/%d" % number for number in range(3)]
    for root in (*roots, as_other_user + b"/state"):
        os.mkdir(root)
    with limited("max_user_instances", 2):
        watched = begin(*roots, state=as_other_user + b"/state", poll_seconds=0.1)
        (poor,) = [health for health in watched.watcher.health() if health.health == "degraded"]
        assert "sysctl fs.inotify.max_user_instances=" in poor.reason
        watched.rescanned(poor.path)
        assert rescans(watched.synced()) >= {poor.path}
    watched.becomes("watching", poor.path)


def test_a_folder_that_may_not_be_read_is_named_and_watched_once_it_may(
    as_other_user: bytes, begin: Begin
) -> None:
    root = as_other_user + b"/models"
    os.makedirs(root + b"/closed/deep")
    os.makedirs(root + b"/open")
    os.mkdir(as_other_user + b"/state")
    os.chmod(root + b"/closed", 0)
    watched = begin(root, state=as_other_user + b"/state")
    health = watched.health()
    assert (health.health, health.folders) == ("degraded", 2)
    assert "closed" in health.reason
    os.chmod(root + b"/closed", 0o700)
    news = watched.becomes("watching")
    assert root + b"/closed" in rescans(news + watched.synced())
    assert watched.health().folders == 4
    path = write(root + b"/closed/deep/file")
    assert dirty(watched.synced()) == {path: True}
    os.chmod(root + b"/closed", 0)
    watched.becomes("degraded")
    os.chmod(root + b"/closed", 0o700)
    watched.becomes("watching")


# File systems without events


def test_a_file_system_that_others_change_is_polled(
    root: bytes, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file system is real; that tmpfs were one of these is the only thing made up."""
    monkeypatch.setattr(mounts, "REMOTE", frozenset([b"tmpfs"]))
    with mounted(root):
        watched = begin(root, poll_seconds=0.1)
        assert watched.health()[1:] == (
            "polling",
            "it is on tmpfs, which does not tell of changes made elsewhere",
            0,
        )
        write(root + b"/x")
        for _ in range(3):
            assert dirty(watched.rescanned(root)) == {}
        assert rescans(watched.synced()) == {root}
        subprocess.run(["umount", root], check=True)
        watched.becomes("missing")
        mount(root)
        watched.becomes("polling")
        watched.rescanned(root)


def test_one_mounted_inside_a_root_is_polled_and_the_rest_is_watched(
    root: bytes, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mounts, "REMOTE", frozenset([b"tmpfs"]))
    os.mkdir(root + b"/nas")
    watched = begin(root, poll_seconds=0.1)
    with mounted(root + b"/nas"):
        news = watched.becomes("degraded")
        assert "tmpfs" in watched.health().reason
        watched.rescanned(root + b"/nas")
        assert root in rescans(news)
    watched.becomes("watching")
    assert watched.health().folders == 2


# By the clock


def test_every_root_is_looked_through_from_time_to_time(root: bytes, begin: Begin) -> None:
    watched = begin(root, rescan_seconds=0.2)
    started = time.monotonic()
    for _ in range(5):
        watched.rescanned(root)
    assert time.monotonic() - started + 0.1 >= 5 * 0.18


def test_new_times_are_taken_over_while_it_runs(root: bytes, begin: Begin) -> None:
    from loracore.config import Watch

    watched = begin(root)
    watched.watcher.set_settings(Watch(rescan_seconds=0.1))
    watched.rescanned(root)


# Roots that go away


def test_an_unmounted_root_is_missing_and_none_of_its_files_are_told_as_gone(root: bytes, begin: Begin) -> None:
    """When it is mounted again it is watched and looked through again."""
    with mounted(root):
        os.mkdir(root + b"/folder")
        for number in range(50):
            write(root + b"/folder/%d" % number)
        watched = begin(root)
        time.monotonic()
        subprocess.run(["umount", root], check=True)
        news = watched.becomes("missing")
        assert dirty(news) == {}
        assert rescans(news) == set()
        assert "mount it again" in watched.health().reason
        write(root + b"/on the wrong disk")
        assert watched.synced() == []
        os.unlink(root + b"/on the wrong disk")
        mount(root)
        news = watched.becomes("watching")
        path = write(root + b"/new")
        news += watched.synced()
        assert root in rescans(news)
        write(root + b"/new")
        assert path in dirty(news + watched.synced())


def test_a_root_unmounted_while_files_of_it_are_in_use_is_missing_too(root: bytes, begin: Begin) -> None:
    """`umount -l` takes the folder away and sends no event at all."""
    with mounted(root):
        os.mkdir(root + b"/folder")
        watched = begin(root)
        with open(root + b"/folder/file", "wb"):
            watched.synced()
            subprocess.run(["umount", "-l", root], check=True)
            assert dirty(watched.becomes("missing")) == {}


@pytest.mark.parametrize("name", [b"", b"/disk"])
def test_a_disk_that_is_away_for_a_moment_only_is_watched_again(root: bytes, begin: Begin, name: bytes) -> None:
    """Device and inode are what they were; the watches are not. At the root, or at a folder in it."""
    folder = root + name
    os.makedirs(folder, exist_ok=True)
    with mounted(folder):
        watched = begin(root)
        subprocess.run(["sh", "-c", 'umount "$0" && mount -t tmpfs none "$0"', folder], check=True)
        watched.rescanned(root)
        watched.until(lambda _: watched.health().health == "watching")
        watched.synced()
        path = write(folder + b"/x")
        assert dirty(watched.synced()) == {path: True}


def test_a_root_deleted_and_made_again_at_once_is_watched(root: bytes, begin: Begin) -> None:
    """The file system may well give it the same inode number."""
    watched = begin(root)
    for _ in range(20):
        os.rmdir(root)
        os.mkdir(root)
        watched.rescanned(root)
        watched.until(lambda _: watched.health().health == "watching")
        path = write(root + b"/x")
        assert path in dirty(watched.synced())
        os.unlink(path)


def test_a_root_below_an_unmounted_disk_is_missing(root: bytes, begin: Begin) -> None:
    with mounted(root):
        models = root + b"/models"
        os.mkdir(models)
        watched = begin(models)
        subprocess.run(["umount", root], check=True)
        assert dirty(watched.becomes("missing")) == {}


@pytest.mark.parametrize("above", [False, True])
def test_a_root_that_is_renamed_is_missing_until_it_is_back(begin: Begin, tmp_path: Path, above: bool) -> None:
    """Itself, or a folder that it lies in, of which inotify does not tell."""
    upper = os.fsencode(tmp_path) + b"/upper"
    root = upper + b"/models"
    os.makedirs(root + b"/folder")
    write(root + b"/folder/file")
    watched = begin(root)
    moved = upper if above else root
    os.rename(moved, moved + b".away")
    write(moved + b".away/x")
    assert dirty(watched.becomes("missing")) == {}
    assert watched.synced() == []
    os.rename(moved + b".away", moved)
    news = watched.becomes("watching") + watched.synced()
    assert [item.view for item in news if isinstance(item, Rescan)] == [True]
    path = write(root + b"/folder/file")
    assert dirty(watched.synced()) == {path: True}


def test_a_folder_that_is_watched_for_the_first_time_in_this_run_did_not_come_into_view_by_that(
    root: bytes, begin: Begin
) -> None:
    """What came to it while lorad was stopped is new. Another folder in its place did."""
    watched = begin(root)
    assert [item.view for item in watched.told if isinstance(item, Rescan)] == [False]
    os.rename(root, root + b".before")
    os.mkdir(root)
    news = watched.rescanned(root)
    assert [item.view for item in news if isinstance(item, Rescan)] == [True]


def test_it_is_told_once_that_a_path_leads_to_another_folder_than_the_root(root: bytes, begin: Begin) -> None:
    """Before anything that happened after it is answered; and when it leads back."""
    link, other, new = root + b".link", root + b".other", root + b".new"
    os.mkdir(other)
    os.symlink(root, link)
    watched = begin(root, links={link: root, root: root})
    assert watched.synced() == []
    for leads in (other, root, other):
        os.symlink(leads, new)
        os.rename(new, link)  # in one step: between two, a look finds a link that leads nowhere
        assert watched.synced() == [Led(link, leads)]
        assert watched.synced() == []
    os.unlink(link)
    assert watched.synced() == [Led(link, link)]
    os.symlink(root, link)
    assert watched.synced() == [Led(link, root)]


def test_a_root_that_is_not_there_at_the_start_is_waited_for(root: bytes, begin: Begin) -> None:
    missing = root + b".later"
    watched = begin(missing, root)
    assert watched.health(missing).health == "missing"
    assert watched.synced() == []
    os.mkdir(missing)
    write(missing + b"/x")
    watched.rescanned(missing)
    assert watched.health(missing).health == "watching"


def test_a_disk_that_is_not_mounted_when_the_system_starts_is_missing(root: bytes, begin: Begin) -> None:
    """An earlier run of the daemon saw it. A folder with something in it has taken its place."""
    with mounted(root):
        write(root + b"/x")
        begin(root).watcher.stop()
    watched = begin(root, here=False)
    assert watched.health().health == "missing"
    assert "mount it again" in watched.health().reason
    write(root + b"/y")
    watched.becomes("watching")
    assert rescans(watched.synced() + watched.told) == {root}


def test_a_disk_mounted_on_an_empty_root_is_looked_through(root: bytes, begin: Begin) -> None:
    watched = begin(root)
    with mounted(root):
        watched.rescanned(root)
        path = write(root + b"/x")
        assert path in dirty(watched.synced())


def test_a_disk_mounted_inside_a_root_is_watched_and_looked_through(root: bytes, begin: Begin) -> None:
    os.mkdir(root + b"/disk")
    watched = begin(root)
    with mounted(root + b"/disk"):
        watched.rescanned(root)
        path = write(root + b"/disk/x")
        assert dirty(watched.synced()) == {path: True}
    watched.rescanned(root)
    path = write(root + b"/disk/y")
    assert path in dirty(watched.synced())


def test_it_stops_within_a_second_and_leaves_no_thread_or_descriptor(root: bytes, tmp_path: Path) -> None:
    from loracore.config import Watch
    from lorad.watch.watcher import Watcher

    threads, fds = set(threading.enumerate()), len(os.listdir("/proc/self/fd"))
    news = threading.Event()
    watch = Watcher([root], state_dir=os.fsencode(tmp_path / "state"), settings=Watch(), wake=news.set)
    watch.start()
    assert news.wait(5)
    watch.stop()
    watch.stop()
    for thread in set(threading.enumerate()) - threads:
        thread.join(1)
        assert not thread.is_alive(), thread
    assert len(os.listdir("/proc/self/fd")) == fds
