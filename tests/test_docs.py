"""What the documentation names is there, and it names all that there is."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted({*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*.md")})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    assert not [link for link in links if "://" not in link and not (page.parent / link).exists()]


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/dependencies.md"])
def test_paths_of_the_tree_exist(page: str) -> None:
    """A change goes where the page says, whatever was moved since."""
    folders = "shared|daemon|client|toolkit|tests|bench|systemd|docs"
    paths = re.findall(rf"`((?:{folders})/[\w./-]*\w)`", (ROOT / page).read_text())
    assert len(paths) > 10
    assert not [path for path in paths if not (ROOT / path).exists()]


def test_the_index_has_every_page() -> None:
    index = (ROOT / "docs/README.md").read_text()
    pages = [page.relative_to(ROOT / "docs") for page in (ROOT / "docs").rglob("*.md") if page.name != "README.md"]
    assert not [page for page in pages if f"]({page})" not in index]


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    needed = [*project["dependencies"], *(each for extra in extras for each in extra)]
    names = {re.split(r"[\[<>=]", each)[0] for each in needed} - {"lorad"}
    said = (ROOT / "docs/dependencies.md").read_text()
    assert not [name for name in names if name.removesuffix("-cuda12x") not in said]
