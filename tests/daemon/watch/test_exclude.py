"""Which names are left out, by the walk and by the watch alike: patterns, the default, what we make ourselves."""

from __future__ import annotations

import os

import pytest

from loracore.settings import EXCLUDE
from lorad.watch.exclude import Exclude
from lorad.watch.scanner import HIDDEN, walk
from tests.daemon.watch.conftest import Begin, dirty, rescans, write

HIDDEN_FILE, HIDDEN_FOLDER = b".a.safetensors.aside-0c3f-12", b".adapter.aside-0c3f-13"


def walked(root: bytes, *patterns: str) -> set[bytes]:
    seen = walk([root], follow=False, exclude=Exclude(patterns, [root]))
    return {os.path.relpath(each.path, root) for each in seen}


@pytest.fixture
def library(root: bytes) -> bytes:
    """One file in each folder that may be left out, and some beside them."""
    folders = [os.fsencode(name.replace("*", "-1000")) for name in EXCLUDE]
    folders += [b".lorad-quarantine/0c3f-1", b".lorad-anything", HIDDEN_FOLDER, b"hub/blobs", b"hub/snapshots/1"]
    for folder in [*folders, b"blobs", b"training/\xff/tmp", b"deep/.git/objects"]:
        os.makedirs(os.path.join(root, folder), exist_ok=True)
        write(os.path.join(root, folder, b"x.safetensors"))
    write(os.path.join(root, b"deep", HIDDEN_FILE))
    return root


def test_the_default_leaves_out_bins_snapshots_and_what_de_duplication_hides(library: bytes) -> None:
    """`blobs` is left out beside `snapshots` alone, and hidden files and folders at any depth."""
    kept = {b"hub/snapshots/1/x.safetensors", b"blobs/x.safetensors", b"training/\xff/tmp/x.safetensors"}
    assert walked(library) == kept


def test_a_list_extends_the_default_unless_it_begins_with_it_negated(library: bytes) -> None:
    assert walked(library, "blobs", "tmp") == {b"hub/snapshots/1/x.safetensors"}
    everything = walked(library, "!default")
    assert {b"hub/blobs/x.safetensors", b"deep/.git/objects/x.safetensors"} <= everything
    assert not any(b".lorad-" in path or b".aside-" in path for path in everything)


def test_a_pattern_with_a_slash_is_for_the_way_from_the_root(library: bytes) -> None:
    """Names that are not UTF-8 are matched like others: a byte that is none is one character."""
    assert b"training/\xff/tmp/x.safetensors" not in walked(library, "training/?/tmp")
    assert b"blobs/x.safetensors" in walked(library, "hub/*", "models/blobs")
    assert b"blobs/x.safetensors" not in walked(library, "blob[s]/*")


def test_a_root_itself_is_never_left_out_and_counts_from_itself(root: bytes) -> None:
    """Also where it lies in another one, which leaves it out."""
    inner = root + b"/.Trash/models"
    exclude = Exclude(["a/b"], [root, inner])
    assert exclude(root + b"/.Trash/models2")
    assert exclude(root + b"/a/b/c")
    assert not exclude(inner + b"/c")
    assert exclude(inner + b"/a/b/c")
    assert not exclude(inner)
    in_view = exclude.in_view()
    assert in_view(inner + b"/c")
    assert not in_view(root + b"/.Trash/c")
    assert not in_view(b"/elsewhere/c")


@pytest.mark.parametrize(
    "name", [HIDDEN_FILE, HIDDEN_FOLDER, b".line\nbreak.aside-0-1", b".\xff.aside-ff-9", b".a.aside-0-1.aside-0-2"]
)
def test_names_that_an_action_gives_are_known(name: bytes) -> None:
    assert HIDDEN.fullmatch(name)


@pytest.mark.parametrize(
    "name", [b"a.aside-0-1", b".aside-0-1", b".a.aside-0g-1", b".a.aside-0-1\n", b".a.aside-0-1.x", b".a.aside-0"]
)
def test_other_names_are_not_taken_for_them(name: bytes) -> None:
    assert not HIDDEN.fullmatch(name)


def test_what_is_left_out_is_not_watched_and_nothing_of_it_is_told(library: bytes, begin: Begin) -> None:
    watched = begin(library, exclude=("tmp", "*.bak"))
    # The root, hub, snapshots, 1, blobs, training, its folder, deep.
    assert watched.health().folders == 8
    os.mkdir(library + b"/deep/.Trash-0")
    for name in (b".Trash-1000/y", b"deep/.Trash-0/y", b"hub/blobs/y", b"y.bak", HIDDEN_FILE):
        write(os.path.join(library, name))
    write(library + b"/y")
    os.rename(library + b"/y", library + b"/deep/.Trash-0/z")
    os.rename(library + b"/deep/.Trash-0", library + b"/bin")
    news = watched.synced()
    assert dirty(news) == {library + b"/y": True}
    assert rescans(news) == {library + b"/bin"}
    assert watched.health().folders == 9


def test_other_patterns_take_effect_while_it_watches(library: bytes, begin: Begin) -> None:
    watched = begin(library)
    watched.watcher.set_settings(type(watched.settings)(exclude=("!default", "deep")))
    watched.rescanned(library)
    path = write(library + b"/.git/y")
    write(library + b"/deep/y")
    assert dirty(watched.synced()) == {path: True}


def test_a_link_to_what_is_left_out_is_left_out_too(library: bytes, begin: Begin) -> None:
    """Where links are followed: the walk and the watch agree."""
    for target in (b".git", b".lorad-quarantine", b"blobs"):
        os.symlink(target, library + b"/to-" + target.lstrip(b"."))
    seen = walk([library], follow=True, exclude=Exclude(roots=[library]))
    paths = {os.path.relpath(each.path, library) for each in seen}
    assert not any(path.startswith((b"to-git/", b"to-lorad")) for path in paths)
    assert b"blobs/x.safetensors" in paths or b"to-blobs/x.safetensors" in paths
    watched = begin(library, follow_symlinks=True)
    write(library + b"/.git/y")
    assert watched.synced() == []
