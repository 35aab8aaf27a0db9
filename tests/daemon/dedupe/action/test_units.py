"""An adapter folder goes, comes back and is freed as a whole, or not at all (SPEC section 5)."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from lorad.dedupe.action import recipe
from lorad.dedupe.action.actor import Actor
from lorad.dedupe.action.hidden import find
from lorad.dedupe.action.journal import Journal
from lorad.dedupe.action.order import FreeOrder, Order, Refused, Result
from tests.builders.weights import random_weights
from tests.builders.write import write_safetensors
from tests.daemon.dedupe.world import SPECS, World, act, dies_at, files_in, look, read, side, steps_of

AWAY = ("delete", "quarantine")
WEIGHTS = {
    "peft": ["adapter_model.safetensors"],
    "shards": ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
}


class Library:
    """Two equal adapter folders `a` and `b`, each with a checkpoint, texts, an empty file and an empty folder."""

    def __init__(self, top: Path, kind: str = "peft") -> None:
        self.top = top
        self.weights = WEIGHTS[kind]
        root = top / "root"
        for number, folder in enumerate((root / "a", root / "a/checkpoint-5")):
            folder.mkdir(parents=True)
            for name in self.weights:
                write_safetensors(
                    str(folder / name), random_weights(SPECS, 7 * number + len(name) + hash(name) % 5)
                )
            if kind == "shards":
                (folder / "model.safetensors.index.json").write_text("{}")
            (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8}))
        (root / "a/README.md").write_text("# mine\n" * 99)
        (root / "a/\udcff\n.png").write_bytes(os.urandom(3000))
        (root / "a/empty.txt").touch()
        (root / "a/empty").mkdir()
        subprocess.run(["cp", "-a", root / "a", root / "b"], check=True)
        for number, path in enumerate(sorted((root / "b").rglob("*"))):
            os.chmod(path, 0o751 if path.is_dir() else 0o640)
            os.utime(path, ns=(10**18 + number, 10**18 + 7 * number))
            if os.geteuid() == 0:
                os.chown(path, 1234, 2345)
        os.chmod(root / "b", 0o2770)
        os.utime(root / "b", ns=(10**18, 10**18 + 5))
        self.world = World(os.fsencode(root), str(top / "state"))
        self.folder = os.path.join(self.world.root, b"b")
        self.kept = os.path.join(self.world.root, b"a", os.fsencode(self.weights[0]))
        self.gone = os.path.join(self.folder, os.fsencode(self.weights[0]))
        self.before = self.look()

    def order(self, action: str) -> Order:
        root = self.world.root
        return Order(
            action, "file", side(self.kept, root), side(self.gone, root), folder=self.folder, bytes=1 << 30
        )

    def apply(self, action: str) -> Result:
        with self.world.actor() as actor:
            return act(actor, self.order(action))

    def free_order(self, number: int) -> FreeOrder:
        return FreeOrder(number, (side(self.kept, self.world.root),))

    def free(self, number: int) -> Result:
        with self.world.actor() as actor:
            (result,) = actor.free([self.free_order(number)])
        return result

    def look(self) -> dict[bytes, object]:
        """All of every file but when it was read; mode, owner and mtime of every folder in the two."""
        there: dict[bytes, object] = {
            name: each._replace(times=(0, each.times[1])) for name, each in self.world.look().items()
        }
        for top in os.listdir(self.world.root):
            for base, _, _ in os.walk(os.path.join(self.world.root, top)):
                status = os.stat(base)
                there[os.path.relpath(base, self.world.root)] = (
                    stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns,
                )  # fmt: skip
        return there

    def without(self) -> dict[bytes, object]:
        return {name: each for name, each in self.before.items() if name.split(b"/")[0] != b"b"}

    def in_view(self) -> dict[bytes, object]:
        return {name: each for name, each in self.look().items() if not name.startswith(b".")}


@pytest.mark.parametrize("action", AWAY)
@pytest.mark.parametrize("kind", WEIGHTS)
def test_a_folder_goes_and_comes_back_as_a_whole(tmp_path: Path, action: str, kind: str) -> None:
    """By one rename each; freed, all of it is made anew: every name, byte, mode, owner and time."""
    library = Library(tmp_path, kind)
    for back in ("undo", "give back", "undo freed"):
        result = library.apply(action)
        assert library.in_view() == library.without()
        assert result.unit
        assert os.path.isdir(result.aside)
        if back == "undo freed":
            freed = library.free(result.id)
            assert freed.state == "freed", freed.text
            weights = [path for path in files_in(os.path.dirname(library.kept)) if path.endswith(b".safetensors")]
            assert freed.bytes >= sum(map(os.path.getsize, weights))
            assert library.look() == library.without()
            assert not library.world.leftovers()
        returned = library.world.give_back(result.id) if back == "give back" else library.world.undo(result.id)
        assert returned.state == ("given_back" if back == "give back" else "undone")
        assert returned.shown == library.folder
        assert library.look() == library.before
    assert not library.world.leftovers()


@pytest.mark.parametrize("action", AWAY)
def test_a_part_does_not_go_alone(tmp_path: Path, action: str) -> None:
    """Nor does a folder go by a link."""
    library = Library(tmp_path)
    part = msgspec.structs.replace(library.order(action), folder=b"")
    with library.world.actor() as actor:
        with pytest.raises(Refused, match="a part of an adapter folder"):
            act(actor, part)
        with pytest.raises(Refused, match="give the file, not its folder"):
            act(actor, msgspec.structs.replace(library.order(action), action="symlink"))
    assert library.look() == library.before


def _write(path: bytes) -> None:
    with open(path, "ab") as file:
        file.write(b"x")


CHANGES: dict[str, tuple[Callable[[Library], object], str]] = {
    "a text": (lambda library: _write(library.folder + b"/README.md"), "README.md has other bytes"),
    "weights below": (
        lambda library: _write(library.folder + b"/checkpoint-5/" + os.fsencode(library.weights[0])),
        "has other bytes",
    ),
    "a name more": (lambda library: _write(library.folder + b"/notes.txt"), "notes.txt is not in the kept folder"),
    "a name less": (lambda library: os.unlink(library.folder + b"/README.md"), "README.md is in the kept folder"),
    "a link": (lambda library: os.symlink("a", library.folder + b"/link"), "link is not in the kept folder"),
}


@pytest.mark.parametrize("action", AWAY)
@pytest.mark.parametrize("change", CHANGES)
def test_a_folder_that_differs_stays(tmp_path: Path, action: str, change: str) -> None:
    """Before it is hidden, and where it changes in that moment; the reason names what differs."""
    do, said = CHANGES[change]
    for step in ("compared", "put aside"):
        library = Library(tmp_path / step)
        order = library.order(action)

        def alter(name: str, step: str = step, library: Library = library) -> None:
            if name == step:
                folder = library.folder
                if step == "put aside":
                    (hidden,) = library.top.rglob(".b.aside-*")
                    library.folder = os.fsencode(hidden)
                do(library)
                library.folder = folder

        with library.world.actor(alter) as actor:
            (result,) = actor.apply([order])
        assert result.state == "refused"
        assert said in result.text
        assert os.path.isdir(library.folder)
        assert not [name for name in os.listdir(library.world.root) if b".aside-" in name]


@pytest.mark.parametrize(
    "name", ["README.md", "checkpoint-5/adapter_model.safetensors", "adapter_model.safetensors"]
)
def test_a_folder_of_which_a_file_is_open_for_writing_stays(tmp_path: Path, name: str) -> None:
    """Whatever file of it that is; it goes once that is closed."""
    library = Library(tmp_path)
    with (
        open(os.path.join(library.folder, os.fsencode(name)), "r+b"),
        pytest.raises(Refused, match="open for writing"),
    ):
        library.apply("delete")
    assert library.look() == library.before
    assert library.apply("delete").state == "hidden"


@pytest.mark.parametrize("action", AWAY)
def test_a_folder_whose_name_is_taken_comes_back_beside_it(tmp_path: Path, action: str) -> None:
    """Hidden or freed, nothing that came in its place is touched."""
    for freed in (False, True):
        library = Library(tmp_path / str(freed))
        number = library.apply(action).id
        if freed:
            assert library.free(number).state == "freed"
        os.mkdir(library.folder)
        _write(library.folder + b"/mine.txt")
        result = library.world.undo(number)
        assert result.shown == library.folder + b" (given back)"
        os.rename(library.folder, tmp_path / f"mine{freed}")
        os.rename(result.shown, library.folder)
        assert library.look() == library.before


def _edited(path: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(-9, os.SEEK_END)
        file.write(b"different")


KEPT_CHANGES: dict[str, tuple[Callable[[Library], object], str]] = {
    "other weights": (lambda library: _edited(library.kept), "has other bytes"),
    "other text": (
        lambda library: _write(os.path.dirname(library.kept) + b"/README.md"),
        "README.md has other bytes",
    ),
    "weights gone": (lambda library: os.unlink(library.kept), "is not there|is not in the kept folder"),
    "folder gone": (lambda library: shutil.rmtree(os.path.dirname(library.kept)), "its folder is gone"),
}


@pytest.mark.parametrize("action", AWAY)
@pytest.mark.parametrize("change", KEPT_CHANGES)
def test_a_kept_folder_that_is_another_one_frees_nothing(tmp_path: Path, action: str, change: str) -> None:
    """All of it stays hidden, with the reason."""
    library = Library(tmp_path)
    result = library.apply(action)
    order = library.free_order(result.id)
    do, said = KEPT_CHANGES[change]
    do(library)
    with library.world.actor() as actor:
        (freed,) = actor.free([order])
        assert freed.state in ("waiting", "quarantined")
        with pytest.raises(AssertionError, match=said):
            raise AssertionError(freed.text)
        actor.undo([result.id])
    assert {name: each for name, each in library.look().items() if name.startswith(b"b")} == {
        name: each for name, each in library.before.items() if name.startswith(b"b")
    }


def test_a_folder_of_more_than_a_journal_takes_stays_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not layers would have to be kept."""
    library = Library(tmp_path)
    number = library.apply("delete").id
    with monkeypatch.context() as patch:
        patch.setattr(recipe, "MOST", 2000)
        result = library.free(number)
    assert result.state == "waiting"
    assert "than the journal takes" in result.text
    assert library.free(number).state == "freed"


