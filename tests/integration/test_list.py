"""`loractl list` against a real daemon: facts on arrival, for files already known, and after what changes them."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from loracore.control import Files, ListFiles
from loracore.errors import RefusedError
from loracore.paths import CATALOGUE
from tests.builders import trainers
from tests.builders.architectures import flux, llm, sd15, sdxl
from tests.builders.weights import random_weights
from tests.builders.write import write_peft_folder, write_safetensors
from tests.integration.running import Running


@pytest.fixture
def library(tmp_path: Path) -> Path:
    root = tmp_path / "library"
    (root / "old").mkdir(parents=True)
    write_safetensors(
        str(root / "Cat Style.safetensors"), random_weights(sdxl(8, width=16, every=10), 1, alpha=4),
        metadata={"ss_output_name": "cat_style", "modelspec.trigger_phrase": "ohwx cat", "ss_epoch": "3"},
    )  # fmt: skip
    write_safetensors(str(root / "old/dog.safetensors"), random_weights(sd15(4, width=8), 2, alpha=2))
    shutil.copy(root / "old/dog.safetensors", root / "dog copy.safetensors")
    write_safetensors(str(root / "night.safetensors"), random_weights(flux(16, width=8), 3))
    write_peft_folder(str(root / "chat"), random_weights(llm(4), 4), rank=4, targets=["q_proj"], lora_alpha=8)
    (root / "broken.safetensors").write_bytes(b"no model")
    return root


@pytest.fixture
def running(tmp_path: Path, library: Path) -> Iterator[Running]:
    with Running(tmp_path, [library]) as daemon:
        daemon.settle()
        yield daemon


def loractl(running: Running, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loractl.cli", *arguments]
    environment = {**os.environ, "LORAD_SOCKET": str(running.runtime / "control.sock")}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=cwd)


def listed(running: Running, *expression: str, **where: Path) -> list[dict[str, Any]]:
    done = loractl(running, "list", *expression, "--json", **where)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["total"] == len(answer["files"])
    files: list[dict[str, Any]] = answer["files"]
    return files


def names(running: Running, *expression: str, **where: Path) -> list[str]:
    return [os.path.basename(file["path"]) for file in listed(running, *expression, **where)]


def test_files_are_listed_by_what_they_are(running: Running, library: Path) -> None:
    assert len(listed(running)) == 6
    assert names(running, "family=sdxl", "rank>=8") == ["Cat Style.safetensors"]
    assert names(running, "trigger~OHWX") == ["Cat Style.safetensors"]
    assert names(running, "cat", "!dog") == ["Cat Style.safetensors"]
    assert names(running, "state=duplicate") == ["dog copy.safetensors", "dog.safetensors"]
    assert names(running, "dir=old", cwd=library) == ["dog.safetensors"]
    assert names(running, "name~dog copy") == ["dog copy.safetensors"]
    (chat,) = listed(running, "base=meta-llama/*")
    assert (chat["alpha"], chat["convention"], chat["rank"]) == (8.0, "peft", 4)
    assert names(running, "chat") == ["adapter_model.safetensors"]
    (broken,) = listed(running, "state=failed")
    assert (broken["family"], broken["modules"], broken["sound"]) == (None, None, None)
    assert names(running, "--sort", "-rank")[:2] == ["night.safetensors", "Cat Style.safetensors"]
    with running.client() as client:
        assert client.show(library / "night.safetensors").facts is not None
        assert [os.path.basename(file.path) for file in client.list("epoch=3")] == [b"Cat Style.safetensors"]


def test_pages_and_facets_of_the_protocol(running: Running) -> None:
    with running.client() as client:
        pages = list(client.pages(ListFiles(sort="-size", most=2, facets=["family", "state"]), Files))
        assert [len(page.files) for page in pages] == [2, 2, 2]
        sizes = [file.size for page in pages for file in page.files]
        assert sizes == sorted(sizes, reverse=True)
        assert {page.total for page in pages} == {6}
        assert dict(pages[0].facets["state"]) == {"duplicate": 2, "unique": 3, "failed": 1}
        assert dict(pages[0].facets["family"])["sd15"] == 2
        for wrong in (
            ListFiles("rnak>3"),
            ListFiles(sort="tag"),
            ListFiles(facets=["title"]),
            ListFiles(cursor="x"),
        ):
            with pytest.raises(RefusedError) as error:
                next(client.pages(wrong, Files))
            assert error.value.code == "malformed"


def test_a_wrong_expression_prints_nothing_but_why(running: Running) -> None:
    for wrong in ("rnak>=3", "rank~x", "title~'a"):
        done = loractl(running, "list", wrong)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("loractl: at ")
        assert done.stderr.count("\n") == 1


def test_what_is_exported(running: Running, tmp_path: Path) -> None:
    for name in ("a.csv", "a.json", "a.md", "a.txt", "a.parquet"):
        done = loractl(running, "list", "--columns", "name,rank,size", "-o", str(tmp_path / name))
        assert done.returncode == 0, done.stderr
    with (tmp_path / "a.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == 6
    assert {row["name"]: row["rank"] for row in table}["night.safetensors"] == "16"
    assert len(json.loads((tmp_path / "a.json").read_text())["files"]) == 6
    done = loractl(running, "list", "-o", str(tmp_path / "a.csv"))
    assert done.returncode == 2
    assert "it exists already; --force replaces it" in done.stderr
    assert loractl(running, "list", "-o", str(tmp_path / "a.csv"), "--force").returncode == 0


def test_lists_follow_what_happens_to_files(running: Running, library: Path) -> None:
    (library / "night.safetensors").rename(library / "old/dusk.safetensors")
    (library / "dog copy.safetensors").unlink()
    running.settle()
    assert names(running, "family=flux") == ["dusk.safetensors"]
    assert names(running, "dusk") == ["dusk.safetensors"]
    assert names(running, "night") == []
    assert names(running, "state=duplicate") == []
    config = library / "chat/adapter_config.json"
    said = json.loads(config.read_text())
    config.write_text(json.dumps({**said, "base_model_name_or_path": "org/Other-7B"}))
    running.settle()
    assert [file["base"] for file in listed(running, "dir=chat", cwd=library)] == ["org/Other-7B"]


def test_what_changed_while_it_was_stopped_is_listed_anew(running: Running, library: Path) -> None:
    running.stop()
    config = library / "chat/adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": "org/Third-7B"}))
    running.start()
    running.settle()
    assert [file["base"] for file in listed(running, "dir=chat", cwd=library)] == ["org/Third-7B"]


def test_files_that_came_before_facts_get_them(running: Running) -> None:
    """As after an update: once, by their headers alone."""
    before = listed(running)
    running.stop()
    with closing(sqlite3.connect(running.state / CATALOGUE)) as db:
        db.execute("UPDATE facts SET version = 0")
        db.execute("DELETE FROM facts WHERE file % 2")
        db.execute("DELETE FROM meta WHERE key = 'listing'")
        db.commit()
    running.start()
    running.settle()
    assert listed(running) == before
    with closing(sqlite3.connect(running.state / CATALOGUE)) as db:
        assert db.execute("SELECT count(*) FROM facts WHERE version = 0").fetchone() == (0,)


def test_a_scan_of_the_same_state_folder_takes_nothing_away(running: Running, library: Path) -> None:
    running.stop()
    shutil.copy(library / "night.safetensors", library / "new night.safetensors")
    command = [
        sys.executable,
        "-m",
        "loractl.cli",
        "scan",
        str(library),
        "--state-dir",
        str(running.state),
        "--json",
    ]
    subprocess.run(command, capture_output=True, check=False)
    running.start()
    running.settle()
    assert names(running, "family=flux") == ["new night.safetensors", "night.safetensors"]


def test_peft_configuration_is_read_by_whichever_name_has_it(running: Running, library: Path) -> None:
    """A weight file that is an adapter's under one of its names only."""
    staged = library.parent / "staged"
    (staged / "A").mkdir(parents=True)
    write_peft_folder(str(staged / "Z"), random_weights(llm(8), 9), rank=8, targets=["q_proj"], base="org/Nine")
    os.link(staged / "Z/adapter_model.safetensors", staged / "A/x.safetensors")
    staged.rename(library / "new")
    running.settle()
    assert [file["base"] for file in listed(running, "dir=new", cwd=library)] == ["org/Nine"] * 2


