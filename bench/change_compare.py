"""`python -m bench.change_compare`: comparing and extracting beside what they replace, side by side in one run.

Two models of eight 4096 × 4096 layers and one of 14336 × 4096 (as in an 8 B Llama), warm: differing everywhere,
and equal but for one layer. The yardstick of comparing is naive torch: both models loaded by safetensors, float(),
and the same four numbers of each layer. Extraction of one difference at rank 64: a LoRA under bf16's rounding, and
white noise, the worst there is; beside an economy SVD and `torch.svd_lowrank`, all on one thread, with the error
above the optimum.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable

os.environ.update(dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import numpy as np
from rich.console import Console
from rich.table import Table

_SHAPES = [(4096, 4096)] * 8 + [(14336, 4096)]
_RANK, _SIDE = 64, 4096
_NAIVE = """
import sys, time, torch
from safetensors.torch import load_file
torch.set_num_threads(int(sys.argv[3]))
began = time.perf_counter()
base, tuned = load_file(sys.argv[1]), load_file(sys.argv[2])
for name in base:
    a, b = base[name].float(), tuned[name].float()
    d = (b - a).abs()
    d.mean().item(), d.max().item(), ((b - a).norm() / a.norm()).item(), (d > 1e-6).float().mean().item()
print(time.perf_counter() - began)
"""
_OURS = """
import os, sys, time
os.environ.update(dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
from loracore.jobs.change import Writing
from loracore.jobs.compare import CompareParameters
from loracore.jobs.job import Alone
from lorakit.jobs.compare import job as compare
base, tuned, out, threads, analysis, engine = sys.argv[1:]
began = time.perf_counter()
compare.run(
    CompareParameters(base.encode(), tuned.encode(), Writing(out.encode(), force=True), engine=engine,
                      lora_analysis=analysis == "yes"), Alone(int(threads)))
print(time.perf_counter() - began)
"""
_PEAK = """
import resource, subprocess, sys
command = [sys.executable, "-c", *sys.argv[1:]]
ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
print(ended.stdout.split()[-1], resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.change_compare", description=__doc__)
    parser.add_argument(
        "--folder", default="bench/.corpora/models", help="where models lie (default: %(default)s)"
    )
    parser.add_argument("--runs", type=int, default=3, help="of which the least counts (default: %(default)s)")
    parser.add_argument("--only", choices=["compare", "extract"], help="one half alone")
    options = parser.parse_args()
    console = Console(width=120)
    if options.only != "extract":
        console.print(_comparing(options.folder, options.runs))
    if options.only != "compare":
        console.print(_extracting(options.runs))


def _comparing(folder: str, runs: int) -> Table:
    base, tuned, nearly = (os.path.join(folder, f"{name}.safetensors") for name in ("base", "tuned", "nearly"))
    _models(folder, base, tuned, nearly)
    out = os.path.join(folder, "out")
    size = os.path.getsize(base) + os.path.getsize(tuned)
    table = Table(f"two bf16 models, {size / 1e9:.2f} GB in both, warm", "seconds", "GB/s of both", "peak MB")
    contests: dict[str, list[str]] = {
        "compare, all layers differ, 2 threads": [_OURS, base, tuned, out, "2", "no", "numpy"],
        "compare, all layers differ, 1 thread": [_OURS, base, tuned, out, "1", "no", "numpy"],
        "compare, one layer of nine differs, 2 threads": [_OURS, base, nearly, out, "2", "no", "numpy"],
        "compare --engine torch, in blocks, 2 threads": [_OURS, base, tuned, out, "2", "no", "torch"],
        "naive torch, 2 threads": [_NAIVE, base, tuned, "2"],
        "compare with lora_analysis.json, 2 threads": [_OURS, base, tuned, out, "2", "yes", "numpy"],
    }
    found: dict[str, list[tuple[float, int]]] = {name: [] for name in contests}
    for _ in range(runs):
        for name, command in contests.items():
            found[name].append(_measured(command))
    for name, measured in found.items():
        seconds, peak = min(one[0] for one in measured), max(one[1] for one in measured)
        table.add_row(name, f"{seconds:.2f}", f"{size / seconds / 1e9:.2f}", f"{peak / 1024:.0f}")
    shutil.rmtree(out, ignore_errors=True)
    return table


def _measured(command: list[str]) -> tuple[float, int]:
    """Seconds beyond the start of the process, and its peak of resident memory in KiB."""
    done = subprocess.run([sys.executable, "-c", _PEAK, *command], check=True, stdout=subprocess.PIPE, text=True)
    seconds, peak = done.stdout.split()
    return float(seconds), int(peak)


def _models(folder: str, base: str, tuned: str, nearly: str) -> None:
    if all(map(os.path.exists, (base, tuned, nearly))):
        return
    import torch
    from safetensors.torch import save_file

    os.makedirs(folder, exist_ok=True)
    torch.manual_seed(0)
    layers = {f"l{index}.weight": 0.02 * torch.randn(shape) for index, shape in enumerate(_SHAPES)}
    moved = {name: (layer + 3e-4 * torch.randn_like(layer)).bfloat16() for name, layer in layers.items()}
    whole = {name: layer.bfloat16() for name, layer in layers.items()}
    save_file(whole, base)
    save_file(moved, tuned)
    save_file({**whole, "l0.weight": moved["l0.weight"]}, nearly)


def _extracting(runs: int) -> Table:
    import torch

    from lorakit.difference.decompose import decompose
    from lorakit.difference.rows import of_array

    torch.set_num_threads(1)
    table = Table(
        f"{_SIDE} × {_SIDE} at rank {_RANK}, one thread", "seconds", "× faster than SVD", "error above the optimum"
    )
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((_SIDE, _SIDE), np.float32)
    outer, inner = rng.standard_normal((_SIDE, _RANK), np.float32), rng.standard_normal((_RANK, _SIDE), np.float32)
    for title, matrix in (("LoRA and rounding", outer @ inner + 2.5 * noise), ("white noise", noise)):
        rows, tensor = of_array(matrix), torch.from_numpy(matrix)
        energy = float(np.square(matrix, dtype=np.float64).sum())
        dense = _timed(lambda tensor=tensor: torch.linalg.svd(tensor, full_matrices=False), 1)
        best = _error(energy, dense[1].S.numpy()[:_RANK])
        contests: dict[str, tuple[Callable[[], object], int]] = {
            "fast": (lambda rows=rows: decompose(rows, _RANK).values, runs),
            "exact": (lambda rows=rows: decompose(rows, _RANK, quality="exact").values, 1),
            "torch.svd_lowrank, niter 7": (
                lambda tensor=tensor: torch.svd_lowrank(tensor, _RANK, 7)[1].numpy(),
                runs,
            ),
        }
        table.add_row(f"{title}: economy SVD", f"{dense[0]:.2f}", "1", "")
        for name, (work, times) in contests.items():
            seconds, values = _timed(work, times)
            above = _error(energy, values[:_RANK]) / best - 1
            table.add_row(f"{title}: {name}", f"{seconds:.2f}", f"{dense[0] / seconds:.0f}", f"{above:.4%}")
    return table


def _timed(work: Callable[[], object], times: int) -> tuple[float, object]:
    least, found = float("inf"), None
    for _ in range(times):
        began = time.perf_counter()
        found = work()
        least = min(least, time.perf_counter() - began)
    return least, found


def _error(energy: float, values: np.ndarray) -> float:
    return (energy - float(np.square(values, dtype=np.float64).sum())) ** 0.5


if __name__ == "__main__":
    main()