@pytest.mark.parametrize("action", AWAY)
@pytest.mark.parametrize("place", range(4))
def test_never_the_last_copy(tmp_path: Path, action: str, place: int) -> None:
    """Where the kept folder goes while weights are removed one by one, all of them are written anew."""
    library = Library(tmp_path, "shards")
    result = library.apply(action)
    removed = iter(range(9))

    def lose(step: str) -> None:
        if step == "removed" and next(removed) == place:
            os.rename(os.path.dirname(library.kept), os.path.dirname(library.kept) + b".gone")

    with library.world.actor(lose) as actor:
        (freed,) = actor.free([library.free_order(result.id)])
        assert freed.state in ("waiting", "quarantined")
        actor.undo([result.id])
    os.rename(os.path.dirname(library.kept) + b".gone", os.path.dirname(library.kept))
    after = library.look()
    folders = {b"b", b"b/checkpoint-5"}
    assert {name: each for name, each in after.items() if name not in folders} == {
        name: each for name, each in library.before.items() if name not in folders
    }
    assert not library.world.leftovers()


def test_what_came_to_lie_in_a_hidden_folder_is_not_removed(tmp_path: Path) -> None:
    """It is no part of what was proven; all else is freed, and comes back."""
    library = Library(tmp_path)
    result = library.apply("delete")
    newcomer = os.path.join(result.aside, b"mine.txt")
    with library.world.actor(lambda step: _write(newcomer) if step == "proven" else None) as actor:
        (freed,) = actor.free([library.free_order(result.id)])
        assert freed.state == "freed"
        assert files_in(result.aside) == [newcomer]
        actor.undo([result.id])
    assert read(newcomer) == b"x"
    os.rename(newcomer, tmp_path / "mine.txt")
    os.rmdir(result.aside)
    os.utime(library.world.root)
    assert library.look() == library.before


