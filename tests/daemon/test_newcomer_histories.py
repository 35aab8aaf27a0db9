"""Any history of files, lives and hidden names: who is a newcomer agrees with what the owner could have seen.

The reference knows the true weights and every name and inode that had them. Where the engine cannot know (a file
that changed before it was looked at, weights that were never digested), it may say of a file that it is old, never
that an old one is new.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import loracore.identity
from lorad.library import Status
from tests.daemon.inline import Life, write

#: `make soak` raises it.
HISTORIES = 10 * int(os.environ.get("LORAD_HISTORIES", "6"))
#: CLOCK_REALTIME_COARSE, which file systems take their times from.
_FILE_TIMES = 5
names = st.sampled_from([f"{root}/{name}.safetensors" for root in ("r", "s") for name in "abc"])
#: Number and layout; the third is the only one of its layout.
contents = st.sampled_from([(1, 0), (2, 0), (3, 1)])
numbers = st.integers(0, 99)
Content = tuple[int, int]
#: A name, or the number of a file: one inode from when it was made until it is gone.
Key = str | int


class Version(NamedTuple):
    """What a name leads to since the owner did something to it."""

    number: int
    file: int
    content: Content
    #: How many moments of rest there were before, and how often the policy or the catalogue had changed.
    born: int
    era: int


class Newcomers(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.place = tempfile.TemporaryDirectory()
        self.patch = patch.object(loracore.identity, "TICK_NS", 0)
        self.patch.start()
        self.folder = Path(self.place.name)
        for root in "rs":
            (self.folder / root).mkdir()
        self.acts, self.acted = True, False
        self.count = self.rest = self.era = 0
        self.now: dict[str, Version] = {}
        self.hidden: dict[str, Version] = {}
        self.first_name: dict[str, str] = {}
        #: When it was first known at rest that a name or an inode had these weights, and versions that had.
        self.had: dict[tuple[Key, Content], int] = {}
        self.maybe: dict[tuple[Key, Content], set[int]] = defaultdict(set)
        #: Names and inodes that led to something whose weights may never have been known.
        self.unknown: dict[tuple[Key, int], set[int]] = defaultdict(set)
        #: Whether a version was met as new; None where that is not certain.
        self.new: dict[int, bool | None] = {}
        #: Versions that were given back, and names and inodes of those that were lost before all was at rest.
        self.returned: set[int] = set()
        self.unread: set[Key] = set()
        self.dirty: list[str] = []
        #: The present file of each inode's number, which is given again, and what each file holds.
        self.files: dict[int, int] = {}
        self.contents: dict[int, Content] = {}
        for name, content in (("r/a", (1, 0)), ("r/b", (1, 0)), ("s/a", (2, 0))):
            self.put(f"{name}.safetensors", content)
        self.new = {version.number: False for version in self.now.values()}
        self.start()
        self.quiesce()

    def teardown(self) -> None:
        if not hasattr(self, "life"):
            return
        try:
            self.quiesce()
        finally:
            self.patch.stop()
            self.life.kill()
            self.place.cleanup()

    # The disk

    def path(self, name: str) -> Path:
        return self.folder / name

    def see(self, name: str) -> None:
        """A name is not what it was."""
        now = time.clock_gettime_ns(_FILE_TIMES)
        while time.clock_gettime_ns(_FILE_TIMES) == now:
            pass  # What is done next has other times.
        self.dirty.append(name)
        path, before = self.path(name), self.now.get(name)
        if before is not None and before.number not in self.new and before.number in self.returned:
            # It may not have been read since it was given back, so it may have been anything.
            self.unread |= {name, before.file}
        if not path.exists():
            self.now.pop(name, None)
            return
        self.count += 1
        file = self.files[path.stat().st_ino]
        version = Version(self.count, file, self.contents[file], self.rest, self.era)
        self.now[name] = version
        for key in (name, file):
            self.maybe[key, version.content].add(version.number)
            self.unknown[key, version.content[1]].add(version.number)

    def put(self, name: str, content: Content) -> None:
        self.keep(write(self.path(name), *content), content)
        self.see(name)

    def keep(self, path: Path, content: Content) -> None:
        self.files[path.stat().st_ino] = len(self.contents)
        self.contents[len(self.contents)] = content

    def some(self, number: int) -> str | None:
        return sorted(self.now)[number % len(self.now)] if self.now else None

    @rule(name=names, content=contents)
    def download(self, name: str, content: Content) -> None:
        self.put(name, content)

    @rule(number=numbers, name=names)
    def copy(self, number: int, name: str) -> None:
        source = self.some(number)
        if source in (name, None):
            return
        part = shutil.copyfile(self.path(source), self.path(f"{name}.part"))
        self.keep(part, self.now[source].content)
        os.rename(part, self.path(name))
        self.see(name)

    @rule(number=numbers, content=contents)
    def overwrite(self, number: int, content: Content) -> None:
        """In place: the same inode."""
        if (name := self.some(number)) is None:
            return
        file = self.now[name].file
        part = write(self.path("part"), *content)
        self.path(name).write_bytes(part.read_bytes())
        part.unlink()
        self.contents[file] = content
        for other in [other for other, version in self.now.items() if version.file == file]:
            self.see(other)
        for aside, version in self.hidden.items():
            self.hidden[aside] = version._replace(content=self.contents[version.file])

    @rule(number=numbers, name=names)
    def move(self, number: int, name: str) -> None:
        """Also over another file, and from one root to the other."""
        source = self.some(number)
        if source is None or (self.path(name).exists() and self.path(name).samefile(self.path(source))):
            return
        os.rename(self.path(source), self.path(name))
        self.see(source)
        self.see(name)

    @rule(number=numbers, name=names)
    def link(self, number: int, name: str) -> None:
        source = self.some(number)
        if source is not None and not self.path(name).exists():
            os.link(self.path(source), self.path(name))
            self.see(name)

    @rule(number=numbers, how=st.sampled_from(["utime", "chmod"]))
    def touch(self, number: int, how: str) -> None:
        if (name := self.some(number)) is None:
            return
        if how == "utime":
            os.utime(self.path(name))
        else:
            self.path(name).chmod(0o600 if self.path(name).stat().st_mode & 0o044 else 0o644)
        self.see(name)

    @rule(number=numbers)
    def remove(self, number: int) -> None:
        if (name := self.some(number)) is not None:
            self.path(name).unlink()
            self.see(name)

    # What is hidden, freed and given back

    @rule(number=numbers, killed=st.booleans(), late=st.booleans())
    def hide(self, number: int, killed: bool, late: bool) -> None:
        """Only what the engine knows as it is; it is told of it, or by the journal after a kill."""
        if (name := self.some(number)) is None:
            return
        file = self.life.engine.files.by_path.get(os.fsencode(self.path(name)))
        status = self.path(name).stat()
        seen = (status.st_ino, status.st_ctime_ns)
        if file is None or not file.weights or (file.identity.ino, file.identity.ctime_ns) != seen:
            return
        self.count += 1
        aside = f"{name[:2]}.{name[2:]}.aside-01234567-{self.count}"
        version = self.now[name]
        self.life.engine.looks.put_off = lambda path: path == os.fsencode(self.path(name))
        os.rename(self.path(name), self.path(aside))
        self.hidden[aside], self.first_name[aside] = version, name
        self.know(name, version)
        self.rest += 1
        if killed:
            self.see(name)
            self.restart(killed=True, late=late)
            return
        self.life.engine.hiding.hide(os.fsencode(self.path(name)), os.fsencode(self.path(aside)))
        self.life.engine.looks.put_off = lambda path: False
        self.see(name)

    @rule(number=numbers, name=st.none() | names)
    def give_back(self, number: int, name: str | None) -> None:
        if not self.hidden:
            return
        aside = sorted(self.hidden)[number % len(self.hidden)]
        name = name or self.first_name[aside]
        if self.path(name).exists():
            return
        del self.hidden[aside]
        found = len(self.life.found)
        os.rename(self.path(aside), self.path(name))
        self.life.engine.hiding.show(os.fsencode(self.path(aside)), os.fsencode(self.path(name)))
        assert len(self.life.found) == found, "it is no news"
        self.see(name)
        self.returned.add(self.count)

    @rule(number=numbers)
    def free(self, number: int) -> None:
        if not self.hidden:
            return
        aside = sorted(self.hidden)[number % len(self.hidden)]
        version = self.hidden.pop(aside)
        self.path(aside).unlink()
        self.life.engine.hiding.show(os.fsencode(self.path(aside)), None)
        if self.path(self.first_name[aside]).exists() or version.file in {one.file for one in self.now.values()}:
            return
        self.had.pop((version.file, version.content), None)

    # lorad

    def start(self, *, late: bool = False) -> None:
        roots = [self.folder / root for root in "rs"]
        self.life = Life(self.folder / "state", roots, acts=self.acts, view=not self.acted)
        if late or not self.acted:
            self.life.settle()
        # What is met by a first look is old; what changed before that may be met by it or not.
        self.era += not self.acted
        for aside in self.hidden:
            name = self.first_name[aside]
            self.life.engine.hiding.hide(os.fsencode(self.path(name)), os.fsencode(self.path(aside)))
        self.life.engine.hiding.only({os.fsencode(self.path(aside)) for aside in self.hidden})

    @rule(killed=st.booleans(), late=st.booleans())
    def restart(self, killed: bool, late: bool) -> None:
        """`late`: a sweep is faster than what the journal says is hidden."""
        self.life.kill() if killed else self.life.stop()
        self.start(late=late)

    @rule()
    def throw_the_catalogue_away(self) -> None:
        self.life.kill()
        shutil.rmtree(self.folder / "state")
        self.acted = False
        self.era += 1
        self.had.clear()
        for version in self.now.values():
            self.new[version.number] = False
        self.start()

    @rule(acts=st.booleans())
    def set_policy(self, acts: bool) -> None:
        self.era += self.acts != acts
        self.acts = acts
        self.acted &= acts
        self.life.engine.arrivals.act(acts)
        if not acts:
            self.new = dict.fromkeys(self.new, False)

    @rule(holds=st.booleans())
    def let_read(self, holds: bool) -> None:
        self.life.pipeline.holds = holds

    @rule(count=st.integers(1, 4), back=st.booleans())
    def tell(self, count: int, back: bool) -> None:
        """Some names that something happened to, in either order."""
        told, self.dirty = self.dirty[:count], self.dirty[count:]
        self.life.touch(*(self.path(name) for name in (reversed(told) if back else told)))

    @rule(root=st.sampled_from("rs"))
    def sweep(self, root: str) -> None:
        self.life.engine.sweeps.add(os.fsencode(self.folder / root))
        self.life.settle()

    @rule()
    def quiesce(self) -> None:
        """All is looked at and read; what is said then is compared with the reference."""
        self.life.pipeline.holds = False
        self.tell(len(self.dirty) or 1, False)
        self.life.sweep()
        self.acted = self.acts
        for version in self.now.values():
            # What was not seen in the meantime was met now.
            self.new.setdefault(version.number, self.acts if version.era == self.era else None)
        self.compare()
        for name, version in self.now.items():
            self.know(name, version)
        self.rest += 1

    # The reference

    def know(self, name: str, version: Version) -> None:
        """It is known at rest what a name and its file hold."""
        for key in (name, version.file):
            self.had.setdefault((key, version.content), self.rest)

    def was_known(self, name: str, version: Version) -> bool:
        keys = (name, version.file)
        return any(self.had.get((key, version.content), self.rest) < version.born for key in keys)

    def compare(self) -> None:
        holders: dict[Content, set[int]] = defaultdict(set)
        for version in self.now.values():
            holders[version.content].add(version.file)
        for name, version in self.now.items():
            duplicate = len(holders[version.content]) > 1
            status = self.life.status(self.path(name))
            assert status is (Status.DUPLICATE if duplicate else Status.UNIQUE), (name, version)
            keys = [(key, version.content) for key in (name, version.file)]
            is_new = self.life.is_newcomer(self.path(name))
            if is_new:
                assert duplicate, name
                assert self.new[version.number] is not False, (name, "it was there before")
                assert not self.was_known(name, version), (name, "it had them")
            elif duplicate and self.new[version.number]:
                own = {version.number}
                unknown = [(key, version.content[1]) for key in (name, version.file)]
                certain = all(self.maybe[key] == own for key in keys)
                certain &= all(self.unknown[key] == own for key in unknown)
                certain &= self.unread.isdisjoint((name, version.file))
                assert not certain, (name, "it is new")
        self.compare_books()

    def compare_books(self) -> None:
        files = self.life.engine.files
        assert set(files.by_path) == {os.fsencode(self.path(name)) for name in self.now}
        assert set(files.hidden) == {os.fsencode(self.path(aside)) for aside in self.hidden}
        assert sum(files.tally.counts.values()) == len(self.now)
        assert files.tally.counts == Counter(file.status for file in files.by_path.values())
        inodes = {version.file: self.path(name).stat().st_size for name, version in self.now.items()}
        assert files.tally.bytes_total == sum(inodes.values())
        assert not any(files.tally.untold.values())
        assert not files.twins.unread
        active = {path: active for path, _, active, _ in self.life.catalog.names.rows()}
        assert active == {**dict.fromkeys(files.by_path, 1), **dict.fromkeys(files.hidden, 2)}
        for aside, version in self.hidden.items():
            file = files.hidden[os.fsencode(self.path(aside))]
            if file.weights is None or file.layout is None:
                continue
            key = self.life.catalog.layouts.signature(file.layout), file.weights
            same = {
                os.fsencode(self.path(name)) for name, one in self.now.items() if one.content == version.content
            }
            keepers = {keeper.path for keeper in self.life.engine.holders.keepers(*key)}
            assert keepers == same
            assert self.life.engine.holders.unresolved(*key, []) == ""

    @invariant()
    def nothing_is_told_twice(self) -> None:
        if hasattr(self, "life"):
            assert not set(self.life.engine.hiding.hidden()) & set(self.life.engine.files.by_path)


Newcomers.TestCase.settings = settings(
    max_examples=HISTORIES, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
TestNewcomers = Newcomers.TestCase
TestNewcomers.pytestmark = [pytest.mark.timeout(100 + HISTORIES)]
