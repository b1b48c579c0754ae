"""Who may import whom, read off the source: base < nets | diffusion < families | engines < weights < ..."""

import ast
from pathlib import Path

import pytest

import aquatint

PACKAGE = Path(aquatint.__file__).parent
STOREYS = [
    {"base"},
    {"nets", "diffusion"},
    {"families", "engines"},
    {"weights"},
    {"pipelines", "training"},
    {"evaluation", "scale"},
    {"apps"},
]
STOREY = {room: storey for storey, rooms in enumerate(STOREYS) for room in rooms}
LIGHT = {"base", "nets", "diffusion", "families", "weights", "engines", "training"}  # what must run on a bare cluster
ALLOWED = {"torch", "numpy", "safetensors", "tokenizers", "PIL", "jaxtyping"}
# only for a hub id, for a Parquet table, and where torch is built for CUDA
LAZY = {("weights", "huggingface_hub"), ("training", "pyarrow"), ("engines", "triton")}
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    """The top folder, or the file, of a module below the package; "" for the package's own face."""
    first = path.relative_to(PACKAGE).parts[0]
    return "" if first.startswith("__") else first.removesuffix(".py")


def imports(path: Path) -> list[tuple[str, int]]:
    """(module, line) of every import in a file, wherever it stands."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "aquatint" else []
            found += [(name, node.lineno) for name in names or [node.module or ""]]
    return found


def offences(source_room: str, module: str) -> str:
    """What is wrong with a room importing an aquatint module; empty if nothing is."""
    parts = module.split(".")
    if len(parts) < 2 or parts[1] not in STOREY:
        return ""
    target = parts[1]
    if target == source_room or STOREY[target] < STOREY[source_room]:
        return ""
    return f"{source_room} (storey {STOREY[source_room]}) imports {target} (storey {STOREY[target]})"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path: Path) -> None:
    room = room_of(path)
    if not room:
        return
    assert room in STOREY, f"{room} stands on no storey"
    wrong = [f"{path.name}:{line}: {why}" for module, line in imports(path) if (why := offences(room, module))]
    assert not wrong, wrong


@pytest.mark.parametrize("path", [p for p in FILES if room_of(p) in LIGHT], ids=lambda p: str(p.relative_to(PACKAGE)))
def test_the_rooms_that_train_need_little(path: Path) -> None:
    import sys

    room = room_of(path)
    for module, line in imports(path):
        top = module.split(".")[0]
        fine = top in ALLOWED | {"aquatint"} | set(sys.stdlib_module_names) or (room, top) in LAZY
        assert fine, f"{path}:{line}: {room} imports {top}"


def test_the_layer_test_can_fail() -> None:
    assert offences("nets", "aquatint.diffusion.schedule")
    assert offences("training", "aquatint.pipelines.request")
    assert offences("base", "aquatint.nets.unet")
    assert not offences("apps", "aquatint.base.errors")
