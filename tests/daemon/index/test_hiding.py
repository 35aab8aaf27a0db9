"""What de-duplication has hidden stays known and is in no view, and is shown again without being read."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from loracore.control import FileGone, FileSeen
from loracore.paths import CATALOGUE
from lorad.catalog.views import connect
from lorad.library import Status
from lorad.pipeline.protocol import Publish
from lorad.publish.publisher import Publisher
from tests.builders.write import save_checkpoint
from tests.daemon.inline import Life, weights, write


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A kept file, two of the same weights, and others."""
    path = tmp_path / "models"
    path.mkdir()
    for name in ("kept", "one", "two"):
        write(path / f"{name}.safetensors", 1)
    write(path / "other.safetensors", 2)
    return path


@pytest.fixture
def kept(root: Path) -> Path:
    return root / "kept.safetensors"


@pytest.fixture
def life(root: Path, tmp_path: Path) -> Life:
    return Life(tmp_path / "state", [root]).settle().aged()


def hidden_name(path: Path, number: int = 1) -> Path:
    return path.with_name(f".{path.name}.aside-0123abcd-{number}")


def hide(life: Life, path: Path, number: int = 1) -> Path:
    """As an action does it."""
    hidden = hidden_name(path, number)
    life.engine.looks.put_off = lambda name: name == os.fsencode(path)
    os.rename(path, hidden)
    life.engine.hiding.hide(os.fsencode(path), os.fsencode(hidden))
    life.engine.looks.put_off = lambda name: False
    life.touch(path)
    return hidden


def show(life: Life, hidden: Path, path: Path) -> None:
    os.rename(hidden, path)
    life.engine.hiding.show(os.fsencode(hidden), os.fsencode(path))
    life.touch(path)


def again(life: Life, *, killed: bool = False) -> Life:
    life.kill() if killed else life.stop()
    return Life(life.state, [Path(os.fsdecode(root)) for root in life.roots])


def check(life: Life, root: Path) -> None:
    """All that is said counts the same things, and says what the disk has in view."""
    life.settle()
    state = life.state
    Publisher(str(state)).publish(Publish(life.catalog.generation))
    files = json.loads((state / "processed.json").read_text())
    visible = {str(path) for path in root.rglob("*.safetensors") if ".aside-" not in str(path)}
    assert set(files["files"]) == visible
    statuses = Counter(row["status"] for row in files["files"].values())
    assert statuses == Counter({status.value: n for status, n in life.engine.files.tally.counts.items() if n})
    progress = life.engine.progress()
    assert files["progress"]["files_total"] == progress.files_total == len(visible)
    assert files["progress"]["bytes_total"] == progress.bytes_total
    duplicates = json.loads((state / "duplicates.json").read_text())["duplicates"]
    sets = {frozenset([path, *others]) for path, others in duplicates.items()}
    assert sum(map(len, sets)) == statuses["duplicate"]
    groups = json.loads((state / "groups.json").read_text())["groups"]
    assert life.engine.groups == len(groups)
    with closing(connect(str(state))) as db:
        names = dict(db.execute("SELECT path, active FROM names"))
    assert {path for path, active in names.items() if active == 2} == set(life.engine.hiding.hidden())
    assert (state / CATALOGUE).exists()


def test_the_last_one_in_view_is_shown_as_unique(life: Life, root: Path, kept: Path) -> None:
    """As if the hidden ones were not there; and as a duplicate again when another one comes."""
    hide(life, root / "one.safetensors", 1)
    assert life.status(kept) is life.status(root / "two.safetensors") is Status.DUPLICATE
    check(life, root)
    hide(life, root / "two.safetensors", 2)
    assert life.status(kept) is Status.UNIQUE
    check(life, root)
    copy = shutil.copyfile(kept, root / "copy.safetensors")
    life.found.clear()
    life.events()
    life.touch(copy)
    assert life.status(kept) is life.status(copy) is Status.DUPLICATE
    assert sorted(life.found) == sorted(map(str, (copy, kept)))
    assert life.events() == [str(copy)]
    check(life, root)
    copy.unlink()
    life.touch(copy)
    assert life.status(kept) is Status.UNIQUE
    check(life, root)


def test_a_name_of_the_kept_inode_makes_no_duplicate(life: Life, root: Path, kept: Path) -> None:
    """Nor would it without what is hidden."""
    hide(life, root / "one.safetensors", 1)
    hide(life, root / "two.safetensors", 2)
    os.link(kept, root / "link.safetensors")
    life.touch(root / "link.safetensors")
    assert life.status(kept) is Status.UNIQUE
    assert life.engine.progress().files_total == 3
    files = json.dumps(sorted(life.newcomers))
    assert files == "[]"


