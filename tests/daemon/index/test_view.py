"""What comes into view at once is known as such, and what is out of view is not gone: with real mounts, rights."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from loracore.control import Event, FileGone
from lorad.catalog import Catalog
from lorad.index import view
from lorad.index.known_files import Files
from lorad.watch.exclude import Exclude
from tests.daemon.index.looking import Looking
from tests.daemon.watch.conftest import as_other_user, begin, mount, mounted, waits

__all__ = ["as_other_user", "begin", "waits"]


class Run:
    """The names below a root, from when lorad starts to when it ends, and what it said."""

    def __init__(self, root: Path, state: Path, *, exclude: Sequence[str] = (), follow: bool = False) -> None:
        state.mkdir(exist_ok=True)
        self.root = root
        self.catalog = Catalog(str(state))
        self.files = Files(self.catalog)
        self.told: list[Event] = []
        roots = [os.fsencode(root)]
        leaves_out = Exclude(exclude, roots)
        self.files.load(leaves_out.in_view())
        self._known = dict(self.files.by_path)
        self.index = Looking(self.files, roots, exclude=leaves_out, follow=follow, tell=self.told.append)
        self.index.arrivals.act(True)

    def name(self, path: bytes) -> str:
        return os.path.relpath(os.fsdecode(path), self.root)

    def sweep(self, *, entered: bool = False) -> dict[str, bool]:
        """Look through the root: the names that are met by that, and whether they are old."""
        self.index.sweep(os.fsencode(self.root), view=entered)
        return self._met()

    def touched(self, name: str) -> dict[str, bool]:
        self.index.arrivals.noticed(os.fsencode(self.root / name))
        self.index.looks.touched(os.fsencode(self.root / name))
        return self._met()

    def _met(self) -> dict[str, bool]:
        before, self._known = self._known, dict(self.files.by_path)
        return {
            self.name(path): not file.fresh
            for path, file in self._known.items()
            if before.get(path) is not file and not file.passed_over
        }

    @property
    def names(self) -> set[str]:
        return set(map(self.name, self.files.by_path))

    @property
    def gone(self) -> set[str]:
        return {self.name(event.path) for event in self.told if isinstance(event, FileGone)}

    def is_away(self, name: str) -> bool:
        return self.index.away.is_away(os.fsencode(self.root / name))

    def end(self) -> None:
        self.files.store.save()
        self.catalog.close()


Start = Callable[..., Run]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "models"
    (path / "sub").mkdir(parents=True)
    write(path / "old.safetensors")
    return path


@pytest.fixture
def start(root: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts lorad, which ends before it starts again."""
    runs: list[Run] = []

    def begin_again(*, exclude: Sequence[str] = (), follow: bool = False) -> Run:
        if runs:
            runs.pop().end()
        runs.append(Run(root, tmp_path / "state", exclude=exclude, follow=follow))
        return runs[-1]

    yield begin_again
    for run in runs:
        run.end()


def write(path: Path) -> None:
    path.write_text(path.name)


def test_all_is_old_at_the_first_look_and_new_afterwards_also_what_came_while_lorad_was_stopped(
    root: Path, start: Start
) -> None:
    run = start()
    write(root / "note.txt")
    assert run.touched("old.safetensors") == {"old.safetensors": True}
    assert run.sweep() == {}
    write(root / "new.safetensors")
    assert run.touched("new.safetensors") == {"new.safetensors": False}
    write(root / "sub" / "unheard.safetensors")
    assert run.sweep() == {"sub/unheard.safetensors": False}
    write(root / "meanwhile.safetensors")
    assert start().sweep() == {"meanwhile.safetensors": False}


def test_what_a_watch_says_came_into_view_is_old_until_it_is_looked_through(root: Path, start: Start) -> None:
    """A root that was away for a while."""
    run = start()
    run.sweep()
    write(root / "a.safetensors")
    assert run.sweep(entered=True) == {"a.safetensors": True}
    write(root / "b.safetensors")
    assert run.sweep() == {"b.safetensors": False}


def test_a_look_that_began_before_does_not_count(root: Path, start: Start) -> None:
    run = start()
    run.sweep()
    run.index.sweeps.add(os.fsencode(root))
    run.index.sweeps.step(1)
    write(root / "a.safetensors")
    assert run.sweep(entered=True) == {"a.safetensors": True}


