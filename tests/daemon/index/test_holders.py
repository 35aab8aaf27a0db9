"""What de-duplication asks before it gives back or frees: which files hold weights, and how certain that is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lorad.library import Status
from tests.daemon.index.test_hiding import again, hidden_name, hide
from tests.daemon.inline import Life, write
from tests.daemon.watch.conftest import as_other_user, begin, waits

__all__ = ["as_other_user", "begin", "waits"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A kept file, another one of its weights, and one of its layout."""
    path = tmp_path / "models"
    (path / "sub").mkdir(parents=True)
    for name in ("kept", "one"):
        write(path / f"{name}.safetensors", 1)
    write(path / "other.safetensors", 2)
    return path


@pytest.fixture
def kept(root: Path) -> Path:
    return root / "kept.safetensors"


@pytest.fixture
def life(root: Path, tmp_path: Path) -> Life:
    return Life(tmp_path / "state", [root]).settle().aged()


@pytest.fixture
def key(life: Life, root: Path, kept: Path) -> tuple[bytes, bytes]:
    """The weights that one file is kept of, and another is hidden."""
    key = life.signature(kept)
    hide(life, root / "one.safetensors")
    life.engine.holders.dirty_weights()
    return key


def names(life: Life, key: tuple[bytes, bytes]) -> set[str]:
    return {os.path.basename(os.fsdecode(keeper.path)) for keeper in life.engine.holders.keepers(*key)}


def why(life: Life, key: tuple[bytes, bytes], *paths: Path) -> str:
    return life.engine.holders.unresolved(*key, map(os.fsencode, paths))


def test_keepers_are_all_names_in_view_with_what_is_said_of_their_function(
    life: Life, root: Path, kept: Path, key: tuple[bytes, bytes]
) -> None:
    assert names(life, key) == {"kept.safetensors"}
    os.link(kept, root / "link.safetensors")
    shutil.copyfile(kept, root / "sub" / "adapter_model.safetensors")
    (root / "sub" / "adapter_config.json").write_text('{"lora_alpha": 3}')
    life.touch(root / "link.safetensors", root / "sub" / "adapter_model.safetensors")
    found = {os.path.basename(keeper.path): keeper for keeper in life.engine.holders.keepers(*key)}
    assert found.keys() == {b"kept.safetensors", b"link.safetensors", b"adapter_model.safetensors"}
    assert found[b"kept.safetensors"].identity == found[b"link.safetensors"].identity == life.file(kept).identity
    assert found[b"kept.safetensors"].config is None
    assert found[b"adapter_model.safetensors"].config
    assert life.engine.holders.keepers(key[0], b"?" * 32) == life.engine.holders.keepers(b"?" * 32, key[1]) == []


def test_a_file_that_was_a_duplicate_is_known_to_hold_its_weights_later(
    life: Life, root: Path, kept: Path, key: tuple[bytes, bytes]
) -> None:
    """Also when what was hidden is freed, and by another lorad."""
    hidden_name(root / "one.safetensors").unlink()
    life.engine.hiding.show(os.fsencode(hidden_name(root / "one.safetensors")), None)
    assert names(life, key) == names(again(life).settle(), key) == {"kept.safetensors"}


Change = Callable[[Path, Path], list[Path]]


def _remove(root: Path, kept: Path) -> list[Path]:
    kept.unlink()
    return [kept]


def _overwrite(root: Path, kept: Path) -> list[Path]:
    kept.write_bytes((root / "other.safetensors").read_bytes())
    return [kept]


def _replace(root: Path, kept: Path) -> list[Path]:
    return [write(kept, 3, layout=1)]


def _move_over(root: Path, kept: Path) -> list[Path]:
    os.rename(root / "other.safetensors", kept)
    return [root / "other.safetensors", kept]


def _break(root: Path, kept: Path) -> list[Path]:
    kept.write_text("something else")
    return [kept]