def test_what_contradicts_itself_is_refused(running: Running, tmp_path: Path) -> None:
    assert loractl(running, "list", "family=flux", "--save", "big").returncode == 0
    for wrong in (
        ["--save", "big"], ["--save", "", "x"], ["x", "--save", "a", "--forget", "big"], ["--runs", "--names"],
        ["--runs", "-o", str(tmp_path / "runs.csv")], ["--facets", "family", "--sort", "size"], ["--forget", ""],
    ):  # fmt: skip
        done = loractl(running, "list", *wrong)
        assert (done.returncode, done.stdout) == (2, ""), wrong
    assert names(running, "@big") == ["night.safetensors"]
    assert not (tmp_path / "runs.csv").exists()


def test_a_table_has_heads_in_a_pipe_and_unreadable_files_are_not_sound(running: Running) -> None:
    done = loractl(running, "list", "sound=no", "--columns", "name,state")
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["name", "state"],
        ["broken.safetensors", "failed"],
    ]
    assert loractl(running, "list", "--facets", "format").returncode == 0


def test_runs_are_the_epochs_of_one_training(tmp_path: Path) -> None:
    root = tmp_path / "library"
    for epoch in (1, 2, 10):
        name = f"cat-{epoch:06}" if epoch < 10 else "cat"
        write_safetensors(
            _made(root / f"kohya/{name}.safetensors"), random_weights(sd15(4, width=8), epoch),
            metadata={"ss_session_id": "77", "ss_output_name": "cat", "ss_epoch": str(epoch)},
        )  # fmt: skip
        write_safetensors(
            _made(root / f"toolkit/dog_{epoch:09}.safetensors"), random_weights(flux(4, width=8), epoch)
        )
        step = root / f"peft/checkpoint-{epoch}"
        write_peft_folder(str(step), random_weights(llm(4), epoch), rank=4, targets=["q_proj"])
    write_safetensors(_made(root / "other/cat.safetensors"), random_weights(sdxl(4, width=16, every=10), 9))
    shutil.copy(root / "other/cat.safetensors", root / "other/cat copy.safetensors")
    with Running(tmp_path, [root]) as daemon:
        daemon.settle()
        done = loractl(daemon, "list", "--runs", "--json")
        sets = {one["name"]: one for one in json.loads(done.stdout)["sets"]}
        folder = str(root).casefold()
        assert set(sets) == {"cat (session 77)", f"{folder}/toolkit/dog", f"{folder}/peft"}
        assert [file["epoch"] for file in sets["cat (session 77)"]["files"]] == [1, 2, 10]
        assert sets[f"{folder}/peft"]["total"] == 3
        done = loractl(daemon, "list", "--names", "--json")
        assert [(one["name"], one["total"]) for one in json.loads(done.stdout)["sets"]] == [("cat", 2)]
        done = loractl(daemon, "list", "--runs", "family=flux")
        assert "dog" in done.stdout
        assert done.stderr == "1 run\n"