def test_another_folder_under_the_name_of_the_root_is_old(root: Path, start: Start) -> None:
    start().sweep()
    root.rename(root.with_name("before"))
    root.mkdir()
    write(root / "a.safetensors")
    run = start()
    assert run.sweep() == {"a.safetensors": True}
    write(root / "b.safetensors")
    assert run.touched("b.safetensors") == {"b.safetensors": False}


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A folder with a file, that may be mounted elsewhere."""
    path = tmp_path / "library"
    path.mkdir()
    write(path / "a.safetensors")
    return path


def bind(what: Path, where: Path) -> None:
    done = subprocess.run(["mount", "--bind", what, where], check=False, capture_output=True)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.decode()}")


@pytest.fixture
def point(root: Path) -> Iterator[Path]:
    """A folder below the root, on which something may be mounted."""
    yield root / "sub"
    # `os.path.ismount` sees no other folder of the same disk.
    while subprocess.run(["umount", "-l", root / "sub"], check=False, capture_output=True).returncode == 0:
        pass


@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
def test_what_lies_on_a_mount_below_a_root_is_old_and_what_comes_there_later_is_new(
    point: Path, library: Path, start: Start, stopped: bool, kind: str
) -> None:
    """Mounted while lorad runs, or while it does not; another disk, or another folder of the same."""
    run = start()
    run.sweep()
    if kind == "bind":
        bind(library, point)
    else:
        mount(os.fsencode(point))
        write(point / "a.safetensors")
    write(point.parent / "new.safetensors")
    run = start() if stopped else run
    assert run.touched("sub/a.safetensors") == {"sub/a.safetensors": True}
    write(point / "b.safetensors")
    assert run.sweep() == {"sub/b.safetensors": True, "new.safetensors": False}
    write(point / "c.safetensors")
    assert run.touched("sub/c.safetensors") == {"sub/c.safetensors": False}
    assert start().sweep() == {}


@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
def test_files_below_which_something_is_mounted_are_away_until_it_is_unmounted(
    point: Path, library: Path, start: Start, kind: str
) -> None:
    """They are not gone, also when lorad starts anew. Afterwards what was deleted is gone."""
    write(point / "covered.safetensors")
    write(point / "a.safetensors")
    start().sweep()
    for _ in range(2):
        if kind == "bind":
            bind(library, point)
        else:
            mount(os.fsencode(point))
            write(point / "a.safetensors")
        for _ in range(2):
            run = start()
            for _ in range(2):
                run.sweep()
                run.touched("sub/covered.safetensors")
                assert run.is_away("sub/covered.safetensors")
            assert run.names == {"old.safetensors", "sub/covered.safetensors", "sub/a.safetensors"}
            assert not run.gone
        subprocess.run(["umount", point], check=True)
        run.sweep()
        assert not run.is_away("sub/covered.safetensors")
    (point / "covered.safetensors").unlink()
    run.touched("sub/covered.safetensors")
    assert run.gone == {"sub/covered.safetensors"}


@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
@pytest.mark.parametrize("stopped", [False, True])
def test_files_on_what_is_not_mounted_now_are_away(
    point: Path, library: Path, start: Start, stopped: bool, kind: str
) -> None:
    """A file that was deleted there meanwhile is gone when it is mounted again."""
    if kind == "bind":
        write(library / "b.safetensors")
        bind(library, point)
    else:
        mount(os.fsencode(point))
        write(point / "a.safetensors")
    run = start()
    run.sweep()
    subprocess.run(["umount", point], check=True)
    run = start() if stopped else run
    for _ in range(2):
        run.sweep()
        assert run.is_away("sub/a.safetensors")
        assert "sub/a.safetensors" in run.names
        assert not run.gone
    write(point / "here.safetensors")
    assert run.touched("sub/here.safetensors") == {"sub/here.safetensors": False}
    (point / "here.safetensors").unlink()
    run.sweep()
    assert run.gone == {"sub/here.safetensors"}
    if kind == "bind":
        (library / "b.safetensors").unlink()
        run = start() if stopped else run
        bind(library, point)
        run.sweep()
        assert not run.is_away("sub/b.safetensors")
        assert run.names == {"old.safetensors", "sub/a.safetensors"}


def test_what_a_mount_covered_is_old_when_it_comes_to_light(point: Path, start: Start) -> None:
    write(point / "covered.safetensors")
    with mounted(os.fsencode(point)):
        run = start()
        run.sweep()
    assert run.sweep() == {"sub/covered.safetensors": True}


def test_a_folder_that_is_made_readable_is_old_and_what_comes_there_later_is_new(
    as_other_user: bytes,
) -> None:
    """Also if lorad starts anew meanwhile. What is in it is away as long as it cannot be looked into."""
    root, state = (Path(os.fsdecode(as_other_user)) / name for name in ("models", "state"))
    folder = root / "folder" / "deep"
    folder.mkdir(parents=True)
    write(folder / "a.safetensors")
    folder.parent.chmod(0)
    run = Run(root, state)
    assert run.sweep() == {}
    run.end()
    run = Run(root, state)
    folder.parent.chmod(0o755)
    write(root / "new.safetensors")
    write(folder / "b.safetensors")
    assert run.touched("folder/deep/b.safetensors") == {"folder/deep/b.safetensors": True}
    assert run.sweep() == {"folder/deep/a.safetensors": True, "new.safetensors": False}
    write(folder / "c.safetensors")
    assert run.touched("folder/deep/c.safetensors") == {"folder/deep/c.safetensors": False}
    folder.chmod(0)
    assert run.is_away("folder/deep/c.safetensors")
    run.sweep()
    assert "folder/deep/c.safetensors" in run.names
    folder.chmod(0o755)
    (folder / "c.safetensors").unlink()
    assert not run.is_away("folder/deep/c.safetensors")
    run.sweep()
    assert "folder/deep/c.safetensors" in run.gone
    run.end()


def test_what_was_left_out_is_old_when_it_is_not_any_more(root: Path, start: Start) -> None:
    """What was known of it before is known again, and what was in view and came meanwhile is new."""
    write(root / "sub" / "known.safetensors")
    run = start()
    run.sweep()
    run = start(exclude=["sub"])
    run.sweep()
    assert run.names == {"old.safetensors"}
    assert not run.gone
    assert run.is_away("sub/known.safetensors")
    write(root / "sub" / "a.safetensors")
    write(root / "new.safetensors")
    assert run.touched("sub/a.safetensors") == {}
    run = start(exclude=["*.old"])
    assert "sub/known.safetensors" in run.names
    assert run.sweep() == {"sub/a.safetensors": True, "new.safetensors": False}
    write(root / "sub" / "b.safetensors")
    assert run.touched("sub/b.safetensors") == {"sub/b.safetensors": False}


def test_what_leaves_the_view_while_lorad_runs_is_not_gone(root: Path, start: Start) -> None:
    """`blobs` is left out from when `snapshots` is beside it."""
    (root / "blobs").mkdir()
    write(root / "blobs" / "a.safetensors")
    run = start()
    run.sweep()
    (root / "snapshots").mkdir()
    run.sweep()
    assert run.names == {"old.safetensors"}
    assert not run.gone


def test_what_a_link_leads_to_is_old_when_links_are_followed_from_now_on(
    root: Path, library: Path, start: Start
) -> None:
    (root / "link").symlink_to(library)
    (root / "b.safetensors").symlink_to(library / "a.safetensors")
    run = start()
    assert run.sweep() == {"old.safetensors": True}
    run = start(follow=True)
    write(root / "new.safetensors")
    assert run.sweep() == {"link/a.safetensors": True, "b.safetensors": True, "new.safetensors": False}
    write(library / "later.safetensors")
    assert run.sweep() == {"link/later.safetensors": False}


def test_a_format_that_an_update_reads_is_old(root: Path, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "SUFFIXES", {b".safetensors": None})
    run = start()
    run.sweep()
    monkeypatch.undo()
    write(root / "a.ckpt")
    write(root / "b.safetensors")
    run = start()
    assert run.sweep() == {"a.ckpt": True, "b.safetensors": False}
    write(root / "c.ckpt")
    assert run.touched("c.ckpt") == {"c.ckpt": False}


def test_a_device_number_that_another_device_has_now_is_no_sign_of_being_gone(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two disks, whose file systems have no numbers, got each other's, and one of them is not there."""
    monkeypatch.setattr(view.View, "is_where_it_was", lambda *_: False)
    run = start()
    run.sweep()
    (file,) = run.files.by_id.values()
    here = file.identity.dev
    run.files.held.renumbered[here + 1] = here
    (run.root / "old.safetensors").unlink()
    run.sweep()
    assert run.names == {"old.safetensors"}
