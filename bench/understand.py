"""`python -m bench.understand`: the analyses of a LoRA beside what they replace, side by side in one run.

A 722-module SDXL file of rank 32: spectra by the factors, importance without and with percentiles, all beyond the
start of the process. Spectra of single modules beside numpy's dense SVD of ΔW, and PCA beside scikit-learn's, on
the shapes of a LoRA's layers. Everything is interleaved, and the least of the runs counts.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence

os.environ.update(dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import numpy as np
from rich.console import Console
from rich.table import Table
from tests.builders.architectures import sdxl
from tests.builders.weights import random_weights
from tests.builders.write import write_safetensors

from loracore.jobs.importance import ImportanceParameters
from loracore.jobs.job import Alone
from loracore.jobs.pca import PcaParameters
from loracore.jobs.spectrum import SpectrumParameters
from lorakit.jobs import importance, pca, spectrum
from lorakit.lowrank.principal import principal
from lorakit.statistics.matrix import Bounds, Entries, Product
from lorakit.statistics.scan import Workspace

_SIDES = ((640, 32), (1280, 32), (1280, 128), (2048, 32))
_SHAPES = (
    (32, 640),
    (640, 32),
    (32, 1280),
    (1280, 32),
    (32, 5120),
    (5120, 32),
    (4, 1280),
    (128, 3072),
    (3072, 128),
)
_TARGETS = {"spectrum": 1.0, "importance, no percentiles": 3.0, "importance": 12.0}
_COMPONENTS = 10


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.understand", description=__doc__)
    parser.add_argument("--folder", default="bench/.corpora", help="where the file lies (default: %(default)s)")
    parser.add_argument(
        "--runs", type=int, default=3, help="runs of which the least counts (default: %(default)s)"
    )
    options = parser.parse_args()
    console = Console()
    console.print(_whole_file(_file(options.folder), options.runs))
    console.print(_spectra(options.runs))
    console.print(_components(options.runs))


def _file(folder: str) -> bytes:
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "sdxl-rank-32.safetensors")
    if not os.path.exists(path):
        write_safetensors(path, random_weights(sdxl(32, text_encoders=False), 1, alpha=16))
    return os.fsencode(path)


def _whole_file(path: bytes, runs: int) -> Table:
    context = Alone(2)
    seconds = _least(
        {
            "spectrum": lambda: spectrum.run(SpectrumParameters(path), context),
            "importance, no percentiles": lambda: importance.run(
                ImportanceParameters(path, percentiles=False), context
            ),
            "importance": lambda: importance.run(ImportanceParameters(path), context),
            "pca, 10 components": lambda: pca.run(PcaParameters(path, _COMPONENTS), context),
        },
        runs,
    )
    table = Table("SDXL, 722 modules, rank 32, two threads", "seconds", "CPU seconds", "at most")
    for name, (wall, used) in seconds.items():
        table.add_row(name, f"{wall:.2f}", f"{used:.2f}", f"{_TARGETS[name]:.0f}" if name in _TARGETS else "")
    return table


def _spectra(runs: int) -> Table:
    table = Table("ΔW", "by the factors, ms", "dense economy SVD, ms", "× faster")
    for side, rank in _SIDES:
        rng = np.random.default_rng(side)
        outer = rng.standard_normal((side, rank)).astype(np.float32)
        inner = rng.standard_normal((rank, side)).astype(np.float32)

        def ours(outer: np.ndarray = outer, inner: np.ndarray = inner) -> object:
            bounds, workspace = Bounds(), Workspace()
            first, second = Entries(outer, bounds, workspace), Entries(inner, bounds, workspace)
            return Product(first, second, 0.5, bounds, workspace).singular_values

        def dense(outer: np.ndarray = outer, inner: np.ndarray = inner) -> object:
            return np.linalg.svd(0.5 * outer @ inner, full_matrices=False)

        found = _least({"ours": ours, "dense": dense}, runs)
        _row(table, f"{side} × {side}, rank {rank}", found["ours"][0], found["dense"][0])
    return table


def _components(runs: int) -> Table:
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    table = Table(
        "layer", "ours, ms", "scikit-learn as it chooses, ms", "× faster", "exact solver, ms", "× faster"
    )
    for shape in _SHAPES:
        samples = np.random.default_rng(shape[0]).standard_normal(shape)
        count = min(_COMPONENTS, *shape)

        def theirs(solver: str, samples: np.ndarray = samples, count: int = count) -> object:
            values = StandardScaler().fit_transform(samples)
            return PCA(count, svd_solver=solver, random_state=0).fit_transform(values)

        found = _least(
            {
                "ours": lambda samples=samples, count=count: principal(samples, count),
                "auto": lambda theirs=theirs: theirs("auto"),
                "full": lambda theirs=theirs: theirs("full"),
            },
            10 * runs,
        )
        ours, auto, full = (found[name][0] for name in ("ours", "auto", "full"))
        row = [
            f"{1e3 * ours:.2f}",
            f"{1e3 * auto:.2f}",
            f"{auto / ours:.1f}",
            f"{1e3 * full:.2f}",
            f"{full / ours:.1f}",
        ]
        table.add_row(f"{shape[0]} × {shape[1]}", *row)
    return table


def _row(table: Table, name: str, ours: float, theirs: float) -> None:
    table.add_row(name, f"{1e3 * ours:.2f}", f"{1e3 * theirs:.1f}", f"{theirs / ours:.0f}")


def _least(contestants: dict[str, Callable[[], object]], runs: int) -> dict[str, tuple[float, float]]:
    """Wall and CPU seconds of each, which take turns."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for _ in range(runs):
        for name, work in contestants.items():
            wall, used = time.perf_counter(), time.process_time()
            work()
            found[name].append((time.perf_counter() - wall, time.process_time() - used))
    return {name: _best(times) for name, times in found.items()}


def _best(times: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return min(wall for wall, _ in times), min(used for _, used in times)


if __name__ == "__main__":
    main()
