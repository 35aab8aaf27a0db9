"""`loractl.resolve` against a real daemon: what a name means, what is refused, and what is converted, once."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import loractl
from loracore.adapter import read_adapter
from loracore.control import JobProgress
from loracore.errors import AmbiguousError, ChangedFile, FileError, NoAdapterError, NoDaemonError, UsageError
from loractl.adapters import Resolved
from loractl.client import Events
from tests.builders.architectures import llm, sdxl
from tests.builders.weights import Layers, random_weights, scalar
from tests.builders.write import write_peft_folder, write_safetensors
from tests.integration.running import Running

LLAMA, QWEN = "meta-llama/Meta-Llama-3-8B", "Qwen/Qwen2.5-7B-Instruct"


def weights(seed: int) -> Layers:
    return random_weights(llm(4, width=64, every=16), seed)


def peft(folder: Path, seed: int, base: str = LLAMA, **fields: object) -> str:
    write_peft_folder(str(folder), weights(seed), rank=4, targets=["q_proj"], base=base, **fields)
    return str(folder)


def plain(path: Path, seed: int, alphas: tuple[float, ...] = (2.0,), **metadata: str) -> str:
    """A file that names its modules as transformers does, and their parts as kohya's trainers do."""
    layers = {}
    for number, (name, layer) in enumerate(weights(seed).items()):
        stem, part = name.removeprefix("base_model.model.").split(".lora_")
        layers[f"{stem}.lora_{'down' if part[0] == 'A' else 'up'}.weight"] = layer
        layers[f"{stem}.alpha"] = ("F32", (), scalar(alphas[number // 2 % len(alphas)], "F32"))
    return write_safetensors(str(path), layers, metadata={"ss_base_model": LLAMA, **metadata})


@pytest.fixture
def library(tmp_path: Path) -> Path:
    root = tmp_path / "library"
    peft(root / "llama/chat", 1)
    shutil.copytree(root / "llama/chat", root / "copies/chat")
    peft(root / "qwen/Chat", 2, QWEN)
    peft(root / "one/sql", 3)
    peft(root / "two/sql", 4)
    peft(root / 'Éclair d\'"été"', 5)
    plain(root / "story.v2.safetensors", 6, ss_output_name="Tales", **{"modelspec.trigger_phrase": "once upon"})
    plain(root / "scales.safetensors", 7, (2.0, 3.0))
    write_safetensors(str(root / "picture.safetensors"), random_weights(sdxl(4, width=64, every=40), 8))
    write_safetensors(str(root / "loose.safetensors"), weights(9))
    return root


@pytest.fixture
def running(tmp_path: Path, library: Path) -> Iterator[Running]:
    with Running(tmp_path, [library]) as daemon:
        daemon.settle()
        yield daemon


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def resolve(running: Running, cache: Path, name: str, base: str | None = None) -> Resolved:
    return loractl.resolve(name, base, socket=str(running.runtime / "control.sock"), cache=cache)


def deltas(path: str) -> list[np.ndarray]:
    with read_adapter(path) as adapter:
        return [module.delta(np.float64) for module in sorted(adapter.modules, key=lambda module: module.name)]


def conversion_begins(events: Events) -> None:
    """Return when the second job runs; the first one hashes the file."""
    while not isinstance(job := next(events).event, JobProgress) or job.id < 2:
        pass


def assert_whole(cache: Path, folders: int) -> None:
    """So many converted adapters, and nothing half made."""
    assert sorted(name for name in os.listdir(cache) if name.startswith(".")) == [".lock", ".naming"]
    assert len([name for name in os.listdir(cache) if not name.startswith(".")]) == folders


def test_what_a_name_means(running: Running, library: Path, cache: Path) -> None:
    """Paths, ends of paths, names of folders and hashes lead to the PEFT folder as it is."""
    sql, eclair = str(library / "one/sql"), str(library / 'Éclair d\'"été"')
    for name in (sql, f"{sql}/", "one/sql", "library/one/sql", f"{sql}/adapter_model.safetensors"):
        found = resolve(running, cache, name)
        assert (found.path, found.kind, found.fit, found.converted) == (sql, "path", "any", False), name
    for name in (Path(eclair).name, Path(eclair).name.upper(), f"library/{Path(eclair).name}", eclair):
        assert resolve(running, cache, name).path == eclair
    with running.client() as client:
        shown = client.show(library / "llama/chat/adapter_model.safetensors")
    assert shown.weights is not None
    found = resolve(running, cache, shown.weights.hex()[:8].upper(), LLAMA)
    assert (os.fsencode(found.source), found.kind) == (shown.kept, "hash")
    assert shown.layout is not None
    with pytest.raises(NoAdapterError):
        resolve(running, cache, shown.layout.hex())
    assert not cache.exists()


def test_the_base_model_decides_between_files_of_one_name(running: Running, library: Path, cache: Path) -> None:
    """By its whole name, by its last part, else by its family; what there is is said where none fits."""
    qwen = str(library / "qwen/Chat")
    for base, fit in ((QWEN, "base"), ("/models/qwen2.5-7b-instruct/", "base"), ("Qwen/Qwen3-8B", "family")):
        found = resolve(running, cache, "chat", base)
        assert (found.path, found.base, found.fit) == (qwen, QWEN, fit), base
    assert resolve(running, cache, "chat", LLAMA).base == LLAMA
    with pytest.raises(NoAdapterError) as none:
        resolve(running, cache, "chat", "google/gemma-2b")
    assert qwen in str(none.value)
    assert LLAMA in str(none.value)
    assert none.value.exit_code == 2


def test_duplicates_of_one_function_are_one_adapter(running: Running, library: Path, cache: Path) -> None:
    """The kept one of them is taken."""
    with running.client() as client:
        kept = client.show(library / "copies/chat/adapter_model.safetensors").kept
    assert kept is not None
    found = resolve(running, cache, "chat", LLAMA)
    assert os.fsencode(found.source) == kept


def test_two_functions_of_one_name_are_an_error_that_lists_both(
    running: Running, library: Path, cache: Path
) -> None:
    for base in (None, LLAMA):
        with pytest.raises(AmbiguousError) as both:
            resolve(running, cache, "SQL", base)
        assert [path.split(" (")[0] for path in both.value.paths] == [
            str(library / "one/sql"),
            str(library / "two/sql"),
        ]
        assert both.value.exit_code == 2
    config = library / "copies/chat/adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "lora_alpha": 64}))
    running.settle()
    with pytest.raises(AmbiguousError, match="copies/chat"):
        resolve(running, cache, "chat", LLAMA)


def test_a_file_is_converted_once(running: Running, library: Path, cache: Path) -> None:
    """Found by stem, file name, output name or trigger word; ΔW stays; a changed source is converted anew."""
    source = library / "story.v2.safetensors"
    first = resolve(running, cache, "story.v2", LLAMA)
    assert (first.kind, first.converted, first.uniform, first.source) == ("name", True, True, str(source))
    assert Path(first.path).is_relative_to(cache)
    inode = os.stat(f"{first.path}/adapter_model.safetensors").st_ino
    for name, kind in (("STORY.v2.safetensors", "name"), ("Tales", "title"), ("once upon", "trigger")):
        found = resolve(running, cache, name, LLAMA)
        assert (found.path, found.kind) == (first.path, kind)
    assert os.stat(f"{first.path}/adapter_model.safetensors").st_ino == inode
    with running.client() as client:
        assert len([job for job in client.jobs() if job.name == "convert"]) == 1
    for one, other in zip(deltas(str(source)), deltas(first.path), strict=True):
        assert np.array_equal(one, other)
    plain(source, 66)
    with pytest.raises(ChangedFile, match="loractl wait"):
        resolve(running, cache, "story.v2", LLAMA)
    running.settle()
    second = resolve(running, cache, "story.v2", LLAMA)
    assert second.path != first.path
    assert_whole(cache, 2)


def test_different_scales_go_into_the_factors(running: Running, library: Path, cache: Path) -> None:
    """Readers that know no patterns apply the same function."""
    found = resolve(running, cache, "scales")
    config = json.loads(Path(found.path, "adapter_config.json").read_text())
    assert (found.uniform, config["r"], config["lora_alpha"], config["alpha_pattern"]) == (True, 4, 4, {})
    for one, other in zip(deltas(str(library / "scales.safetensors")), deltas(found.path), strict=True):
        assert np.allclose(one, other, rtol=1e-6)


def test_the_cache_is_the_users(running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    found = loractl.resolve("scales", socket=str(running.runtime / "control.sock"))
    assert Path(found.path).is_relative_to(tmp_path / "xdg/lorad/adapters")


def test_what_is_damaged_in_the_cache_is_made_anew(running: Running, cache: Path) -> None:
    path = Path(resolve(running, cache, "scales").path, "adapter_model.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    resolve(running, cache, "scales")
    assert path.stat().st_size == len(whole)
    (path.parent.parent / "lorad.json").unlink()
    resolve(running, cache, "scales")
    assert deltas(str(path.parent))
    assert_whole(cache, 1)


def test_what_is_no_adapter_is_refused_by_name(running: Running, library: Path, cache: Path) -> None:
    """An image model's LoRA, weights without a scale, a folder of another method."""
    for name, why in (("picture", "a LoRA for sdxl is no adapter"), ("loose", "its scale is not known")):
        with pytest.raises(FileError, match=why) as refused:
            resolve(running, cache, name)
        assert str(library / name) in str(refused.value)
    with pytest.raises(NoAdapterError, match="picture"):
        resolve(running, cache, "picture", LLAMA)
    peft(library / "loha", 11, peft_type="LOHA")
    running.settle()
    with pytest.raises(FileError, match="LOHA"):
        resolve(running, cache, "loha")
    assert not cache.exists()


def test_names_that_none_can_have(running: Running, cache: Path) -> None:
    for name in ("", "/", "../one/sql", "one/../sql", "s\0ql", "x" * 10_000, "a\nb", "\udcff", " "):
        with pytest.raises(NoAdapterError, match="has not"):
            resolve(running, cache, name)
        if ".." not in name:
            with pytest.raises(NoAdapterError, match="has not"):
                resolve(running, cache, "chat", name)
    assert resolve(running, cache, "chat", f"../models/{os.path.basename(QWEN)}").base == QWEN


def test_only_what_lies_in_the_library_is_found(running: Running, library: Path, cache: Path) -> None:
    outside = peft(library.parent / "outside", 12)
    for name in (outside, "outside", "sq", "ql", "*", "%", "_", "adapter_model", "deadbeefdeadbeef", "é" * 1024):
        with pytest.raises(NoAdapterError, match="no adapter in lorad's library"):
            resolve(running, cache, name)


def test_what_the_daemon_does_not_know_yet_is_not_acted_on(running: Running, library: Path, cache: Path) -> None:
    """A configuration for another base model, and weights that were replaced, before and after it looked."""
    config = library / "one/sql/adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": QWEN}))
    with pytest.raises((ChangedFile, NoAdapterError)):
        resolve(running, cache, "one/sql", LLAMA)
    plain(library / "story.v2.safetensors", 61)
    try:
        found = resolve(running, cache, "story.v2", LLAMA)
    except (ChangedFile, NoAdapterError):
        running.settle()
        found = resolve(running, cache, "story.v2", LLAMA)
    for one, other in zip(deltas(found.source), deltas(found.path), strict=True):
        assert np.array_equal(one, other)


def test_many_at_once_do_not_disturb_each_other(running: Running, cache: Path) -> None:
    """Threads with clients of their own, and tasks on one client in a running loop."""
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: resolve(running, cache, "story.v2", LLAMA), range(6)))
    assert len({each.path for each in found}) == 1

    async def body() -> list[Resolved]:
        async with loractl.AsyncClient(str(running.runtime / "control.sock")) as client:
            names = ["scales", "story.v2", "scales", "qwen/Chat"]
            return await asyncio.gather(*(client.resolve(name, cache=cache) for name in names))

    scales, story, again, chat = asyncio.run(body())
    assert (story.path, scales.path, chat.base) == (found[0].path, again.path, QWEN)
    assert deltas(story.path)
    assert_whole(cache, 2)


