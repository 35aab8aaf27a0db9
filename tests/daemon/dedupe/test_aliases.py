"""Same storage under two names is one file, whatever shows it twice."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lorad.dedupe.aliases import Alias, Aliases
from lorad.watch.mounts import Mounted
from tests.unions import BOUND, UNIONS, Union

FUSE = sorted(kind for kind in UNIONS if kind not in BOUND)


@pytest.fixture
def aliases() -> Iterator[Aliases]:
    mounted = Mounted()
    yield Aliases(mounted)
    mounted.close()


@pytest.fixture
def branch(tmp_path: Path) -> Path:
    """A folder with a model two folders down."""
    path = tmp_path / "disk" / "branch"
    (path / "x" / "y").mkdir(parents=True)
    (path / "x" / "y" / "style.safetensors").write_bytes(b"a model")
    return path


def raw(path: Path) -> bytes:
    return os.fsencode(path)


@pytest.mark.parametrize("kind", sorted(UNIONS))
def test_a_folder_seen_through_another_mount_is_one_at_any_depth(
    aliases: Aliases, union: Union, branch: Path, kind: str
) -> None:
    """Also where only one of the two can be written, and where FUSE remembers what is not there."""
    pool = union(kind, branch)
    for below in ("", "x", "x/y"):
        one, other = branch / below, pool / below
        assert aliases.between(raw(one), raw(other)) is Alias.ONE, below
        assert aliases.between(raw(other), raw(one), fresh=True) is Alias.ONE, below
    assert aliases.between(raw(branch / "x"), raw(pool / "x" / "y")) is not Alias.ONE


@pytest.mark.parametrize("kind", sorted(UNIONS))
def test_a_file_under_two_names_is_refused_for_itself(
    aliases: Aliases, union: Union, branch: Path, kind: str
) -> None:
    pool = union(kind, branch)
    shutil.copy(branch / "x/y/style.safetensors", branch / "x/y/other.safetensors")
    one, other = raw(branch / "x/y/style.safetensors"), raw(pool / "x/y/style.safetensors")
    for gone, kept in ((one, other), (other, one)):
        assert aliases.same_file(gone, kept) is Alias.ONE
        assert "itself, seen through another mount" in aliases.refusal(gone, kept)
    assert aliases.refusal(raw(branch / "x/y/other.safetensors"), other) == ""


@pytest.mark.parametrize("kind", FUSE)
def test_what_a_union_mount_does_not_prove_is_not_done_by_itself(
    aliases: Aliases, union: Union, branch: Path, kind: str
) -> None:
    """An unrelated folder on the same disk may be shown by it in a way that is not known; who asks may act."""
    pool, apart = union(kind, branch), branch.with_name("apart")
    apart.mkdir()
    gone, kept = raw(pool / "x/y/style.safetensors"), raw(apart / "style.safetensors")
    Path(os.fsdecode(kept)).write_bytes(b"a model")
    assert aliases.between(os.path.dirname(gone), os.path.dirname(kept)) is Alias.UNKNOWN
    assert "--apply" in aliases.refusal(gone, kept, by_itself=True)
    assert aliases.refusal(gone, kept) == ""


def test_within_one_union_mount_files_are_told_apart_by_it(aliases: Aliases, union: Union, branch: Path) -> None:
    """A library that lies in one pool alone is acted on as any other."""
    pool = union("mergerfs", branch)
    shutil.copytree(branch / "x", branch / "copy")
    gone, kept = raw(pool / "copy/y/style.safetensors"), raw(pool / "x/y/style.safetensors")
    assert aliases.refusal(gone, kept, by_itself=True) == ""


def test_unrelated_folders_are_two(aliases: Aliases, disk: Callable[[str], str], branch: Path) -> None:
    """On one device by their inodes, on two local ones because what is made in one is not seen in the other."""
    apart = branch.with_name("apart")
    apart.mkdir()
    other = Path(disk("ext4"))
    memory = Path(disk("tmpfs"))
    assert aliases.between(raw(branch), raw(apart)) is Alias.NO
    assert aliases.between(raw(branch), raw(other)) is Alias.NO
    assert aliases.between(raw(memory), raw(other)) is Alias.NO
    assert (
        aliases.refusal(raw(branch / "x/y/style.safetensors"), raw(other / "style.safetensors"), by_itself=True)
        == ""
    )
    assert aliases.between(raw(branch), b"/no/such/folder") is Alias.UNKNOWN


def test_two_local_disks_are_asked_once(
    aliases: Aliases, disk: Callable[[str], str], branch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All folders of two local file systems have one answer; `fresh` asks again."""
    other = Path(disk("ext4"))
    for number in range(3):
        (other / str(number)).mkdir()
    assert aliases.between(raw(branch), raw(other / "0")) is Alias.NO
    made: list[object] = []
    opens = os.open
    monkeypatch.setattr(os, "open", lambda *given, **more: made.append(given) or opens(*given, **more))
    assert aliases.between(raw(branch / "x"), raw(other / "1")) is Alias.NO
    assert not made
    assert aliases.between(raw(branch / "x"), raw(other / "2"), fresh=True) is Alias.NO
    assert made


def test_where_neither_can_be_written_it_is_not_known(
    aliases: Aliases, disk: Callable[[str], str], branch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Path(disk("ext4"))
    monkeypatch.setattr("lorad.dedupe.aliases.may_change", lambda folder: False)
    assert aliases.between(raw(branch), raw(other)) is Alias.UNKNOWN
    monkeypatch.setattr("lorad.dedupe.aliases.may_change", lambda folder: folder == raw(other))
    assert aliases.between(raw(branch), raw(other)) is Alias.NO


def test_a_new_mount_is_seen(aliases: Aliases, union: Union, branch: Path, tmp_path: Path) -> None:
    """What was told of a folder does not hold for what is mounted on it afterwards."""
    apart = tmp_path / "unions" / "mergerfs-pool"
    apart.mkdir(parents=True)
    assert aliases.between(raw(branch), raw(apart)) is Alias.NO
    apart.rmdir()
    assert aliases.between(raw(branch), raw(union("mergerfs", branch))) is Alias.ONE


@pytest.mark.parametrize("kind", ["mergerfs-cache", "overlay-lower", "bindfs"])
def test_probes_leave_nothing_behind(aliases: Aliases, union: Union, branch: Path, kind: str) -> None:
    """Neither those of now, nor what a crash has left; a probe that may be in use stays."""
    old, young = (branch / f".lorad-probe-{digit * 32}" for digit in "ab")
    (branch / ".lorad-probe-notes.txt").write_bytes(b"of the owner")
    for path in (old, young):
        path.touch()
    os.utime(old, (time.time() - 7200,) * 2)
    pool = union(kind, branch)
    assert aliases.between(raw(branch), raw(pool)) is Alias.ONE
    assert {path.name for path in branch.iterdir()} == {"x", young.name, ".lorad-probe-notes.txt"}


def test_names_that_file_systems_spell_otherwise_are_one(aliases: Aliases, union: Union, branch: Path) -> None:
    """A share may know no case, and compose letters in another way."""
    pool = union("bindfs", branch)
    one, other = branch / "x/Fenêtre.safetensors", pool / "x/fene\u0302tre.SAFETENSORS"
    assert aliases.same_file(raw(one), raw(other)) is Alias.ONE
    assert aliases.same_file(raw(one), raw(pool / "x/other.safetensors")) is Alias.NO