OPERATIONS = ("apply", "free", "undo hidden", "undo freed", "give back")


@pytest.mark.parametrize("action", AWAY)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_killed_at_each_step(tmp_path: Path, action: str, operation: str) -> None:
    """After repair all of the folder is hidden, freed or in its place, and undo brings it back."""

    def begun(name: str) -> tuple[Library, Callable[[Actor], object]]:
        library = Library(tmp_path / name, "shards")
        order = library.order(action)
        if operation == "apply":
            return library, lambda actor: actor.apply([order])
        number = library.apply(action).id
        frees = [library.free_order(number)]
        if operation == "free":
            return library, lambda actor: actor.free(frees)
        if operation == "undo freed":
            assert library.free(number).state == "freed"
        if operation == "give back":
            return library, lambda actor: actor.give_back([number])
        return library, lambda actor: actor.undo([number])

    library, do = begun("probe")

    def all_steps(at: Callable[[str], None]) -> None:
        with library.world.actor(at) as actor:
            do(actor)

    steps = steps_of(all_steps)
    for number, step in enumerate(steps):
        library, do = begun(str(number))
        dies_at(library.world, number, do)
        with library.world.actor() as actor:
            actor.repair()
            assert not actor.repair()
            states = {each.state for each in library.world.history()}
            assert states <= {"hidden", "quarantined", "freed", "undone", "given_back", "refused"}
            assert all(name in library.look() for name in library.without())
            actor.undo([1])
        assert library.look() == library.before, step
        assert not library.world.leftovers(), step
        shutil.rmtree(library.top)


