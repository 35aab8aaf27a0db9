"""Views that follow the catalogue change by change say what views made anew say."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loracore.policy import KEEP_RULES
from lorad.blocks.usage import Extent, packed
from lorad.catalog import Catalog, Row
from lorad.catalog.views import TERMS, Terms
from lorad.library.keepers import Rule, Rules
from lorad.pipeline.protocol import Publish
from lorad.publish import pages
from lorad.publish.publisher import Publisher
from lorad.watch.storage import Part, Storage
from tests.daemon.publish.plain import parsed, plainly, rendered_anew, snapshot_of, written

PATHS = (
    b"/a/1.safetensors", b"/a/2.safetensors", b"/a/3.safetensors", b"/a/\xff\xfe.pt", b'/a/"quoted"\\\n.pt',
    "/b/модель.safetensors".encode(), "/b/\U0001f600.ckpt".encode(), b"/b", b"/b/long name of a file.bin",
    b"/c/1", b"/c/2", b"/c/3", b"/c/4", b"/c/5",
)  # fmt: skip
FILES = range(1, 8)
LAYOUTS = 3
paths = st.sampled_from(PATHS)
files = st.sampled_from(FILES)
facts = st.fixed_dictionaries(
    {
        "size": st.sampled_from([10, 20]),
        "mtime_ns": st.integers(1, 3),
        "status": st.sampled_from(["duplicate", "duplicate", "unique", "grouped", "pending", "failed", "ignored"]),
        "layout": st.sampled_from([1, 1, 2, 3, None]),
        "signature": st.sampled_from([b"\x01" * 32, b"\x01" * 32, b"\x02" * 32, None]),
        "residue": st.sampled_from([b"\x03" * 32, b"\x04" * 32, None]),
        "error": st.sampled_from([None, "no „header”\n"]),
        "metadata": st.sampled_from([None, 0, 200, 400]),
        "function": st.sampled_from([None, None, b"f" * 32]),
        "extents": st.sampled_from(
            [None, None, *(packed(1, 20, [Extent(0, length, 1000)]) for length in (8, 20)), packed(1, 20, [], -1)]
        ),
    }
)
rules = st.lists(st.sampled_from([*map(Rule, KEEP_RULES), Rule("path-prefix", b"/b")]), max_size=3).map(tuple)
terms = st.builds(
    Terms,
    rules=st.builds(Rules, keep=rules, scope=st.sampled_from([(), (b"/a",)])),
    storage=st.sampled_from([Storage(), Storage((Part(b"/a", read_only=True), Part(b"/c", volatile=True)))]),
)
change = st.one_of(
    st.tuples(st.just("file"), files, facts),
    st.tuples(st.just("name"), paths, files, st.sampled_from([None, None, b"c" * 32])),
    st.tuples(st.just("terms"), terms),
    st.tuples(st.just("drop name"), paths),
    st.tuples(st.just("drop file"), files),
    st.tuples(st.just("show"), paths, st.integers(0, 1)),
    st.tuples(st.just("complete"), st.integers(0, 1)),
    st.tuples(st.just("read"), st.integers(0, 10**9)),
)
#: Changes of one generation, names that are told though they did not change, and whether it is published late.
step = st.tuples(st.lists(change, max_size=8), st.lists(paths, max_size=3), st.booleans())


class History:
    """A catalogue that changes, and knows which names' rows did."""

    def __init__(self, state: Path) -> None:
        self.catalog = Catalog(str(state))
        for number in range(LAYOUTS):
            self.catalog.layouts.number(bytes([number]) * 32, b"")
        self.names: dict[bytes, int] = {}

    def commit(self, changes: Sequence[tuple]) -> set[bytes]:
        touched = {path for change in changes for path in self._apply(*change)}
        self.catalog.commit(new_generation=True)
        return touched

    def _names_of(self, file: int) -> list[bytes]:
        return [path for path, other in self.names.items() if other == file]

    def _apply(self, kind: str, *about) -> list[bytes]:
        match kind:
            case "file":
                number, has = about
                row = Row(
                    number, 1, number, has["size"], has["mtime_ns"], 0, 0, has["status"], has["layout"], None, 0,
                    "safetensors", has["residue"], has["signature"], number / 7, has["error"], 0, 0,
                    has["extents"], has["function"], None, None, 0, has["metadata"],
                )  # fmt: skip
                self.catalog.files.save([row])
                return self._names_of(number)
            case "name":
                path, file, config = about
                self.names[path] = file
                self.catalog.names.save([(path, file, 1, config)])
                return [path]
            case "drop name":
                self.names.pop(about[0], None)
                self.catalog.names.drop(about)
                return [*about]
            case "drop file":
                self.catalog.drop_files(about)
                return self._names_of(about[0])
            case "show":
                self.catalog.names.set_active(about[1], [about[0]])
                return [about[0]]
            case "terms":
                self.catalog.keep(TERMS, about[0].encode())
            case "complete":
                self.catalog.keep("complete", about[0])
            case "read":
                stage = {"files": 1, "bytes": about[0], "seconds": 0.0}
                self.catalog.keep("statistics", msgspec.json.encode({"samples": stage}))
        return []


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(step, min_size=1, max_size=8), st.sampled_from([1, 2, 256]), st.sampled_from([0.125, 10.0]))
def test_following_equals_rendering_anew(steps: list, page: int, burst: float) -> None:
    """SPEC 3: whatever changed, the files are those of one generation, byte for byte but for the time."""
    with tempfile.TemporaryDirectory() as folder, patch.multiple(pages, _PAGE=page, _BURST=burst):
        state = Path(folder)
        history = History(state)
        publisher = Publisher(folder)
        told: set[bytes] = set()
        everything = [("name", path, 1 + number % 5, None) for number, path in enumerate(PATHS[:10])]
        history.commit(everything)
        assert publisher.publish(Publish(1, None)) == 1
        for changes, others, late in steps:
            asked = history.catalog.generation
            before = written(state)
            told |= history.commit(changes) | set(others)
            if late:
                # The catalogue went on after this was asked: nothing is written, and it is asked again.
                assert publisher.publish(Publish(asked, sorted(others))) == asked
                assert written(state) == before
            assert publisher.publish(Publish(asked + 1, sorted(told))) == asked + 1
            told.clear()
            files = written(state)
            assert files == rendered_anew(state)
            assert parsed(files, asked + 1) == plainly(snapshot_of(state))
        history.catalog.close()


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.lists(change, max_size=8), min_size=2, max_size=4), paths)
def test_a_name_read_early_does_no_harm(generations: list, path: bytes) -> None:
    """A name whose change was rendered already may be told again, with the next request."""
    with tempfile.TemporaryDirectory() as folder:
        history = History(Path(folder))
        publisher = Publisher(folder)
        told: set[bytes] = {path}
        for changes in generations:
            told |= history.commit(changes)
            generation = history.catalog.generation
            assert publisher.publish(Publish(generation, sorted(told))) == generation
            assert written(Path(folder)) == rendered_anew(Path(folder))
        history.catalog.close()
