"""What the source never does, and how long its pieces may be."""

import ast
import io
import tokenize
from pathlib import Path

import pytest

import aquatint

PACKAGE = Path(aquatint.__file__).parent
ROOT = PACKAGE.parent.parent
FILES = sorted(PACKAGE.rglob("*.py")) + sorted((ROOT / "recipes").glob("*.py"))
LINES, FUNCTION = 400, 60
NEVER = {
    "torch.load(": "checkpoints are read by our own closed-world readers",
    "pickle.load": "a pickle runs what it likes",
    "manual_seed(": "noise is keyed (base/noise.py), never seeded globally",
    "torch.randn": "noise is keyed (base/noise.py)",
    "torch.rand(": "noise is keyed (base/noise.py)",
    "randn_like(": "noise is keyed (base/noise.py)",
    "torch.randint(": "noise is keyed (base/noise.py)",
    "random.seed(": "noise is keyed (base/noise.py)",
    "strict=False)": "loading is strict, and zip's lengths are meant to agree",
    "import torchvision": "it breaks other packages by being there",
}


def code(path: Path) -> str:
    """A file's source without comments and strings, tokens joined as they stand in it."""
    kept = []
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type not in (tokenize.COMMENT, tokenize.STRING):
            kept.append(token.string)
            if token.string in ("import", "from"):
                kept.append(" ")
    return "".join(kept)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_source_keeps_to_the_house(path: Path) -> None:
    text = code(path)
    for phrase, why in NEVER.items():
        assert phrase.replace(" ", "") not in text.replace(" ", ""), f"{path}: {phrase} ... {why}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pieces_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LINES, f"{path} is over {LINES} lines"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= FUNCTION, f"{path}:{node.lineno}: {node.name} has {length} lines"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_public_is_documented(path: Path) -> None:
    tree = ast.parse(path.read_text())
    if path.read_text().strip():
        assert ast.get_docstring(tree), f"{path} does not say what it holds"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path}:{node.lineno}: {node.name} has no docstring"