@pytest.mark.parametrize("ends", ["", "stopped", "killed"])
def test_what_is_shown_again_is_as_it_was_and_no_news(life: Life, root: Path, kept: Path, ends: str) -> None:
    """Under its name or another, also by another lorad; nothing is read for that."""
    paths = [root / "one.safetensors", root / "two.safetensors"]
    hidden = [hide(life, path, number) for number, path in enumerate(paths)]
    if ends:
        life = again(life, killed=ends == "killed").settle()
        assert life.status(kept) is Status.UNIQUE
        check(life, root)
    read = life.engine.statistics.bytes_read
    life.told.clear()
    life.found.clear()
    back = [paths[0], root / "two (given back).safetensors"]
    for name, path in zip(hidden, back, strict=True):
        show(life, name, path)
    assert life.engine.statistics.bytes_read == read
    assert not life.found
    assert not [event for event in life.told if isinstance(event, FileSeen)]
    assert {life.status(path) for path in (kept, *back)} == {Status.DUPLICATE}
    assert not life.engine.hiding.hidden()
    assert life.newcomers == set()
    check(life, root)
    assert again(life).sweep().engine.statistics.bytes_read == 0


def test_the_only_one_that_is_shown_again_is_unique(life: Life, root: Path, kept: Path) -> None:
    """The kept file is gone, and what was hidden for it is given back."""
    path = root / "one.safetensors"
    hidden = hide(life, path)
    for name in ("kept", "two"):
        (root / f"{name}.safetensors").unlink()
    life.touch(kept, root / "two.safetensors")
    check(life, root)
    show(life, hidden, path)
    assert life.status(path) is Status.UNIQUE
    check(life, root)


@pytest.mark.parametrize("order", ["hide first", "sweep first"])
@pytest.mark.parametrize("thrown_away", [False, True], ids=["", "catalogue thrown away"])
def test_what_was_hidden_when_lorad_was_killed_is_known_as_hidden(
    life: Life, root: Path, kept: Path, order: str, *, thrown_away: bool
) -> None:
    """The journal tells of it at the next start. What later takes the name again is no newcomer."""
    path = root / "one.safetensors"
    hidden = hidden_name(path)
    os.rename(path, hidden)
    life.kill()
    if thrown_away:
        for file in life.state.iterdir():
            file.unlink()
    life = Life(life.state, [root], view=thrown_away)
    if order == "sweep first":
        life.settle()
    for _ in range(2):
        life.engine.hiding.hide(os.fsencode(path), os.fsencode(hidden))
    life.settle()
    assert list(life.engine.hiding.hidden()) == [os.fsencode(hidden)]
    assert [event for event in life.told if event == FileGone(os.fsencode(hidden))] == []
    (root / "two.safetensors").unlink()
    life.touch(root / "two.safetensors")
    assert life.status(kept) is Status.UNIQUE
    check(life, root)
    write(path, 1)
    assert life.touch(path).status(path) is Status.DUPLICATE
    assert life.newcomers == set()
    new = write(root / "new.safetensors", 1)
    assert life.touch(new).newcomers == {str(new)}


def test_what_is_freed_or_removed_is_forgotten_and_its_name_is_not(life: Life, root: Path, kept: Path) -> None:
    """Its inode's number may be given to a new file; a file that is mirrored to its name again is old."""
    path = root / "one.safetensors"
    hidden = hide(life, path)
    number = hidden.stat().st_ino
    hidden.unlink()
    life.engine.hiding.show(os.fsencode(hidden), None)
    assert not life.engine.hiding.hidden()
    new = shutil.copyfile(kept, root / "new.safetensors")
    assert life.touch(new).newcomers == {str(new)}, f"also as inode {number}"
    for _ in range(3):
        write(path, 1)
        assert life.touch(path).newcomers == {str(new)}
        hidden = hide(life, path)
        hidden.unlink()
        life.engine.hiding.show(os.fsencode(hidden), None)
    check(life, root)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", ["one.ckpt", "n" * 230 + ".ckpt"])
def test_a_hidden_file_is_read_by_what_it_is(
    root: Path, tmp_path: Path, kept: Path, name: str, *, legacy: bool
) -> None:
    """Its name says nothing of its container, and may have been cut to fit. So it is found again in any case."""
    path = root / name
    save_checkpoint(str(path), weights(1), legacy=legacy)
    hidden = root / f".{name[:200]}.aside-0123abcd-1"
    os.rename(path, hidden)
    for each in ("one", "two"):
        (root / f"{each}.safetensors").unlink()
    life = Life(tmp_path / "state", [root])
    life.engine.hiding.hide(os.fsencode(path), os.fsencode(hidden))
    life.settle()
    assert life.file(kept).weights == life.engine.files.hidden[os.fsencode(hidden)].weights is not None
    assert life.status(kept) is Status.UNIQUE
    check(life, root)


