"""What happens in watched folders is told by name, or as a folder to look through; with real files and threads."""

from __future__ import annotations

import ctypes
import os
import shutil
import threading
from pathlib import Path

import pytest

from lorad.watch.news import Dirty, HealthChanged
from tests.daemon.watch.conftest import Begin, dirty, rescans, write


def test_a_new_root_is_watched_first_and_then_looked_through(root: bytes, begin: Begin) -> None:
    write(root + b"/before")
    watched = begin(root)
    assert watched.health()[1:] == ("watching", "", 1)
    assert watched.told[0] == HealthChanged(root, "watching", "")
    assert rescans(watched.told) == {root}


def test_every_kind_of_change_of_a_name_is_told(root: bytes, begin: Begin) -> None:
    """Written, closed, renamed, made another name of, given other rights, deleted."""
    watched = begin(root)
    path = root + b"/a.safetensors"
    with open(path, "wb", buffering=0) as file:
        assert dirty(watched.synced()) == {path: False}
        file.write(b"x")
        assert dirty(watched.synced()) == {path: False}
        os.chmod(path, 0o600)
        assert dirty(watched.synced()) == {path: False}, "it is still being written"
    assert dirty(watched.synced()) == {path: True}
    os.chmod(path, 0o640)
    assert dirty(watched.synced()) == {path: True}
    os.rename(path, root + b"/b")
    assert dirty(watched.synced()) == {path: True, root + b"/b": True}
    os.link(root + b"/b", root + b"/c")
    assert root + b"/c" in dirty(watched.synced())
    os.unlink(root + b"/b")
    assert dirty(watched.synced()) == {root + b"/b": True}
    os.symlink(b"c", root + b"/d")
    assert root + b"/d" in dirty(watched.synced())


def test_reading_is_not_told(root: bytes, begin: Begin) -> None:
    """Our own loaders do it all day."""
    path = write(root + b"/a")
    watched = begin(root)
    with open(path, "rb") as file:
        file.read()
    os.listdir(root)
    assert watched.synced() == []


def test_names_that_are_not_utf_8_are_told_as_they_are(root: bytes, begin: Begin) -> None:
    folder = root + b"/\xff\xfe folder"
    os.mkdir(folder)
    watched = begin(root, folder)
    path = write(folder + b"/\xe4\n.safetensors")
    assert dirty(watched.synced()) == {path: True}


def test_a_tree_made_at_once_is_told_and_watched_to_its_bottom(root: bytes, begin: Begin) -> None:
    """The files in it may be older than the watch on their folder."""
    watched = begin(root)
    for number in range(20):
        folder = root + b"/%d/b/c/d" % number
        os.makedirs(folder)
        write(folder + b"/file")
    news = watched.synced()
    for number in range(20):
        path = root + b"/%d/b/c/d/file" % number
        assert path in dirty(news) or any(path.startswith(folder + b"/") for folder in rescans(news)), path
    assert watched.health().folders == 81
    for number in range(20):
        write(root + b"/%d/b/c/d/file" % number, b"y")
    assert len(dirty(watched.synced())) == 20


def test_a_folder_moved_in_is_looked_through_and_what_changes_in_it_later_is_told(
    root: bytes, begin: Begin, tmp_path: Path
) -> None:
    elsewhere = os.fsencode(tmp_path) + b"/elsewhere"
    os.makedirs(elsewhere + b"/deep")
    write(elsewhere + b"/deep/file")
    watched = begin(root)
    os.rename(elsewhere, root + b"/in")
    assert rescans(watched.synced()) == {root + b"/in"}
    write(root + b"/in/deep/file", b"y")
    assert dirty(watched.synced()) == {root + b"/in/deep/file": True}


