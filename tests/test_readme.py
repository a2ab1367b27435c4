"""README and docs say what the code does: their Python runs, their recipes load, their commands exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from curate.cli import cli
from curate.recipes import load_recipe

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
pytestmark = pytest.mark.repository


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def test_the_python_of_the_readme_runs(tmp_path: Path) -> None:
    (code,) = blocks(ROOT / "README.md", "python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "rows kept" in done.stdout


def test_the_recipe_in_the_docs_is_the_shipped_one(tmp_path: Path) -> None:
    (text,) = blocks(ROOT / "docs" / "recipes.md", "yaml")
    path = tmp_path / "r.yaml"
    path.write_text(text)
    shipped, documented = load_recipe("familiarity-top50"), load_recipe(str(path))
    assert documented.steps == shipped.steps
    assert documented.unscored == shipped.unscored


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_docs_exist(page: Path) -> None:
    for line in page.read_text(encoding="utf-8").splitlines():
        for word in re.findall(r"^\s+curate ([a-z]+)", line):
            assert word in cli.commands, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_in_the_docs_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_nothing_is_left_to_fill_in(page: Path) -> None:
    assert not re.search(r"@[A-Z]+@", page.read_text(encoding="utf-8"))
