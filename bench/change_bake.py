"""`python -m bench.change_bake`: merging a LoRA into a base model beside copying the base.

A synthetic Llama-like model of float16 shards, and adapters for its queries, its attention, and all of it. Wall
time, GB/s of the model, and peak memory beyond the imports; each in a process of its own, which take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time

from rich.console import Console
from rich.table import Table
from tests.builders.architectures import LayerSpec, llm
from tests.builders.weights import random_weights
from tests.builders.write import write_peft_folder, write_safetensors

_HIDDEN, _KEY_VALUE, _INNER = 4096, 1024, 14336
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_BAKE = """
import json, sys, time
import lorakit
from lorakit.jobs.bake import job

def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))

before = peak()
start, used = time.perf_counter(), time.process_time()
lorakit.bake(sys.argv[1], sys.argv[2], sys.argv[3])
seconds = time.perf_counter() - start
print(json.dumps([seconds, time.process_time() - used, peak() - before]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.change_bake", description=__doc__)
    parser.add_argument(
        "--folder", default="bench/.corpora/bake", help="where the models lie (default: %(default)s)"
    )
    parser.add_argument("--blocks", type=int, default=2, help="of 436 MB each (default: %(default)s)")
    parser.add_argument(
        "--runs", type=int, default=3, help="runs of which the least counts (default: %(default)s)"
    )
    options = parser.parse_args()
    os.makedirs(options.folder, exist_ok=True)
    Console().print(_measured(options.folder, options.blocks, options.runs))


def _measured(folder: str, blocks: int, runs: int) -> Table:
    base, output = os.path.join(folder, "base"), os.path.join(folder, "out")
    size = _base(base, blocks)
    adapters = {
        "queries": _adapter(os.path.join(folder, "q"), blocks, ("q_proj",)),
        "attention": _adapter(os.path.join(folder, "qkvo"), blocks, _ATTENTION),
        "all layers": _adapter(
            os.path.join(folder, "all"), blocks, (*_ATTENTION, "gate_proj", "up_proj", "down_proj")
        ),
    }
    least: dict[str, tuple[float, float, float]] = {}
    for _ in range(runs):
        for name in ("copy", *adapters):
            shutil.rmtree(output, ignore_errors=True)
            found = _copied(base, output) if name == "copy" else _baked(adapters[name], base, output)
            least[name] = min(least.get(name, found), found)
    shutil.rmtree(output, ignore_errors=True)
    table = Table(
        "",
        "seconds",
        "CPU seconds",
        "GB/s of the model",
        "peak memory beyond imports, MB",
        title=f"{size / 1e9:.2f} GB",
    )
    for name, (seconds, used, memory) in least.items():
        what = "copy, with fsync" if name == "copy" else f"bake, {name}"
        table.add_row(
            what,
            f"{seconds:.2f}",
            f"{used:.2f}",
            f"{size / seconds / 1e9:.2f}",
            f"{memory / 1e3:.0f}" if memory else "",
        )
    return table


def _base(folder: str, blocks: int) -> int:
    """A shard for each block, and one for the embeddings."""
    os.makedirs(folder, exist_ok=True)
    index, size = {}, 0
    for number in range(blocks + 1):
        name = f"model-{number + 1:05}-of-{blocks + 1:05}.safetensors"
        specs = (
            _block(number) if number < blocks else [LayerSpec("model.embed_tokens.weight", "F16", (8000, _HIDDEN))]
        )
        index |= {spec.name: name for spec in specs}
        path = os.path.join(folder, name)
        if not os.path.exists(path):
            write_safetensors(path, random_weights(specs, number), metadata={"format": "pt"})
        size += os.path.getsize(path)
    with open(os.path.join(folder, "model.safetensors.index.json"), "w", encoding="utf-8") as file:
        json.dump({"metadata": {"total_size": size}, "weight_map": index}, file)
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
        json.dump({"model_type": "llama"}, file)
    return size


def _block(number: int) -> list[LayerSpec]:
    root = f"model.layers.{number}"
    sizes = {
        "self_attn.q_proj": (_HIDDEN, _HIDDEN), "self_attn.k_proj": (_KEY_VALUE, _HIDDEN),
        "self_attn.v_proj": (_KEY_VALUE, _HIDDEN), "self_attn.o_proj": (_HIDDEN, _HIDDEN),
        "mlp.gate_proj": (_INNER, _HIDDEN), "mlp.up_proj": (_INNER, _HIDDEN), "mlp.down_proj": (_HIDDEN, _INNER),
    }  # fmt: skip
    return [LayerSpec(f"{root}.{name}.weight", "F16", shape) for name, shape in sizes.items()]


def _adapter(folder: str, blocks: int, targets: tuple[str, ...]) -> str:
    if not os.path.exists(folder):
        specs = llm(16, blocks=blocks, targets=targets)
        write_peft_folder(folder, random_weights(specs, 1), rank=16, targets=targets)
    return folder


def _copied(base: str, output: str) -> tuple[float, float, float]:
    start, used = time.perf_counter(), time.process_time()
    shutil.copytree(base, output)
    for name in os.listdir(output):
        with open(os.path.join(output, name), "rb") as file:
            os.fsync(file.fileno())
    return time.perf_counter() - start, time.process_time() - used, 0.0


def _baked(adapter: str, base: str, output: str) -> tuple[float, float, float]:
    command = [sys.executable, "-c", _BAKE, adapter, base, output]
    seconds, used, memory = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return seconds, used, memory


if __name__ == "__main__":
    main()