def test_a_folder_moved_within_is_gone_there_and_looked_through_here(root: bytes, begin: Begin) -> None:
    os.makedirs(root + b"/a/deep")
    os.mkdir(root + b"/x")
    watched = begin(root)
    os.rename(root + b"/a", root + b"/x/b")
    news = watched.synced()
    assert dirty(news) == {root + b"/a": True}
    assert rescans(news) == {root + b"/x/b"}
    path = write(root + b"/x/b/deep/file")
    assert dirty(watched.synced()) == {path: True}
    assert watched.health().folders == 4


def test_a_folder_moved_into_one_that_is_not_watched_yet_is_watched_there(root: bytes, begin: Begin) -> None:
    """The walk through the new one meets it before the event of its going is read."""
    os.makedirs(root + b"/a/deep")
    watched = begin(root)
    for number in range(30):
        os.mkdir(root + b"/x%d" % number)
        source = root + (b"/a" if number == 0 else b"/x%d/a" % (number - 1))
        os.rename(source, root + b"/x%d/a" % number)
    watched.synced()
    path = write(root + b"/x29/a/deep/file")
    assert dirty(watched.synced()) == {path: True}
    assert watched.health().folders == 33


def test_folders_that_change_places_are_both_watched_afterwards(root: bytes, begin: Begin) -> None:
    """Linux tells that one came before it tells that the other, of the same name, went."""
    for name in (b"/a/one", b"/b/two"):
        os.makedirs(root + name)
    watched = begin(root)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, root + b"/a", -100, root + b"/b", 2):
        pytest.skip("no exchange of names on this file system")
    watched.synced()
    paths = {write(root + name): True for name in (b"/a/two/x", b"/b/one/x", b"/a/x", b"/b/x")}
    assert dirty(watched.synced()) == paths


def test_a_folder_moved_out_or_deleted_is_told_and_what_happens_there_is_not(
    root: bytes, begin: Begin, tmp_path: Path
) -> None:
    for name in (b"/out/deep", b"/gone/deep"):
        os.makedirs(root + name)
        write(root + name + b"/file")
    watched = begin(root)
    outside = os.fsencode(tmp_path) + b"/outside"
    os.rename(root + b"/out", outside)
    shutil.rmtree(root + b"/gone")
    news = dirty(watched.synced())
    assert root + b"/out" in news
    assert root + b"/gone" in news
    write(outside + b"/deep/file")
    assert watched.synced() == []
    assert watched.health().folders == 1


def test_a_folder_deleted_and_made_again_at_once_is_watched(root: bytes, begin: Begin) -> None:
    os.mkdir(root + b"/a")
    watched = begin(root)
    for number in range(100):
        os.rmdir(root + b"/a")
        os.mkdir(root + b"/a")
        if number % 10 == 0:
            watched.synced()
    watched.synced()
    path = write(root + b"/a/file")
    assert dirty(watched.synced()) == {path: True}


def test_the_last_rename_of_a_download_tells_of_a_closed_file(root: bytes, begin: Begin) -> None:
    """As browsers, wget, rsync and huggingface_hub do."""
    hub = root + b"/.cache/huggingface/download"
    os.makedirs(hub)
    watched = begin(root)
    unfinished = [
        root + b"/m.part",
        root + b"/m.crdownload",
        root + b"/.m.safetensors.aB3dE6",
        hub + b"/m.incomplete",
    ]
    for path in unfinished:
        write(path)
        watched.synced()
        os.rename(path, root + b"/m.safetensors")
        assert dirty(watched.synced())[root + b"/m.safetensors"] is True


def test_a_file_is_looked_at_when_aria2_is_done_with_it(root: bytes, begin: Begin) -> None:
    """aria2 writes under the final name and removes its own file beside it at the end."""
    watched = begin(root)
    write(root + b"/m.safetensors.aria2")
    write(root + b"/m.safetensors")
    watched.synced()
    os.unlink(root + b"/m.safetensors.aria2")
    assert dirty(watched.synced()) == {root + b"/m.safetensors.aria2": True, root + b"/m.safetensors": True}


