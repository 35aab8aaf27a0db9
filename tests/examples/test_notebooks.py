"""The notebooks in `examples/` run from top to bottom, and what their text claims holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

_EXAMPLES = Path(__file__).parents[2] / "examples"
_NOTEBOOKS = sorted(_EXAMPLES.glob("*.ipynb"))
#: Runs the code of a notebook as one program, and prints what its variables of some names are in the end.
_RUN = """
import json, sys
with open(sys.argv[1], encoding="utf-8") as file:
    cells = json.load(file)["cells"]
names = {"__name__": "__main__"}
for number, cell in enumerate(cells, 1):
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
print(json.dumps({name: names[name] for name in sys.argv[2:]}))
"""


def _run(notebook: str, scratch: Path, *names: str) -> dict[str, Any]:
    """What variables of the notebook are in the end. A warning in it is an error."""
    settings = {"MPLBACKEND": "agg", "TMPDIR": os.fspath(scratch), "PYTHONDONTWRITEBYTECODE": "1"}
    # On a busy machine, threads over such small matrices wait for each other most of the time.
    environment = os.environ | settings | dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1")
    # Without a window there is nothing to show, and pyplot says so.
    warnings = ["-W", "error", "-W", "ignore:FigureCanvasAgg is non-interactive:UserWarning"]
    done = subprocess.run(
        [sys.executable, *warnings, "-c", _RUN, notebook, *names],
        cwd=_EXAMPLES, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not list(scratch.iterdir()), "the notebook leaves files behind"
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_blending_is_wrong_by_factors_and_exact_side_by_side(tmp_path: Path) -> None:
    """The notebook's numbers say what its text says: averaged factors are far off, joined ones are not."""
    names = ("factorwise", "concatenated", "errors", "resized", "cosine", "merged", "shrunk")
    found = _run("blending.ipynb", tmp_path, *names)
    assert found["factorwise"] > 0.5
    assert found["concatenated"] < 1e-12
    errors = [found["errors"][str(rank)] for rank in range(1, 17)]
    assert errors == sorted(errors, reverse=True)
    assert errors[7] < found["factorwise"] / 4
    assert errors[15] < 1e-7
    assert found["resized"] == pytest.approx(errors[7])
    assert abs(found["cosine"]) < 0.1
    assert found["merged"] < 1e-6
    assert found["shrunk"] == pytest.approx(errors[7], rel=1e-4)


def test_importance_tells_a_style_from_a_person(tmp_path: Path) -> None:
    """The blocks that the text speaks of are the ones that carry the demo LoRAs."""
    found = _run("importance_of_layers.ipynb", tmp_path, "found", "shares", "needed", "row")
    assert found["found"]["covering"][0].startswith("up_blocks.3")
    assert found["found"]["covered"] >= 0.9
    assert found["shares"]["person"]["attn2"] > 0.5 > found["shares"]["style"]["attn2"]
    assert max(found["needed"]) < 8
    assert found["row"]["dW.peak"] > 4


@pytest.mark.parametrize("path", _NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_are_kept_without_what_they_printed(path: Path) -> None:
    """Format 4, a Python kernel, and no outputs: a change of theirs is a change of text or code."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    assert notebook["metadata"]["language_info"]["name"] == "python"
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert code
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