@pytest.mark.parametrize("how", ["mv", "cp -r"])
def test_a_hidden_folder_is_found_where_it_is_now(tmp_path: Path, how: str) -> None:
    """Moved or copied with the folder around it, it is given back there, and can be freed there."""
    library = Library(tmp_path)
    world = library.world
    inner = World(os.path.join(world.root, b"inner"), world.state)
    os.mkdir(inner.root)
    for name in (b"a", b"b"):
        os.rename(os.path.join(world.root, name), os.path.join(inner.root, name))
    gone, kept = (
        inner.root + b"/b/" + os.path.basename(library.gone),
        inner.root + b"/a/" + os.path.basename(library.kept),
    )
    folder = os.path.dirname(gone)
    before = {os.path.relpath(path, folder): read(path) for path in files_in(folder)}
    order = Order("delete", "file", side(kept, world.root), side(gone, world.root), folder=folder)
    with world.actor() as actor:
        result = act(actor, order)
    to = os.path.join(world.root, b"elsewhere")
    if how == "mv":
        os.rename(inner.root, to)
    else:
        subprocess.run(["cp", "-r", inner.root, to], check=True)
        shutil.rmtree(inner.root)
    with closing(Journal(world.state, writing=False)) as journal:
        wanted = {entry.id: entry for entry in journal.in_state("hidden")}
        found, _ = find([world.root], journal.token, wanted)
    assert os.path.dirname(found[result.id]) == to
    there = msgspec.structs.replace(side(found[result.id], world.root), path=to + b"/b")
    for freed in (False, True):
        with world.actor() as actor:
            if freed:
                again = Order(
                    "delete", "file", side(to + b"/a/" + os.path.basename(kept), world.root),
                    side(to + b"/b/" + os.path.basename(gone), world.root), folder=to + b"/b",
                )  # fmt: skip
                number = act(actor, again).id
                (end,) = actor.free([FreeOrder(number, (again.kept,))])
                assert end.state == "freed", end.text
            else:
                number = result.id
                actor.note(number, "hidden", "", there)
            (back,) = actor.undo([number])
        assert (back.state, back.shown) == ("undone", to + b"/b")
        assert {os.path.relpath(path, back.shown): read(path) for path in files_in(back.shown)} == before
    assert look(to + b"/a/README.md")