def test_what_is_our_own_is_not_watched(root: bytes, begin: Begin) -> None:
    """The quarantine at a root's top, and a state folder that lies in a root."""
    state = root + b"/state"
    for folder in (root + b"/.lorad-quarantine/deep", state):
        os.makedirs(folder)
    watched = begin(root, state=state)
    assert watched.health().folders == 1
    write(root + b"/.lorad-quarantine/deep/x")
    write(state + b"/x")
    os.mkdir(state + b"/new")
    shutil.rmtree(root + b"/.lorad-quarantine")
    os.makedirs(root + b"/.lorad-quarantine/again")
    assert watched.synced() == []


def test_links_to_folders_are_looked_through_only_if_that_is_wanted(
    root: bytes, begin: Begin, tmp_path: Path
) -> None:
    outside = os.fsencode(tmp_path) + b"/outside"
    os.mkdir(outside)
    os.symlink(outside, root + b"/link")
    os.symlink(root, root + b"/loop")
    watched = begin(root)
    assert watched.health().folders == 1
    following = begin(root, follow_symlinks=True, state=os.fsencode(tmp_path) + b"/other")
    assert following.health().folders == 2
    write(outside + b"/file")
    assert watched.synced() == []
    assert dirty(following.synced()) == {root + b"/link/file": True}
    os.symlink(outside, root + b"/second")
    os.unlink(root + b"/link")
    following.synced()
    write(outside + b"/file")
    assert dirty(following.synced()) == {root + b"/second/file": True}


def test_twenty_thousand_files_made_at_once_are_all_told_by_name_or_by_folder(root: bytes, begin: Begin) -> None:
    """Watchdog's own emitter tells of a quarter of them."""
    watched = begin(root)
    folder = root + b"/many"
    os.mkdir(folder)
    watched.synced()

    def make(part: int) -> None:
        for number in range(part, 20_000, 2):
            os.close(os.open(folder + b"/%d" % number, os.O_CREAT | os.O_WRONLY))

    makers = [threading.Thread(target=make, args=(part,)) for part in range(2)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    news = watched.synced()
    assert len(dirty(news)) == 20_000 or root in rescans(news)
    assert all(isinstance(item, Dirty) for item in news) or root in rescans(news)


def test_an_answer_to_sync_comes_after_all_that_happened_before_in_every_root(
    begin: Begin, tmp_path: Path
) -> None:
    roots = [os.fsencode(tmp_path / name) for name in ("a", "b", "c")]
    for root in roots:
        os.mkdir(root)
    watched = begin(*roots)
    for number in range(50):
        paths = {write(root + b"/%d" % number): True for root in roots}
        assert dirty(watched.synced()) == paths


def test_roots_come_and_go_without_disturbing_the_others(begin: Begin, tmp_path: Path) -> None:
    first, second, third = (os.fsencode(tmp_path / name) for name in ("a", "b", "c"))
    for root in (first, second, third):
        os.mkdir(root)
    watched = begin(first, second)
    watched.watcher.set_roots([second, third])
    watched.rescanned(third)
    assert [health.path for health in watched.watcher.health()] == [second, third]
    for root in (first, second, third):
        write(root + b"/x")
    news = watched.synced()
    assert dirty(news) == {second + b"/x": True, third + b"/x": True}
    assert rescans(news) == set()


def test_a_root_made_anew_in_place_of_another_is_looked_through(root: bytes, begin: Begin) -> None:
    watched = begin(root)
    os.rename(root, root + b".old")
    os.mkdir(root)
    watched.rescanned(root)
    watched.until(lambda _: watched.health().health == "watching")
    path = write(root + b"/x")
    assert dirty(watched.synced())[path] is True


def test_an_idle_watch_costs_next_to_nothing(root: bytes, begin: Begin) -> None:
    """Under 0.3 % of a core, its own looks at roots and mounts included."""
    import time

    for number in range(50):
        os.makedirs(root + b"/%d/x" % number)
    watched = begin(root)
    watched.synced()
    before = time.process_time()
    threading.Event().wait(2.5)
    assert time.process_time() - before < 2.5 * 0.003
