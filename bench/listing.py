"""`python -m bench.listing`: how long `list` takes among many made files, and what facts cost a header.

Files are made as rows of a catalogue, with facts as real ones have them; queries go through what answers clients.
Times are of the query's thread, and of the wall clock.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tests.builders.architectures import sdxl
from tests.builders.weights import random_weights
from tests.builders.write import write_safetensors

from loracore.control import Files, ListFiles
from loracore.facts import Facts, encode
from loracore.names import canonical, keys
from loracore.tensorfile import open_regular, read_container
from lorad.catalog import Catalog, Row
from lorad.control.queries import Queries
from lorakit.facts import header

_SYLLABLES = (
    "ka", "mo", "ri", "ten", "ohwx", "lux", "ba", "sen", "dra", "gon", "ne", "ko", "girl", "style", "anime",
    "real",
)  # fmt: skip
_FAMILIES = ("sdxl", "sdxl", "sd15", "flux", "wan", "qwen_image", "sd3", "llama", None)
#: What people ask; each sorted in several ways.
_EXPRESSIONS = (
    "", "family=sdxl", "family=sdxl rank>=32 algorithm=lora", "trigger~ohwx", "trigger=ohwxlux", "trigger=ohwx*",
    "tag~anime", "tag=girlstyle", "base~flux", "ohwx", "ohwxlux girl", "girlstyle", "ko", "!anime", "name=*lux*",
    "size>100MB", "modified>2025-06", "state=duplicate", "dir=/srv/models/loras/flux", "date=2025-06",
    "title~lux !anime", "path~/sdxl/", "hash=wrong", "sound=yes", "family=unknown", "author=ka*",
    "epoch>=10 steps<3000", "ohwx family=sdxl", "ko family=flux", "name=[kl]*", "trigger=?a*", "path~models",
)  # fmt: skip
_SORTS = ("path", "-size", "-modified", "title", "-rank")
_FACETS = ["family", "base", "algorithm", "rank", "trainer"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.listing", description=__doc__)
    parser.add_argument("--files", type=int, default=100_000, help="how many (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="of each query (default: %(default)s)")
    options = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        _queries(console, folder, options.files, options.runs)
        _headers(console, Path(folder))


def _queries(console: Console, folder: str, files: int, runs: int) -> None:
    with console.status(f"making {files:,} files"):
        seconds = _fill(folder, files)
    queries = Queries(folder)
    asked = [ListFiles(expression, sort) for expression in _EXPRESSIONS for sort in _SORTS]
    facets = [ListFiles(expression, most=0, facets=_FACETS) for expression in _EXPRESSIONS]
    table = Table("query", "median ms", "99th percentile ms", "worst ms", "worst is", title=f"{files:,} files")
    for name, requests in (("the first 200 rows and the total", asked), ("five facets", facets)):
        for clock, timer in (("CPU", time.thread_time), ("wall", time.perf_counter)):
            taken = sorted(_times(queries, requests, runs, timer))
            times = [one for one, _ in taken]
            worst = taken[-1]
            table.add_row(
                f"{name}, {clock}", f"{statistics.median(times):.1f}", f"{times[int(0.99 * len(times))]:.1f}",
                f"{worst[0]:.1f}", f"{worst[1].expression!r} by {worst[1].sort}",
            )  # fmt: skip
    console.print(table)
    size = os.path.getsize(os.path.join(folder, "catalogue.sqlite")) / 1e6
    console.print(f"rows made in {seconds / files * 1e6:.0f} µs a file; the catalogue has {size:.0f} MB\n")


def _times(
    queries: Queries, requests: list[ListFiles], runs: int, timer: Callable[[], float]
) -> Iterator[tuple[float, ListFiles]]:
    for request in requests:
        queries.answer(request)
        for _ in range(runs):
            started = timer()
            answer = queries.answer(request)
            taken = 1000 * (timer() - started)
            assert isinstance(answer, Files)
            yield taken, request


def _fill(folder: str, files: int) -> float:
    """Write the rows; the seconds that those took which `list` goes through."""
    rng = random.Random(1)

    def word(syllables: int) -> str:
        return "".join(rng.choice(_SYLLABLES) for _ in range(syllables))

    catalog = Catalog(folder)
    for number in range(1, files + 1):
        form = (number % 500, 1, 0, "safetensors", rng.randbytes(32), rng.randbytes(32))
        mtime = rng.randrange(1_700_000_000, 1_760_000_000) * 10**9
        status = rng.choice(("unique", "unique", "duplicate", "grouped"))
        size = rng.randrange(10**6, 10**9)
        catalog.files.save([Row(number, 1, number, size, mtime, 1, 1, status, *form, 0.1, None, 0, 0)])
        family = rng.choice(_FAMILIES)
        path = f"/srv/models/loras/{family}/{word(1)}/{word(3)}_{word(2)}-{number}.safetensors"
        catalog.names.save([(path.encode(), number, 1, None)])
        catalog.facts.save(number, encode(_facts(rng, family, word)), None)
    started = time.perf_counter()
    catalog.facts.refresh(range(1, files + 1), ())
    seconds = time.perf_counter() - started
    catalog.commit(new_generation=True)
    catalog.close()
    return seconds


def _facts(rng: random.Random, family: str | None, word: Callable[[int], str]) -> Facts:
    return Facts(
        family=family, algorithm=rng.choice(("lora", "lora+locon", "dora")), convention="kohya",
        rank=rng.choice((4, 8, 16, 32, 64, 128)), min_rank=4, alpha=rng.choice((4.0, 8.0, 16.0)), modules=722,
        components=("unet", "te1"), dtype=rng.choice(("F16", "BF16", "F32")),
        base=rng.choice(("sd_xl_base_1.0", "flux1-dev", "ponyDiffusionV6XL", "illustriousXL_v01")), title=word(4),
        author=word(3), trainer=rng.choice(("kohya sd-scripts 6364379f17ca", "ai-toolkit 0.1", "OneTrainer")),
        triggers=(word(2), word(2)), tags=tuple((word(2), rng.randrange(1, 99)) for _ in range(20)),
        epoch=rng.randrange(20), steps=rng.randrange(5000), date=f"2025-{rng.randrange(1, 13):02}-11",
        licence="mit", output=word(3), session=str(rng.randrange(10**9)),
    )  # fmt: skip


def _headers(console: Console, folder: Path) -> None:
    """Facts of a header as kohya's trainer writes it, of an SDXL LoRA with 722 modules."""
    tags = {f"tag {number}": 200 - number % 190 for number in range(500)}
    metadata = {
        "ss_output_name": "style", "ss_network_dim": "16", "ss_network_alpha": "8", "ss_epoch": "10",
        "ss_steps": "2000",
        "ss_base_model_version": "sdxl_base_v1-0", "ss_session_id": "123", "modelspec.title": "A style",
        "ss_tag_frequency": json.dumps({"10_style": tags}),
        "ss_dataset_dirs": json.dumps({"10_style": {"n_repeats": 10, "img_count": 200}}),
    }  # fmt: skip
    path = str(folder / "a.safetensors")
    specs = [spec for spec in sdxl(16, width=64) if spec.name.startswith("lora_unet")]
    write_safetensors(path, random_weights(specs, 1, alpha=8), metadata=metadata)
    name = path.encode()
    with open_regular(name) as source:
        read = _least(lambda: read_container(source, name))
        container = read_container(source, name)
    known = _least(lambda: header.facts(container, name))

    def new_layout() -> None:
        header.forget_layouts()
        header.facts(container, name)

    def new_names() -> None:
        canonical.forget_names()
        keys.forget_names()
        new_layout()

    table = Table(
        "a header", "CPU ms, least of 15", title=f"facts of {header.facts(container, name).modules} modules"
    )
    table.add_row("reading it", f"{read:.2f}")
    table.add_row("its facts, of a new layout with new names", f"{_least(new_names):.2f}")
    table.add_row("its facts, of a new layout with known names", f"{_least(new_layout):.2f}")
    table.add_row("its facts, of a layout that is known", f"{known:.2f}")
    console.print(table)


def _least(call: Callable[[], object]) -> float:
    times = []
    for _ in range(15):
        started = time.thread_time()
        call()
        times.append(1000 * (time.thread_time() - started))
    return min(times)


if __name__ == "__main__":
    main()
