"""`python -m bench.change_surgery`: resize and merge beside what they replace, side by side in one run.

SDXL files of 722 modules and rank 32, two threads, reading and writing included: resize to rank 8, and a merge of
eight to rank 32, with memory over the imports. Beside it single modules by a dense SVD, as sd-scripts resizes, and
what of ΔW is lost against the optimum by Eckart and Young, which a dense SVD in double precision finds. Then what
`peft` makes of two adapters by its combinations.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.update(dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import numpy as np
from rich.console import Console
from rich.table import Table
from tests.builders.architectures import sdxl
from tests.toolkit.loras import trained

from loracore.adapter import read_adapter
from lorakit.lowrank.svd import Decomposition

_FILES = 8
#: A job in a process of its own: seconds and memory beyond what the imports cost.
_CHILD = """
import json, resource, sys, time
from loracore.jobs.job import Alone
from loracore.jobs.change import Writing
from loracore.jobs.resize import ResizeParameters
from loracore.jobs.merge import MergeParameters
from lorakit.jobs.merge import job as merge
from lorakit.jobs.resize import job as resize
import threadpoolctl


def peak():
    # Not ru_maxrss, which a process takes over from the one that started it.
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))


job, output, rank, *paths = sys.argv[1:]
paths = tuple(path.encode() for path in paths)
writing = Writing(output.encode(), force=True, device="cpu")
before, imports = resource.getrusage(resource.RUSAGE_SELF), peak()
start = time.perf_counter()
if job == "resize":
    found = resize.run(ResizeParameters(paths[0], writing, rank=int(rank)), Alone(2))
else:
    weights = (1 / len(paths),) * len(paths)
    found = merge.run(MergeParameters(paths, writing, weights, rank=int(rank) or None, method=job), Alone(2))
