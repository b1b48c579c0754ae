"""Names on the hub: what is fetched from a local stand-in, what never is, and what is said when it is out of reach."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.weights.fake_hub import COMMIT, Hub
from tests.weights.fake_hub import hub as fake_hub

from aquatint.base.errors import UserError
from aquatint.weights import Opened, hub, open_model, save

# The hub's library reads its variables when it is imported, so each case has a process of its own.
SCRIPT = """
import json, sys
from aquatint.base.errors import UserError
from aquatint.weights import open_model
for source, options in json.loads(sys.argv[1]):
    try:
        opened = open_model(source, **options)
        print(json.dumps({"name": opened.name, "digest": opened.digest, "notes": opened.notes}))
    except UserError as error:
        print(json.dumps({"error": str(error)}))
"""


def opened_elsewhere(
    cache: Path, *cases: tuple[str, dict[str, str]], folder: Path | None = None, **variables: str
) -> list:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    environment |= {"HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", **variables}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(cases)], env=environment, cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.fixture(scope="module")
def repository(
    saved: Callable[[str], Path], models: Callable[[str], Opened], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A repository as they are: our folder, a half-precision variant of one net, pickles, code, pictures."""
    folder = tmp_path_factory.mktemp("hub") / "repository"
    shutil.copytree(saved("diffusers"), folder)
    half = save(models("SD15"), folder.parent / "half", "diffusers", variant="fp16")
    shutil.copy(half / "unet/diffusion_pytorch_model.fp16.safetensors", folder / "unet")
    for name in ("unet/diffusion_pytorch_model.bin", "model.ckpt", "pipeline.py", "unet/modeling.py", "README.md"):
        (folder / name).write_text("no")
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker/model.safetensors").write_text("no")
    return folder


@pytest.fixture(scope="module")
def server(repository: Path) -> Hub:
    with fake_hub(repository) as server:
        yield server  # type: ignore[misc]


def test_a_model_comes_from_the_hub_and_then_from_its_cache(
    server: Hub, saved: Callable[[str], Path], tmp_path: Path
) -> None:
    digest = open_model(saved("diffusers")).digest
    plain, half, missing, gated, revision = opened_elsewhere(
        tmp_path,
        ("owner/name", {}),
        ("hub:owner/name", {"variant": "fp16", "revision": COMMIT}),
        ("owner/nothing", {}),
        ("owner/gated", {}),
        ("owner/name", {"revision": "elsewhere"}),
        HF_ENDPOINT=server.url,
    )
    assert plain["digest"] == digest
    assert plain["name"] == half["name"] == "owner/name"
    assert half["digest"] != digest
    assert "vae has no variant fp16: its plain weights are used" in half["notes"]
    assert "neither a file or folder here nor a repository" in missing["error"]
    assert "its owner asks for consent first" in gated["error"]
    assert 'no revision "elsewhere"' in revision["error"]
    fetched = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert "diffusion_pytorch_model.fp16.safetensors" in fetched
    assert not [name for name in fetched if name.endswith((".py", ".bin", ".ckpt", ".md"))]
    assert not list(tmp_path.rglob("safety_checker"))
    # Once more with nobody there: the cache is enough, and what is not in it is one clear error.
    again, absent = opened_elsewhere(
        tmp_path, ("owner/name", {}), ("owner/other", {}), HF_ENDPOINT="http://127.0.0.1:9"
    )
    assert again["digest"] == digest
    assert "cannot be reached" in absent["error"]


def test_what_is_here_comes_first(server: Hub, saved: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "owner").mkdir()
    shutil.copytree(saved("native"), tmp_path / "owner/name")
    before = len(server.asked)
    here, ambiguous = opened_elsewhere(
        tmp_path / "cache", ("owner/name", {}), ("owner/other", {}), folder=tmp_path, HF_ENDPOINT=server.url
    )
    assert here["name"] == "name"
    assert 'Write "hub:owner/other" for the hub' in ambiguous["error"]
    assert len(server.asked) == before


@pytest.mark.parametrize(
    "source", ["./owner/name", "/owner/name", "owner/name/more", "owner/x.safetensors", "name", "a/../b"]
)
def test_a_path_is_never_looked_for_on_the_hub(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "fetch", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(UserError, match="There is nothing at"):
        open_model(source)


def test_what_is_here_has_no_revision(saved: Callable[[str], Path]) -> None:
    with pytest.raises(UserError, match="has no revision"):
        open_model(saved("native"), revision="main")


def test_links_of_the_cache_are_inside(saved: Callable[[str], Path], tmp_path: Path) -> None:
    """The cache's own layout: a snapshot of links to blobs beside it, opened as a path."""
    home = tmp_path / "models--owner--name"
    snapshot = home / "snapshots" / COMMIT
    shutil.copytree(saved("diffusers"), snapshot)
    (home / "blobs").mkdir()
    for number, file in enumerate(sorted(path for path in snapshot.rglob("*") if path.is_file())):
        blob = file.rename(home / "blobs" / str(number))
        file.symlink_to(os.path.relpath(blob, file.parent))
    assert open_model(snapshot).digest == open_model(saved("diffusers")).digest
    weights = snapshot / "unet/diffusion_pytorch_model.safetensors"
    weights.resolve().rename(tmp_path / "outside")
    weights.unlink()
    weights.symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match="leads out of its folder"):
        open_model(snapshot)