def test_a_killed_conversion_leaves_nothing_that_is_used(running: Running, cache: Path) -> None:
    """Killed as its job begins; what it left is removed by the next."""
    code = "import sys, loractl; loractl.resolve(sys.argv[1], socket=sys.argv[2], cache=sys.argv[3])"
    socket = str(running.runtime / "control.sock")
    with running.client() as client, client.events(["job-progress"]) as events:
        process = subprocess.Popen([sys.executable, "-c", code, "story.v2", socket, str(cache)])
        conversion_begins(events)
        process.send_signal(signal.SIGKILL)
        process.wait()
    (cache / ".making-left").mkdir(parents=True, exist_ok=True)
    (cache / ".making-left/adapter_model.safetensors").write_bytes(b"half")
    found = resolve(running, cache, "story.v2", LLAMA)
    assert deltas(found.path)
    assert_whole(cache, 1)


def test_a_daemon_that_is_killed_leaves_nothing_that_is_used(running: Running, cache: Path) -> None:
    """The client is told; whatever was begun is removed by the next."""
    with ThreadPoolExecutor(1) as pool, running.client() as client, client.events(["job-progress"]) as events:
        asked = pool.submit(resolve, running, cache, "story.v2", LLAMA)
        conversion_begins(events)
        running.stop(signal.SIGKILL)
        assert isinstance(asked.exception(), NoDaemonError | None)
    running.start()
    running.settle()
    assert deltas(resolve(running, cache, "story.v2", LLAMA).path)
    assert_whole(cache, 1)


def test_a_cache_is_no_part_of_the_library(running: Running, library: Path) -> None:
    with pytest.raises(UsageError, match="is in a watched folder; take /"):
        resolve(running, library / "cache", "story.v2")
    assert not (library / "cache").exists()
    for _ in range(2):
        found = resolve(running, library / ".lorad-adapters", "Tales")
        assert found.source == str(library / "story.v2.safetensors")
        running.settle()


def test_a_cache_that_cannot_be_written_is_said(running: Running, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileError, match="the cache for adapters cannot be used"):
        resolve(running, tmp_path / "file", "story.v2")
    with pytest.raises(FileError, match="cannot be used"):
        resolve(running, Path("/proc/nothing"), "story.v2")