wall = time.perf_counter() - start
after = resource.getrusage(resource.RUSAGE_SELF)
used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
print(json.dumps([wall, used, (peak() - imports) / 1000, found.error]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.change_surgery", description=__doc__)
    parser.add_argument("--folder", default="bench/.corpora", help="where the files lie (default: %(default)s)")
    parser.add_argument(
        "--runs", type=int, default=3, help="runs of which the least counts (default: %(default)s)"
    )
    options = parser.parse_args()
    console = Console()
    paths = _files(Path(options.folder))
    console.print(_whole_files(paths, options.runs))
    console.print(_modules(paths[0], options.runs))
    console.print(_losses(paths))
    console.print(_by_peft())


def _files(folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"sdxl-trained-{number}.safetensors" for number in range(_FILES)]
    for number, path in enumerate(paths):
        if not path.exists():
            trained(path, sdxl(32, text_encoders=False), seed=number, alpha=16)
    return paths


def _whole_files(paths: list[Path], runs: int) -> Table:
    table = Table(
        "SDXL, 722 modules, rank 32, two threads", "seconds", "at most", "CPU seconds", "MB over imports",
        "‖ΔW - ΔW'‖ / ‖ΔW‖",
    )  # fmt: skip
    for name, job, rank, given, most in (
        ("resize to rank 8", "resize", 8, paths[:1], "2"),
        (f"merge of {_FILES} to rank 32", "linear", 32, paths, "10"),
        (f"merge of {_FILES}, exact", "linear", 0, paths, ""),
    ):
        found = [_child(job, rank, given) for _ in range(runs)]
        wall, used, memory = (min(one[place] for one in found) for place in (0, 1, 2))
        error = "0" if found[0][3] is None else f"{found[0][3]:.3g}"
        table.add_row(name, f"{wall:.2f}", most, f"{used:.2f}", f"{memory:.0f}", error)
    return table


def _child(job: str, rank: int, paths: list[Path]) -> list[float]:
    with tempfile.TemporaryDirectory(dir=paths[0].parent) as folder:
        words = [sys.executable, "-c", _CHILD, job, f"{folder}/out.safetensors", str(rank), *map(str, paths)]
        found: list[float] = json.loads(subprocess.run(words, check=True, capture_output=True).stdout)
        return found


def _modules(path: Path, runs: int) -> Table:
    """Resizing one module from its factors, as it is done here and as sd-scripts does."""
    import torch

    table = Table("one module, rank 32 to 8", "here, ms", "torch.linalg.svd(ΔW), ms", "× faster", "modules")
    ours_all = theirs_all = 0.0
    with read_adapter(str(path)) as adapter:
        shapes = [module.shape[:2] for module in adapter.modules]
        for side in (640, 1280):
            module = next(module for module in adapter.modules if module.shape[:2] == (side, side))
            outer, inner, scale = module.pair() or (np.zeros(0), np.zeros(0), 1.0)
            outer, inner = outer.astype(np.float16), inner.astype(np.float16)

            def ours(outer: Any = outer, inner: Any = inner, scale: float = scale) -> None:
                found = Decomposition(outer.astype(np.float64) * scale, inner.astype(np.float64))
                found.truncated(8)

            def theirs(outer: Any = outer, inner: Any = inner) -> None:
                delta = torch.from_numpy(outer).float() @ torch.from_numpy(inner).float()
                left, values, right = torch.linalg.svd(delta)
                _ = left[:, :8] @ torch.diag(values[:8]), right[:8]

            first, second = _least(ours, 10 * runs), _least(theirs, runs)
            count = sum(min(shape) >= side for shape in shapes) - sum(min(shape) > side for shape in shapes)
            ours_all, theirs_all = ours_all + count * first, theirs_all + count * second
            table.add_row(
                f"{side} × {side}",
                f"{1e3 * first:.2f}",
                f"{1e3 * second:.0f}",
                f"{second / first:.0f}",
                str(count),
            )
    table.add_row(
        "all, by their shorter sides alone", f"{1e3 * ours_all:.0f}", f"{1e3 * theirs_all:.0f}",
        f"{theirs_all / ours_all:.0f}", str(len(shapes)),
    )  # fmt: skip
    return table


def _losses(paths: list[Path]) -> Table:
    """What truncation loses beyond what it must, relative to that, of the merge and of the resize."""
    table = Table("1280 × 1280", "loses", "must lose", "excess, relative")
    parts = []
    for path in paths:
        with read_adapter(str(path)) as adapter:
            module = next(module for module in adapter.modules if module.shape[:2] == (1280, 1280))
            parts.append(module.pair(np.float64))
    outers = [outer * scale / len(parts) for outer, _, scale in filter(None, parts)]
    inners = [inner for _, inner, _ in filter(None, parts)]
    for name, outer, inner, rank in (
        ("resize, rank 32 to 8", outers[0], inners[0], 8),
        (f"merge of {_FILES} to rank 32", np.hstack(outers), np.vstack(inners), 32),
    ):
        delta = outer @ inner
        up, down = Decomposition(outer, inner).truncated(rank)
        lost = float(np.linalg.norm(delta - up @ down))
        least = float(np.linalg.norm(np.linalg.svd(delta, compute_uv=False)[rank:]))
        whole = float(np.linalg.norm(delta))
        table.add_row(name, f"{lost / whole:.6f}", f"{least / whole:.6f}", f"{lost / least - 1:.1e}")
    return table


def _by_peft() -> Table:
    """Two adapters of rank 16 on four linear layers, weights 0.7 and 0.3: how wrong ΔW is."""
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model

    import lorakit

    def base() -> Any:
        torch.manual_seed(0)
        return torch.nn.ModuleDict({f"q{n}": torch.nn.Linear(1280, 1280, bias=False) for n in range(4)})

    def change(folder: str, **options: Any) -> Any:
        return PeftModel.from_pretrained(base(), folder, **options)

    table = Table("0.7 · ΔW₁ + 0.3 · ΔW₂, four layers of 1280 × 1280", "seconds", "‖error‖ / ‖ΔW‖")
    with tempfile.TemporaryDirectory() as folder:
        for number in range(2):
            config = LoraConfig(r=16, lora_alpha=16, target_modules=[f"q{n}" for n in range(4)])
            model = get_peft_model(base(), config)
            torch.manual_seed(1 + number)
            for parameter in filter(lambda one: one.requires_grad, model.parameters()):
                torch.nn.init.normal_(parameter, std=0.02)
            model.save_pretrained(f"{folder}/{number}")

        def deltas(model: Any) -> Any:
            merged = model.merge_and_unload()
            return torch.stack([merged[f"q{n}"].weight - base()[f"q{n}"].weight for n in range(4)]).detach()

        wanted = 0.7 * deltas(change(f"{folder}/0")) + 0.3 * deltas(change(f"{folder}/1"))
        for kind, more in (
            ("linear", {}),
            ("cat", {}),
            ("svd", {"svd_rank": 16}),
            ("ties_svd", {"svd_rank": 16, "density": 0.5}),
        ):
            model = PeftModel.from_pretrained(base(), f"{folder}/0", adapter_name="a")
            model.load_adapter(f"{folder}/1", adapter_name="b")
            start = time.perf_counter()
            model.add_weighted_adapter(["a", "b"], [0.7, 0.3], "both", combination_type=kind, **more)
            seconds = time.perf_counter() - start
            model.set_adapter("both")
            table.add_row(f"peft, {kind}", f"{seconds:.3f}", f"{_apart(deltas(model), wanted):.3g}")
        for name, options in (
            ("linear, exact", {}),
            ("linear, rank 16", {"rank": 16}),
            ("ties, rank 16", {"method": "ties", "rank": 16}),
        ):
            start = time.perf_counter()
            lorakit.merge(
                [f"{folder}/0", f"{folder}/1"], f"{folder}/out", weights=(0.7, 0.3), force=True, **options
            )
            seconds = time.perf_counter() - start
            table.add_row(
                f"here, {name}, with files",
                f"{seconds:.3f}",
                f"{_apart(deltas(change(f'{folder}/out')), wanted):.3g}",
            )
    return table


def _apart(found: Any, wanted: Any) -> float:
    return float((found - wanted).norm() / wanted.norm())


def _least(work: Callable[[], object], runs: int) -> float:
    found = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return min(found)


if __name__ == "__main__":
    main()
