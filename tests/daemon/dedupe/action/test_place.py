"""A file is reached beneath its root and never elsewhere; names for what is given back."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from lorad.dedupe.action.entry import hidden_name
from lorad.dedupe.action.order import Order, Refused, Side
from lorad.dedupe.action.place import free_names, make_way
from tests.daemon.dedupe.world import World, act, make_world, side


@pytest.mark.parametrize(
    ("root", "path"),
    [
        (b"root", b"root/../outside.safetensors"),
        (b"root", b"root//x.safetensors"),
        (b"root/models", b"root/downloads/new/gone.safetensors"),
        (b"root", b"root"),
        (b"", b"root/x.safetensors"),
    ],
)
def test_never_outside_a_root(tmp_path: Path, root: bytes, path: bytes) -> None:
    """A path that does not lie beneath its root as it is written is refused."""
    world = make_world(str(tmp_path))
    top = os.fsencode(tmp_path)
    outside = os.path.join(top, b"outside.safetensors")
    os.link(world.gone, outside)
    identity = side(world.gone, world.root).identity
    gone = Side(os.path.join(top, path), identity, os.path.join(top, root) if root else b"")
    before = world.look()
    with world.actor() as actor, pytest.raises(Refused, match="does not lie beneath"):
        act(actor, Order("delete", "file", side(world.kept, world.root), gone))
    assert world.look() == before
    assert os.path.exists(outside)


def test_a_root_may_be_a_link_itself(tmp_path: Path) -> None:
    """What is configured is what it leads to; beneath it no link is followed."""
    world = make_world(str(tmp_path))
    alias = os.fsencode(tmp_path / "alias")
    os.symlink(world.root, alias)
    seen = World(alias, world.state)
    before = world.look()
    number = seen.apply("symlink").id
    assert os.path.samefile(world.kept, world.gone)
    assert seen.free(number).state == "freed"
    seen.undo(number)
    assert world.look() == before


def test_folders_that_are_missing_are_made_like_the_one_around_them(tmp_path: Path) -> None:
    """With its owner and mode; never through a link, nor where the root is gone."""
    root = os.fsencode(tmp_path / "root")
    os.mkdir(root)
    os.chmod(root, 0o750)
    if os.geteuid() == 0:
        os.chown(root, 1234, 2345)
    for _ in range(2):
        make_way(root, root + b"/a/b/c.safetensors")
        status = os.stat(root + b"/a/b")
        assert stat.S_IMODE(status.st_mode) == 0o750
        assert (status.st_uid, status.st_gid) == (os.stat(root).st_uid, os.stat(root).st_gid)
    os.rename(root + b"/a", tmp_path / "outside")
    os.symlink(tmp_path / "outside", root + b"/a")
    make_way(root, root + b"/a/d/c.safetensors")
    assert os.listdir(tmp_path / "outside") == ["b"]
    make_way(root + b"2", root + b"2/a/b.safetensors")
    assert not os.path.lexists(root + b"2")


def test_names_fit_whatever_they_are_made_from() -> None:
    """Cut between two characters; the end that says what it is stays."""
    for name in ("\u00fc".encode() * 121 + b".safetensors", b"\xff" * 243 + b".safetensors", b"a.safetensors"):
        hidden = hidden_name(name, "0123abcd", 10**17)
        assert len(hidden) <= 255
        assert hidden.endswith(b".aside-0123abcd-%d" % 10**17)
        first, second, *_, last = free_names(name)
        assert max(map(len, (first, second, last))) <= 255
        assert first.endswith(b" (given back).safetensors")
        assert second.endswith(b" (given back) (2).safetensors")
        if b"\xff" not in name:
            assert (hidden + first + last).decode()
    assert next(free_names(b"LICENSE")) == b"LICENSE (given back)"