def _move_away(root: Path, kept: Path) -> list[Path]:
    os.rename(kept, root.parent / "elsewhere")
    return [kept]


def _remove_folder(root: Path, kept: Path) -> list[Path]:
    shutil.rmtree(root / "sub")
    return [*_remove(root, kept), root / "sub"]


@pytest.mark.parametrize("change", [_remove, _overwrite, _replace, _move_over, _break, _move_away, _remove_folder])
@pytest.mark.parametrize("stopped", [False, True])
def test_the_last_keeper_is_gone_when_it_is_missing_or_has_other_weights(
    life: Life, root: Path, kept: Path, key: tuple[bytes, bytes], change: Change, *, stopped: bool
) -> None:
    changed = change(root, kept)
    if stopped:
        life = again(life, killed=True)
        assert why(life, key, kept) == "settling", "its folder is to be looked through"
        life.settle()
    else:
        life.touch(*changed)
    assert names(life, key) == set()
    assert why(life, key, kept) == ""
    assert key in life.engine.holders.dirty_weights()
    assert key not in life.engine.holders.dirty_weights()


def _touch(root: Path, kept: Path) -> list[Path]:
    os.utime(kept)
    return [kept]


def _move(root: Path, kept: Path) -> list[Path]:
    os.rename(kept, root / "sub" / "moved.safetensors")
    return [kept, root / "sub" / "moved.safetensors"]


def _copy_and_remove(root: Path, kept: Path) -> list[Path]:
    shutil.copyfile(kept, root / "copy.safetensors")
    return [root / "copy.safetensors", *_remove(root, kept)]


def _write_anew(root: Path, kept: Path) -> list[Path]:
    return [write(kept, 1, title="edited")]


READ_ANEW = [(_touch, "reading"), (_move, "reading"), (_write_anew, "reading"), (_copy_and_remove, "settling")]


@pytest.mark.parametrize(("change", "while_read"), READ_ANEW)
@pytest.mark.parametrize("order", ["", "reversed", "killed"])
def test_a_keeper_that_is_read_anew_or_copied_is_not_gone(
    life: Life, kept: Path, key: tuple[bytes, bytes], change: Change, while_read: str, *, order: str
) -> None:
    """What may hold the weights is to be read first. That is known after a kill as well."""
    root = kept.parent
    life.pipeline.holds = True
    changed = change(root, kept)
    life.touch(*(reversed(changed) if order else changed))
    if order == "killed":
        life = again(life, killed=True)
        life.pipeline.holds = True
        life.settle()
    assert names(life, key) == set()
    assert why(life, key, kept) == while_read
    life.engine.holders.dirty_weights()
    life.pipeline.holds = False
    life.settle()
    assert len(names(life, key)) == 1
    assert why(life, key) == ""
    assert key in life.engine.holders.dirty_weights()


def test_a_keeper_is_known_when_what_is_hidden_for_it_was_read(
    life: Life, root: Path, kept: Path, key: tuple[bytes, bytes]
) -> None:
    """After the catalogue was thrown away: until then nothing says which file it is."""
    moved = root / "sub" / "moved.safetensors"
    os.rename(kept, moved)
    life.kill()
    shutil.rmtree(life.state)
    life = Life(life.state, [root], view=True).settle()
    life.pipeline.holds = True
    hidden = hidden_name(root / "one.safetensors")
    life.engine.hiding.hide(os.fsencode(root / "one.safetensors"), os.fsencode(hidden))
    assert (names(life, key), why(life, key, kept)) == (set(), "settling")
    life.pipeline.holds = False
    while life.engine.files.tally.untold[None]:
        life.engine.step(0)
    assert (names(life, key), why(life, key, kept)) == (set(), "settling")
    life.settle()
    assert (names(life, key), why(life, key, kept)) == ({"moved.safetensors"}, "")


