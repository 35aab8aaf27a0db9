"""SPEC section 5: one function decides which file of a set is kept, for JSON, plans and actions alike."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loracore import config
from loracore.control import Duplicates, ListDuplicates
from loracore.policy import KEEP_RULES
from lorad.catalog import Catalog, Row
from lorad.catalog.views import TERMS, Terms
from lorad.control.queries import Queries
from lorad.dedupe import planner
from lorad.dedupe.plan import Plan
from lorad.dedupe.policy import Policy
from lorad.pipeline.protocol import Publish
from lorad.publish.publisher import Publisher
from lorad.watch.storage import Part, Storage

FOLDERS = ("/m", "/m/checkpoint-5", "/frozen", "/shm")
NAMES = st.builds(
    lambda folder, stem: f"{folder}/{stem}.pt".encode(),
    st.sampled_from(FOLDERS),
    st.sampled_from(["a", "b", "style", "a-000004", "b (1)", "style copy"]),
)
KEEP = st.lists(
    st.sampled_from([*KEEP_RULES, *(f"path-prefix:{folder}" for folder in FOLDERS)]), max_size=4, unique=True
)
STORAGE = st.sampled_from(
    [
        Storage(),
        Storage((Part(b"/frozen", read_only=True), Part(b"/shm", volatile=True))),
        Storage((), ((2, b"/m"),)),
    ]
)
FACTS = st.fixed_dictionaries(
    {
        "weights": st.integers(0, 2),
        "dev": st.sampled_from([1, 1, 2]),
        "mtime_ns": st.integers(0, 2),
        "metadata": st.sampled_from([0, 200, 400]),
        "content": st.sampled_from([b"1", b"1", b"2"]),
        "function": st.sampled_from([None, None, b"f"]),
        "names": st.lists(st.tuples(NAMES, st.sampled_from([None, None, b"c"])), min_size=1, max_size=3),
    }
)


def fill(state: str, files: list[dict], terms: Terms) -> None:
    """A catalogue of these files, all of which are told apart; a name leads to the last one that has it."""
    catalog = Catalog(state)
    layout = catalog.layouts.number(b"l" * 32, b"")
    taken: set[bytes] = set()
    rows, names = [], []
    for number, has in enumerate(reversed(files), 1):
        own = {path: config for path, config in has["names"] if path not in taken}
        taken |= own.keys()
        names += [(path, number, 1, config) for path, config in own.items()]
        rows.append((number, has, bool(own)))
    alike = [has["weights"] for _, has, named in rows if named]
    for number, has, _ in rows:
        status = "duplicate" if alike.count(has["weights"]) > 1 else "unique"
        row = Row(
            number, has["dev"], number, 100, has["mtime_ns"], 0, 1, status, layout, None, 8, "safetensors",
            has["content"] * 32, bytes([has["weights"]]) * 32, 0.0, None, 0, 0,
        )  # fmt: skip
        catalog.files.save([row._replace(function=has["function"], metadata=has["metadata"])])
    catalog.names.save(names)
    catalog.keep(TERMS, terms.encode())
    catalog.commit(new_generation=True)
    catalog.close()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(files=st.lists(FACTS, min_size=2, max_size=7), keep=KEEP, storage=STORAGE, scoped=st.booleans())
def test_all_who_name_a_kept_file_name_the_same(
    monkeypatch: pytest.MonkeyPatch, files: list[dict], keep: list[str], storage: Storage, scoped: bool
) -> None:
    """`duplicates.json`, `loractl duplicates` and the plans of all actions, over random libraries and rules."""
    dedupe = config.Dedupe(keep=tuple(keep), scope=("/m",) if scoped else ())
    policy = Policy.of(dedupe, os.fsencode)
    monkeypatch.setattr(planner, "storage", SimpleNamespace(look=lambda devices: storage))
    with tempfile.TemporaryDirectory() as state:
        fill(state, files, Terms(policy.rules, storage))
        Publisher(state).publish(Publish(1, None))
        written = json.loads((Path(state) / "duplicates.json").read_bytes())
        queries = Queries(state)
        queries.planner.use(config.Config(dedupe=dedupe))
        answer = queries.answer(ListDuplicates())
        assert isinstance(answer, msgspec.Raw), answer
        listed = msgspec.msgpack.decode(answer, type=Duplicates)
        assert {os.fsdecode(one.kept) for one in listed.sets} == written["duplicates"].keys()
        assert sum(one.wasted_bytes for one in listed.sets) == written["wasted_bytes"]
        assert {os.fsdecode(path) for one in listed.sets for path in one.differing} == set(written["functions"])
        kept_for = {
            os.fsencode(path): os.fsencode(kept) for kept, own in written["duplicates"].items() for path in own
        }
        kept_for |= {os.fsencode(kept): os.fsencode(kept) for kept in written["duplicates"]}
        for action in ("report", "reflink", "hardlink", "symlink", "quarantine", "delete"):
            made = queries.plan(action)
            assert isinstance(made, Plan), made
            for step in made.steps:
                # The kept file of a part of a set stands for the same as that part does.
                assert step.path not in written["duplicates"]
                assert kept_for[step.path] == kept_for[step.kept]
            own = {row.path: row.kept for row in made.skipped}
            for row in (*made.steps, *made.skipped):
                assert kept_for[row.path] in (row.kept, own.get(row.kept))
        queries.close()
