"""Documents say what is so: links lead somewhere, the tour's functions exist and keep to their budget, examples run."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")])
LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]+)[^)]*\)")
WALKS = {"prompt -> picture": (9, 14), "image -> loss": (6, 8)}


def links(text: str) -> list[tuple[str, str]]:
    """(words, target) of the relative links of a page."""
    return [(words, target) for words, target in LINK.findall(text) if "://" not in target]


def names(path: Path) -> set[str]:
    """Functions, methods and classes defined in a file."""
    kinds = ast.FunctionDef | ast.ClassDef
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    missing = [target for _, target in links(page.read_text()) if not (page.parent / target).exists()]
    assert not missing, f"{page}: {missing}"


@pytest.mark.parametrize(("walk", "budget"), WALKS.items())
def test_the_tour_keeps_to_its_budget(walk: str, budget: tuple[int, int]) -> None:
    tour = ROOT / "docs" / "tour.md"
    section = tour.read_text().split(f"## {walk}\n")[1].split("\n## ")[0]
    steps = [(words.strip("`"), (tour.parent / target).resolve()) for words, target in links(section)]
    for name, path in steps:
        assert name in names(path), f"{path} defines no {name}"
    files, functions = {path for _, path in steps}, set(steps)
    assert 4 <= len(files) <= budget[0], [path.name for path in files]
    assert len(functions) <= budget[1], functions


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_examples_run_and_are_short(example: Path, tmp_path: Path) -> None:
    assert len(example.read_text().splitlines()) <= 40
    done = subprocess.run([sys.executable, str(example)], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
