"""lorad in one process and thread beside an owner of files, who does as he likes.

The core, the service and what acts on files are the real ones. What waits for a thread waits here for `rest`, and
lorad can be killed at each step of an action.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

from loracore.config import Config, Dedupe, Watch
from loracore.control import Event, Refusal
from loracore.errors import LoraError, StateError
from lorad.catalog.views import connect
from lorad.dedupe.action.actor import Actor
from lorad.dedupe.action.entry import Entry
from lorad.dedupe.action.order import HELD, Progress, Result, silent, spoken
from lorad.dedupe.decisions import Decisions
from lorad.dedupe.plan import Plan
from lorad.dedupe.planner import Planner
from lorad.dedupe.process import Wish, _carry
from lorad.dedupe.service import Service
from lorad.index.records import File
from tests.builders.write import write_safetensors
from tests.daemon.inline import Life, weights

#: Turns in which all comes to rest, and steps of the engine in each.
_TURNS, _STEPS = 100, 200
#: CLOCK_REALTIME_COARSE, which file systems take their times from.
_FILE_TIMES = 5
SUFFIX = ".safetensors"
TRASH = ".Trash-0"


class Killed(BaseException):
    """lorad ends here, at once."""


class Death:
    """Kills lorad after so many steps of actions."""

    def __init__(self) -> None:
        self.left = 0
        self.step = ""

    def at(self, step: str) -> None:
        if self.left:
            self.left -= 1
            if not self.left:
                self.step = step
                raise Killed(step)


class Inside:
    """Stands for `ActionProcess`, without a process."""

    def __init__(self, state_dir: str, repaired: Callable[[list[Result]], None], *, death: Death) -> None:
        self._state_dir = state_dir
        self._repaired = repaired
        self._death = death
        self._actor: Actor | None = None
        self.token = ""

    def ask(self, wish: Wish, progress: Progress = silent) -> list[Result]:
        if self._actor is None:
            self.start()
        assert self._actor is not None
        try:
            return _carry(self._actor, wish, progress)
        except LoraError as error:
            self.dismiss()
            raise StateError(spoken(str(error))) from error

    def start(self) -> None:
        self.dismiss()
        self._actor = Actor(self._state_dir, at=self._death.at)
        self.token = self._actor.token
        self._repaired(self._actor.repair())

    def dismiss(self) -> None:
        actor, self._actor = self._actor, None
        if actor is not None:
            actor.close()

    kill = dismiss


class Waiting:
    """Stands for `Worker`: jobs are done when `run` is called."""

    def __init__(self, *_: object, **__: object) -> None:
        self._jobs: deque[Callable[[], None]] = deque()

    def start(self) -> None: ...

    def stop(self, patience: float) -> None:
        self._jobs.clear()

    def submit(self, job: Callable[[], None]) -> bool:
        self._jobs.append(job)
        return True

    def run(self) -> bool:
        """Do all that waits; whether anything did."""
        did = bool(self._jobs)
        while self._jobs:
            self._jobs.popleft()()
        return did


class _Life(Life):
    """`Life` that says what it found to de-duplication."""

    found_new: Callable[[bytes, int], None] = staticmethod(lambda path, generation: None)

    def settle(self) -> Life:
        """For so many turns at most: what an action is under way on is not read before that is over."""
        for _ in range(_STEPS):
            if not (self.engine.sweeps.active or self.engine.reading):
                break
            self.engine.step(0)
        self.engine.step(0)
        self.engine.commits.save()
        return self

    def _duplicate(self, file: File, others: Sequence[bytes]) -> None:
        self.found_new(file.names[0], self.catalog.generation)


class Lorad:
    """One daemon after the other on the same state folder."""

    def __init__(self, folder: Path, roots: Sequence[Path], action: str, grace: str) -> None:
        self.state = folder / "state"
        self.roots = list(roots)
        dedupe = Dedupe(action=action, grace=grace)  # type: ignore[arg-type]
        self.config = Config(watch=Watch(roots=tuple(map(str, roots))), dedupe=dedupe)
        self.planner = Planner(str(self.state))
        self.planner.use(self.config)
        self.death = Death()
        self.told: list[Event] = []
        #: Seconds that went by at once.
        self.later = 0.0
        self._known = False
        self.start()

    def start(self) -> None:
        self.life = _Life(self.state, self.roots, view=not self._known)
        worker = Waiting()
        self._worker = worker
        self.dedupe = Decisions(
            str(self.state), self.config, self.told.append, self._complain, lambda: None,
            make_service=partial(
                Service, acting=partial(Inside, death=self.death), worker=lambda *_, **__: worker
            ),
        )  # fmt: skip
        self.life.found_new = self.dedupe.duplicate  # type: ignore[method-assign]
        self._move_clock()
        self.dedupe.start(self._plan_for, self.planner.lock_by)
        self.dedupe.go_on(self.life.engine)

    def _move_clock(self) -> None:
        missed = self.dedupe.missed
        for each in (missed, missed._asked, missed.freeing, missed.freeing.asked):
            each._clock = lambda: time.monotonic() + self.later  # type: ignore[attr-defined]

    def _complain(self, text: str) -> None:
        raise AssertionError(text)

    def _plan_for(self, paths: Collection[bytes], done: Callable[[Plan | Refusal], None]) -> None:
        with closing(connect(str(self.state))) as db:
            plan = self.planner.plan_for(db, paths)
        done(plan)

    def end(self, *, killed: bool) -> None:
        if killed:
            self.life.kill()
            self.dedupe.candidates.close()
        else:
            self.dedupe.stop()
            self._worker.run()
            self.life.stop()
        service = self.dedupe.service
        service.dispatch.process.kill()
        service.dispatch.interrupted.stop()
        service.roots.close()

    def close(self) -> None:
        self.end(killed=True)
        self.planner.close()

    def rest(self) -> None:
        """Until nothing is to be done any more, also where it is killed meanwhile."""
        quiet = 0
        for _ in range(_TURNS):
            try:
                self.life.settle()
                self.dedupe.step(self.life.engine, self.life.catalog.generation, quiet=True)
                did = self._worker.run()
            except Killed:
                self.end(killed=True)
                self.start()
                did = True
            quiet = (
                0 if did or self.dedupe.service.dispatch._results or not self.life.engine.settled else quiet + 1
            )
            if quiet == 2:
                self._known = True
                return
        raise AssertionError("it never comes to rest")

    def time_passes(self, seconds: float) -> None:
        self.dedupe.service.dispatch.clock += seconds
        self.later += seconds

    # What a client asks for

    def apply(self, action: str, *, now: bool) -> list[object]:
        answers: list[object] = []
        policy = self.planner.policy(action, (), ())
        with closing(connect(str(self.state))) as db:
            plan = self.planner.plan(db, policy)
        self.dedupe.service.requests.apply(plan, answers.append, now=now)
        self.rest()
        return answers

    def free(self) -> list[object]:
        answers: list[object] = []
        self.dedupe.service.requests.free(None, answers.append)
        self.rest()
        return answers

    def undo(self, ids: Sequence[int] | None) -> list[object]:
        answers: list[object] = []
        self.dedupe.service.requests.undo(ids, answers.append)
        self.rest()
        return answers

    def entries(self, *states: str) -> list[Entry]:
        return self.dedupe.service.dispatch.history.in_state(*states)


class Copy(NamedTuple):
    """What a name holds as far as its owner knows; `freed`: lorad removed it for the sake of another file."""

    content: int
    freed: bool = False


class Disk:
    """The owner's files, and in `model` his names as if lorad had never been there."""

    def __init__(self, base: Path, folders: Sequence[str], made: Sequence[tuple[int, str]]) -> None:
        self.base = base
        for folder in folders:
            (base / folder).mkdir(parents=True, exist_ok=True)
        self.bytes: dict[tuple[int, str], bytes] = {}
        for number, form in made:
            part = base / "made"
            write_safetensors(str(part), weights(number), metadata={"note": form} if form else {})
            self.bytes[number, form] = part.read_bytes()
            part.unlink()
        self._numbers = {content: number for (number, _), content in self.bytes.items()}
        self.model: dict[str, Copy] = {}
        #: Names that something happened to.
        self.dirty: list[str] = []

    def path(self, name: str) -> Path:
        return self.base / name

    def tick(self) -> None:
        """What is done next has other times."""
        now = time.clock_gettime_ns(_FILE_TIMES)
        while time.clock_gettime_ns(_FILE_TIMES) == now:
            pass

    def content(self, path: Path) -> int | None:
        """What can be read at a path."""
        try:
            return self._numbers.get(path.read_bytes())
        except OSError:
            return None

    def in_view(self) -> list[str]:
        """Names of files and links that the owner sees, in the order of their names."""
        return sorted(self._walk(hidden=False))

    def hidden(self) -> list[str]:
        """Names of what was put aside, as he sees them who looks for such."""
        return sorted(name for name in self._walk(hidden=True) if ".aside-" in name)

    def _walk(self, *, hidden: bool) -> Iterator[str]:
        for folder, folders, names in os.walk(self.base):
            folders[:] = [
                name for name in folders
                if name != TRASH and (hidden or not name.startswith("."))
            ]  # fmt: skip
            for name in names:
                if hidden or not name.startswith("."):
                    yield os.path.relpath(os.path.join(folder, name), self.base)

    def readable(self) -> dict[int, list[str]]:
        found: dict[int, list[str]] = {}
        for name in self.in_view():
            content = self.content(self.path(name))
            if content is not None:
                found.setdefault(content, []).append(name)
        return found

    # What the owner does

    def put(self, name: str, content: tuple[int, str]) -> None:
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        part.write_bytes(self.bytes[content])
        part.rename(path)
        self.model[name] = Copy(content[0])
        self.dirty.append(name)

    def copy(self, source: str, name: str) -> None:
        content = self.content(self.path(source))
        assert content is not None
        self.path(name).parent.mkdir(parents=True, exist_ok=True)
        if os.path.islink(self.path(name)):
            self.path(name).unlink()
        shutil.copy2(self.path(source), self.path(name))
        self.model[name] = Copy(content)
        self.dirty.append(name)

    def move(self, source: str, name: str) -> None:
        self.path(name).parent.mkdir(parents=True, exist_ok=True)
        os.rename(self.path(source), self.path(name))
        copy = self.model.pop(source, None)
        self.model.pop(name, None)
        if copy is not None:
            self.model[name] = copy
        self.dirty += [source, name]

    def remove(self, name: str) -> None:
        self.path(name).unlink()
        self.model.pop(name, None)
        self.dirty.append(name)

    def inside(self, folder: str) -> list[str]:
        return [name for name in self.model if name.startswith(folder + "/")]

    def _inside_as_seen(self, folder: str, *, hidden: bool) -> dict[str, Copy]:
        """Names that a copy of the folder has: nothing of what lies in quarantine, or was freed.

        A copy of what is hidden counts (`hidden`) where the first one goes; else lorad knows the first one alone.
        """
        is_there = self._is_seen if hidden else lambda name: os.path.lexists(self.path(name))
        return {name: self.model[name] for name in self.inside(folder) if is_there(name)}

    def _is_seen(self, name: str) -> bool:
        folder, base = os.path.split(self.path(name))
        there = os.listdir(folder) if os.path.isdir(folder) else []
        return any(other == base or other.startswith(f".{base}.aside-") for other in there)

    def move_folder(self, source: str, target: str) -> None:
        self.path(target).parent.mkdir(parents=True, exist_ok=True)
        os.rename(self.path(source), self.path(target))
        for name in self.inside(source):
            self.model[target + name.removeprefix(source)] = self.model.pop(name)
        self.dirty += [source, target]

    def copy_folder(self, source: str, target: str, *, moved: bool) -> None:
        """As `cp -a` does it: with what is hidden."""
        self.path(target).parent.mkdir(parents=True, exist_ok=True)
        copied = self._inside_as_seen(source, hidden=moved)
        shutil.copytree(self.path(source), self.path(target), symlinks=True)
        for name, copy in copied.items():
            self.model[target + name.removeprefix(source)] = copy
        self.dirty.append(target)

    def remove_folder(self, folder: str) -> None:
        shutil.rmtree(self.path(folder))
        for name in self.inside(folder):
            del self.model[name]
        self.dirty.append(folder)

    def mirror(self, source: str, target: str) -> None:
        """As `rsync -a --delete` does it, with what is hidden."""
        copied = self._inside_as_seen(source, hidden=False)
        have = {path.name for path in self.path(source).iterdir()}
        for path in self.path(source).iterdir():
            other = self.path(target) / path.name
            if path.is_dir() and not path.is_symlink():
                continue
            if os.path.lexists(other):
                other.unlink()
            shutil.copy2(path, other, follow_symlinks=False)
        for path in list(self.path(target).iterdir()):
            if path.name not in have and not path.is_dir():
                path.unlink()
        for name in self.inside(target):
            del self.model[name]
        for name, copy in copied.items():
            self.model[target + name.removeprefix(source)] = copy
        self.dirty += [target, *(f"{target}/{path.name}" for path in self.path(target).iterdir())]

    def overwrite(self, name: str, content: tuple[int, str]) -> None:
        """In place, through a link if it is one; other names that lorad led to this file have nothing else."""
        status = self.path(name).stat()
        same = [other for other in self.in_view() if self._is_at(other, status)]
        self.path(name).write_bytes(self.bytes[content])
        for other in same:
            self.has_nothing(other)
        real = os.path.relpath(self.path(name).resolve(), self.base)
        self.model[real] = Copy(content[0])
        if real != name:
            # It is in what the link leads to, and goes with that.
            self.model[name] = Copy(content[0], freed=True)
        self.dirty += same

    def _is_at(self, name: str, status: os.stat_result) -> bool:
        try:
            other = self.path(name).stat()
        except OSError:
            return False
        return (other.st_dev, other.st_ino) == (status.st_dev, status.st_ino)

    def has_nothing(self, name: str) -> None:
        if name in self.model:
            self.model[name] = self.model[name]._replace(freed=True)

    # The promise

    def note_freed(self, entries: Sequence[Entry]) -> None:
        """These were freed: their names hold nothing of their own any more."""
        readable = self.readable()
        for entry in entries:
            name = os.path.relpath(os.fsdecode(entry.gone.path), self.base)
            copy = self.model.get(name)
            if copy is not None:
                assert copy.freed or copy.content in readable, f"{name} was freed, and nothing has what it held"
            if copy is not None and entry.action != "hardlink":
                self.model[name] = copy._replace(freed=True)
        for name, copy in self.model.items():
            path = self.path(name)
            if copy.freed and not path.is_symlink() and self.content(path) == copy.content:
                self.model[name] = copy._replace(freed=False)

    def adopt(self) -> None:
        """What was given back has another name than without lorad, where its folder was moved away meanwhile.

        And what was written through a link of ours stays with the other name when the link is undone.
        """
        for content, names in self.readable().items():
            for name in names:
                if self.path(name).is_symlink():
                    continue
                if name in self.model:
                    if self.model[name].content != content:
                        self.model[name] = Copy(content)
                    continue
                for old, copy in self.model.items():
                    if copy.content == content and not self._is_seen(old):
                        del self.model[old]
                        break
                self.model[name] = Copy(content)

    def lost(self, entries: Sequence[Entry]) -> dict[int, list[str]]:
        """Contents that can be read under no name in view, and should be, by their names; `entries`: put aside."""
        backed = {os.path.relpath(os.fsdecode(entry.gone.path), self.base) for entry in entries}
        readable = self.readable()
        wanted: dict[int, list[str]] = {}
        for name, copy in self.model.items():
            # A link that its owner moved or copied has nothing of its own.
            is_bare = self.path(name).is_symlink() and name not in backed
            if not copy.freed and not is_bare and TRASH not in name.split("/"):
                wanted.setdefault(copy.content, []).append(name)
        return {content: names for content, names in wanted.items() if content not in readable}

    def kept_back(self, asides: Sequence[Path]) -> dict[int, Path]:
        """Contents that can only be read where they were put aside."""
        readable = self.readable()
        found = {content: path for path in asides if (content := self.content(path)) is not None}
        return {content: path for content, path in found.items() if content not in readable}


def held(lorad: Lorad) -> list[Path]:
    """Where files that are put aside lie."""
    dispatch = lorad.dedupe.service.dispatch
    return [Path(os.fsdecode(dispatch.aside_of(entry))) for entry in dispatch.history.in_state(*HELD)]