def test_each_trainers_files_are_one_run(tmp_path: Path) -> None:
    """By session, by what they were told, or by names; base models are found by version and file alike."""
    root = tmp_path / "library"
    for number, (name, metadata) in enumerate((
        ("kohya/cat-000004", trainers.kohya("cat", "77", 4, 400)), ("cat", trainers.kohya("cat", "77", 10, 1000)),
        ("one/save/2025-02-03_12-10-00-save-200-10-0", trainers.onetrainer("models/ink.safetensors")),
        ("one/ink", trainers.onetrainer("models/ink.safetensors")),
        ("ai/first_000000250", trainers.ai_toolkit("first", 250, 5, "face")),
        ("ai/first", trainers.ai_toolkit("first", 500, 10, "face")),
        ("ai/other/first", trainers.ai_toolkit("first", 500, 10, "dog")),
        ("bare/paint-000001", {"ss_network_dim": "4"}), ("bare/paint", {"ss_network_dim": "4"}),
    )):  # fmt: skip
        layers = random_weights(sdxl(4, width=16, every=10), number)
        write_safetensors(_made(root / f"{name}.safetensors"), layers, metadata=metadata)
    with Running(tmp_path, [root]) as daemon:
        daemon.settle()
        done = loractl(daemon, "list", "--runs", "--json")
        sets = {one["name"]: one["files"] for one in json.loads(done.stdout)["sets"]}
        told = {name: [(file["epoch"], file["steps"]) for file in files] for name, files in sets.items()}
        assert told == {
            "cat (session 77)": [(4, 400), (10, 1000)],
            "ink": [(10, 200), (None, None)],
            "first": [(5, 250), (10, 500)],
            f"{root}/bare/paint".casefold(): [(1, None), (None, None)],
        }
        assert names(daemon, "base~pony") == names(daemon, "base=sdxl_base_v1-0") == [
            "cat.safetensors", "cat-000004.safetensors",
        ]  # fmt: skip
        assert names(daemon, "epoch=1") == ["paint-000001.safetensors"]
        assert "ponyDiffusionV6XL " in loractl(daemon, "list", "epoch=4").stdout
        shown = json.loads(loractl(daemon, "show", str(root / "bare/paint-000001.safetensors"), "--json").stdout)
        assert shown["facts"]["epoch"] == 1


