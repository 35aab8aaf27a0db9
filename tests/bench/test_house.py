"""The figures of the house are those of the source: of a tree that is counted by hand, and of this project."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from bench.house import Figures, measure, printed

ROOT = Path(__file__).parents[2]
TREE = {
    "shared/loracore/__init__.py": "",
    "shared/loracore/errors.py": "x = 1\n" * 40,
    "daemon/lorad/__init__.py": "",
    "daemon/lorad/top.py": (
        "from lorad import low\nfrom loracore.errors import x\n\n\ndef long():\n" + "    x()\n" * 60
    ),
    "daemon/lorad/low.py": (
        "def late():\n    from lorad.top import long  # noqa: PLC0415 - a circle\n\n\n"
        "try:\n    late()\nexcept Exception:  # noqa: BLE001\n    pass\n"
        "try:\n    late()\nexcept Exception:\n    # Whatever it is, the next one is tried.\n    pass\n"
        "try:\n    late()\nexcept BaseException:\n    late()\n    raise\n"
    ),
    "client/loractl/desk.py": (
        "class Large:\n" + "".join(f"    def m{number}(self): ...\n" for number in range(16)) + "\n" * 30
    ),
    "toolkit/lorakit/job.py": (
        '"""About reflink."""\n\nKINDS = ("reflink", "reflinked")\n\n\nclass ActingProcess: ...\n'
    ),
    "pyproject.toml": (
        '[project.scripts]\nlorad = "lorad.top:long"\n'
        '[[tool.importlinter.contracts]]\ntype = "layers"\ncontainers = ["lorad"]\nlayers = ["top", "low"]\n'
    ),
}  # fmt: skip


def tiny(root: Path) -> Figures:
    for name, text in TREE.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return measure(root)


def test_a_tiny_tree_is_counted(tmp_path: Path) -> None:
    found = tiny(tmp_path)
    assert found.modules == {"shared": 2, "daemon": 3, "client": 1, "toolkit": 1}
    assert found.lines["shared"] == 40
    assert found.small_modules == ["lorad.low 18", "lorakit.job 6"]
    assert found.large_classes == ["loractl.desk.Large 16"]
    assert found.long_functions == ["lorad.top.long 61"]
    assert found.one_importer == ["loracore.errors < lorad.top", "lorad.low < lorad.top"]
    assert found.circles == [["lorad.low", "lorad.top"]]
    assert found.upward == ["lorad.low > lorad.top"]
    assert (found.broad_excepts, found.broad_excepts_without_reason) == (2, ["lorad.low:7"])
    assert found.late_imports == 1
    assert found.private_names == ["loractl.desk", "lorakit.job.ActingProcess"]


def test_prose_and_longer_words_do_not_name_a_member(tmp_path: Path) -> None:
    assert tiny(tmp_path).cost_of_change["dedupe action"]["reflink"] == 1
    (tmp_path / "toolkit/lorakit/job.py").write_text('"""About reflink."""\n\nKIND = "reflinked"  # not reflink\n')
    assert measure(tmp_path).cost_of_change["dedupe action"]["reflink"] == 0


def test_each_figure_is_printed(tmp_path: Path) -> None:
    text = "\n".join(printed(tiny(tmp_path)))
    for line in (
        "classes over 15 methods: 1",
        "broad excepts (2) without a reason: 1",
        "    lorad.low > lorad.top",
    ):
        assert line in text.splitlines()


def test_the_project_is_measured_without_being_imported() -> None:
    """The law holds in it, and every member that stands for a kind of change exists."""
    command = [
        sys.executable,
        "-S",
        "-c",
        "import sys; from bench import house; sys.argv = ['', '--json']; house.main()",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = Figures(**json.loads(done.stdout))
    assert sum(found.modules.values()) > 100
    assert not found.upward
    assert all(count for counts in found.cost_of_change.values() for count in counts.values())