def test_a_file_of_several_names_is_hidden_name_by_name(life: Life, root: Path, kept: Path) -> None:
    names = [root / "one.safetensors", root / "link.safetensors"]
    os.link(*names)
    life.touch(*names)
    hidden = [hide(life, names[0], 1)]
    assert life.status(names[1]) is Status.DUPLICATE
    check(life, root)
    hidden.append(hide(life, names[1], 2))
    check(life, root)
    life = again(life).settle()
    check(life, root)
    show(life, hidden[1], names[1])
    check(life, root)
    hidden[0].unlink()
    life.engine.hiding.show(os.fsencode(hidden[0]), None)
    assert life.touch(names[1]).status(names[1]) is Status.DUPLICATE
    check(life, root)


def test_a_folder_is_hidden_as_a_whole(life: Life, root: Path, kept: Path) -> None:
    folder = root / "adapter"
    folder.mkdir()
    path = write(folder / "adapter_model.safetensors", 1)
    (folder / "adapter_config.json").write_text("{}")
    life.engine.sweeps.add(os.fsencode(folder))
    assert life.settle().newcomers == {str(path)}
    # As if it had been there for a while when it was read.
    life.file(path).read_ns += 10**9
    aside = root / ".adapter.aside-0123abcd-7"
    names = [(path, aside / path.name)]
    read = life.engine.statistics.bytes_read
    os.rename(folder, aside)
    for name, hidden in names:
        life.engine.hiding.hide(os.fsencode(name), os.fsencode(hidden))
    life.touch(folder)
    life.sweep()
    assert life.engine.files.by_path.keys().isdisjoint(map(os.fsencode, folder.parent.glob("adapter/*")))
    check(life, root)
    os.rename(aside, folder)
    for name, hidden in names:
        life.engine.hiding.show(os.fsencode(hidden), os.fsencode(name))
    life.engine.sweeps.add(os.fsencode(folder))
    assert life.settle().status(path) is Status.DUPLICATE
    assert life.engine.statistics.bytes_read == read
    assert life.newcomers == set()


def test_what_its_owner_takes_back_by_hand_is_a_file_as_any_other_and_old(
    life: Life, root: Path, kept: Path
) -> None:
    hidden = hide(life, root / "one.safetensors")
    mine = root / "mine.safetensors"
    os.rename(hidden, mine)
    assert life.touch(mine).status(mine) is Status.DUPLICATE
    assert not life.engine.hiding.hidden()
    assert life.newcomers == set()
    check(life, root)


def test_a_hidden_file_that_changes_is_read_as_what_it_is(life: Life, root: Path, kept: Path) -> None:
    """Nothing that was known of it before counts."""
    hidden = hide(life, root / "one.safetensors")
    (root / "two.safetensors").unlink()
    life.touch(root / "two.safetensors")
    content = (root / "other.safetensors").read_bytes()
    hidden.write_bytes(content)
    life.engine.hiding.hide(os.fsencode(root / "one.safetensors"), os.fsencode(hidden))
    life.settle()
    assert list(life.engine.hiding.hidden()) == [os.fsencode(hidden)]
    copy = shutil.copyfile(kept, root / "copy.safetensors")
    assert life.touch(copy).status(kept) is Status.DUPLICATE
    (file,) = life.engine.files.hidden.values()
    assert file.weights == life.file(root / "other.safetensors").weights
    check(life, root)


def test_names_that_an_action_is_under_way_on_are_left_alone(life: Life, root: Path, kept: Path) -> None:
    """Whatever a sweep or an event says of them, and whatever a reader finds; all is looked at afterwards."""
    path = root / "one.safetensors"
    os.utime(path)
    life.engine.looks.put_off = lambda name: name == os.fsencode(path)
    life.pipeline.holds = True
    life.touch(path)
    assert life.file(path).weights, "not told yet"
    life.engine.looks.put_off = lambda name: False
    life.touch(path)
    assert not life.file(path).weights
    life.engine.looks.put_off = lambda name: name == os.fsencode(path)
    hidden = hidden_name(path)
    os.rename(path, hidden)
    life.pipeline.holds = False
    life.engine.sweeps.add(os.fsencode(root))
    for _ in range(20):
        life.engine.step(0)
    assert life.status(path) is Status.PENDING, "it is asked for again when the action is over"
    life.engine.hiding.hide(os.fsencode(path), os.fsencode(hidden))
    life.engine.looks.put_off = lambda name: False
    life.settle()
    assert life.engine.files.hidden[os.fsencode(hidden)].weights == life.file(kept).weights
    check(life, root)