def test_facts_follow_the_model_card(running: Running, library: Path) -> None:
    """Also where it was written while lorad was stopped."""
    card = library / "chat/README.md"
    card.write_text("---\nlicense: llama3\ntags:\n- unsloth\n---\n")
    running.settle()
    assert names(running, "licence=llama3", "trainer=unsloth") == ["adapter_model.safetensors"]
    running.stop()
    card.write_text("---\nlicense: mit\n---\n")
    running.start()
    running.settle()
    assert names(running, "licence=mit", "trainer=peft") == ["adapter_model.safetensors"]
    card.unlink()
    running.settle()
    assert names(running, "licence=unknown", "trainer=peft") == ["adapter_model.safetensors"]


def _made(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    return str(path)


def test_searches_are_saved_by_name(running: Running, library: Path) -> None:
    assert loractl(running, "list", "family=sd15", "dir=old", "--save", "dogs", cwd=library).returncode == 0
    assert names(running, "@dogs") == ["dog.safetensors"]
    assert names(running, "@dogs", "rank>=100") == []
    running.stop()
    running.start()
    running.settle()
    assert "@dogs" in loractl(running, "list", "--saved").stdout
    for wrong, says in (
        (["@cats"], "no search 'cats' is saved; there are dogs"),
        (["x", "--save", "a b"], "take up to 64 letters"),
        (["@dogs", "--save", "more"], "cannot name another one"),
        (["--forget", "cats"], "no search 'cats'"),
    ):
        done = loractl(running, "list", *wrong)
        assert (done.returncode, done.stdout) == (2, ""), wrong
        assert says in done.stderr
    assert loractl(running, "list", "--forget", "dogs").returncode == 0
    assert json.loads(loractl(running, "list", "--saved", "--json").stdout) == {"searches": {}}