def test_a_keeper_that_waits_to_settle_is_known_until_then(
    life: Life, root: Path, kept: Path, key: tuple[bytes, bytes]
) -> None:
    os.utime(kept)
    life.young = {os.fsencode(kept)}
    life.sweep()
    assert names(life, key) == {"kept.safetensors"}


def test_other_layouts_that_are_read_do_not_matter(
    life: Life, root: Path, kept: Path, key: tuple[bytes, bytes]
) -> None:
    """Once their header says which they are."""
    for name in "ab":
        write(root / f"{name}.safetensors", 5, layout=2)
    life.touch(*_remove(root, kept))
    life.pipeline.holds = True
    life.touch(*(root / f"{name}.safetensors" for name in "ab"))
    assert why(life, key) == "settling"
    life.pipeline.holds = False
    while life.engine.files.tally.counts[Status.PENDING]:
        life.engine.step(0)
    life.pipeline.holds = True
    assert life.engine.files.tally.counts[Status.GROUPED] == 2
    assert why(life, key) == ""


@pytest.mark.parametrize("stopped", [False, True])
def test_a_keeper_that_cannot_be_read_is_away(as_other_user: bytes, *, stopped: bool) -> None:
    """Nor is one whose folder cannot be looked into, as far as it was known."""
    root, state = (Path(os.fsdecode(as_other_user)) / name for name in ("models", "state"))
    (root / "sub").mkdir(parents=True)
    kept, hidden = (write(path, 1) for path in (root / "sub" / "kept.safetensors", root / "one.safetensors"))
    life = Life(state, [root]).settle().aged()
    key = life.signature(kept)
    hide(life, hidden)
    kept.chmod(0)
    life = again(life).settle() if stopped else life.touch(kept)
    assert life.status(kept) is Status.FAILED
    assert (names(life, key), why(life, key, kept)) == (set(), "away")
    kept.chmod(0o600)
    life.touch(kept)
    assert (names(life, key), why(life, key, kept)) == ({"kept.safetensors"}, "")
    kept.parent.chmod(0)
    life = again(life).settle() if stopped else life.touch(kept).sweep()
    assert names(life, key) == {"kept.safetensors"}
    assert why(life, key, kept.with_name("unknown.safetensors")) == "away"
    kept.parent.chmod(0o700)


def test_a_keeper_that_lorad_fails_at_by_a_mistake_is_away(
    life: Life, kept: Path, key: tuple[bytes, bytes]
) -> None:
    life.engine.failures.mistake = lambda path, traceback: None
    life.engine.failures.set_aside(os.fsencode(kept), "a mistake")
    assert (names(life, key), why(life, key)) == (set(), "away")
    life.touch(kept)
    assert (names(life, key), why(life, key)) == ({"kept.safetensors"}, "")


def test_a_keeper_out_of_view_is_away(life: Life, root: Path, kept: Path, key: tuple[bytes, bytes]) -> None:
    """Its root was taken out, or is not there."""
    life.stop()
    other = root.parent / "other"
    other.mkdir()
    life = Life(life.state, [other]).settle()
    assert names(life, key) == set()
    assert why(life, key) == why(life, key, kept) == "away"
    life.stop()
    life = Life(life.state, [root, other]).settle()
    root.rename(root.with_name("unmounted"))
    life.sweep()
    assert names(life, key) == {"kept.safetensors"}, "as it was when it was last seen"
    assert why(life, key, root / "unknown.safetensors") == "away"


def test_nothing_said_before_a_tidying_is_lost(
    life: Life, root: Path, kept: Path, key: tuple[bytes, bytes]
) -> None:
    """Numbers of layouts are given again."""
    (root / "other.safetensors").unlink()
    (hidden_name(root / "one.safetensors")).unlink()
    life.engine.hiding.show(os.fsencode(hidden_name(root / "one.safetensors")), None)
    life.touch(root / "other.safetensors", *_remove(root, kept))
    life.engine.tidy()
    write(kept, 7, layout=2)
    life.touch(kept)
    assert life.engine.holders.dirty_weights() == {key}
