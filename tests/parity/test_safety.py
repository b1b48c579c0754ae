"""The safety checker against diffusers' own, on random weights: the same verdicts, and how near each concept is."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.fixtures import tiny_bundle
from tests.parity.peers import noise, randomise

from aquatint.base.errors import UserError
from aquatint.pipelines.generate import generate
from aquatint.pipelines.preprocess import clip_pixels
from aquatint.pipelines.request import Request
from aquatint.pipelines.safety import Flagged
from aquatint.weights.safety import open_safety

pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker  # noqa: E402

TOWER = {
    "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 56,
    "patch_size": 14, "projection_dim": 48, "hidden_act": "quick_gelu",
}  # fmt: skip


def checker(limit: float = 0.22) -> Any:
    """diffusers' checker with random weights and a limit that some pictures pass."""
    theirs = StableDiffusionSafetyChecker(transformers.CLIPConfig(vision_config=TOWER, projection_dim=48)).eval()
    randomise(theirs)
    with torch.no_grad():
        theirs.concept_embeds_weights.fill_(limit).add_(0.02 * noise(17, seed=5))
        theirs.special_care_embeds_weights.fill_(0.07)
    return theirs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    checker().save_pretrained(tmp_path / "safety_checker")
    return tmp_path / "safety_checker"


def test_the_same_verdicts(folder: Path) -> None:
    theirs, ours = checker(), open_safety(folder)
    pictures = 2 * noise(24, 3, 56, 56)
    with torch.no_grad():
        mine = ours.net(pictures)
        embeds = torch.nn.functional.normalize(theirs.visual_projection(theirs.vision_model(pictures)[1]))
        near = embeds @ torch.nn.functional.normalize(theirs.concept_embeds).T - theirs.concept_embeds_weights
        care = embeds @ torch.nn.functional.normalize(theirs.special_care_embeds).T - theirs.special_care_embeds_weights
        flags = theirs(pictures, np.zeros((24, 8, 8, 3)))[1]
    cared = ((care > 0.0005).any(1) * 0.01)[:, None]
    assert 0 < (cared > 0).sum() < 24  # or the special concepts are not tested
    torch.testing.assert_close(mine.scores, near + cared, rtol=0, atol=0.0011)
    assert mine.flagged.tolist() == flags
    assert 0 < sum(flags) < 24  # or the check is blind


def test_pictures_as_the_tower_sees_them() -> None:
    theirs = transformers.CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    for size in ((64, 64), (120, 77), (56, 300), (57, 56)):
        image = Image.effect_noise(size, 90).convert("RGB")
        yours = theirs(image, return_tensors="pt").pixel_values
        assert (clip_pixels(image, 56) - yours).abs().max() < 1e-5, size


def test_other_spellings(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    old = {name.replace("vision_model.", "vision_model.vision_model.", 1): tensor for name, tensor in weights.items()}
    old["vision_model.vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    save_file(old, tmp_path / "old.safetensors")
    torch.save(old, tmp_path / "old.bin")
    x = noise(2, 3, 56, 56)
    expected = open_safety(folder).net(x).scores
    for name in ("old.safetensors", "old.bin"):
        assert torch.equal(open_safety(tmp_path / name).net(x).scores, expected)


@pytest.mark.parametrize("change", ["missing", "extra", "shape", "nan", "heads", "whole"])
def test_what_is_no_checker(folder: Path, tmp_path: Path, change: str) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    if change == "missing":
        del weights["vision_model.pre_layrnorm.bias"]
    elif change == "extra":
        weights["text_model.x"] = torch.zeros(1)
    elif change == "shape":
        weights["special_care_embeds_weights"] = torch.zeros(4)
    elif change == "nan":
        weights["concept_embeds"][0, 0] = float("nan")
    elif change == "heads":
        weights["vision_model.embeddings.position_embedding.weight"] = torch.zeros(11, 128)
    else:
        weights = {"x": torch.zeros(1)}
    save_file(weights, tmp_path / "bad.safetensors")
    with pytest.raises(UserError, match="bad"):
        open_safety(tmp_path / "bad.safetensors")
    with pytest.raises(UserError, match=r"without model\.safetensors"):
        open_safety(tmp_path)


def test_what_becomes_of_flagged_pictures(folder: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    always = checker(-2.0)
    always.save_pretrained(tmp_path / "strict")
    request = Request("a red apple", seeds=(3,), steps=2)
    plain = tiny_bundle()
    strict, never = replace(plain, safety=open_safety(tmp_path / "strict")), tmp_path / "lax"
    checker(2.0).save_pretrained(never)
    lax = replace(plain, safety=open_safety(never))

    def paint(bundle: Any, **changes: Any) -> Any:
        *_, last = generate(bundle, replace(request, **changes))
        return last.picture

    unasked = paint(strict)
    assert unasked.flagged is None
    assert unasked.encode() == paint(plain).encode()
    noted = paint(strict, safety="note")
    assert noted.flagged is True
    assert noted.image.tobytes() == unasked.image.tobytes()
    assert [file.kind for file in noted.record.files] == ["safety"]
    blurred = paint(strict, safety="blur")
    assert blurred.flagged is True
    assert blurred.image.tobytes() != unasked.image.tobytes()
    assert np.asarray(blurred.image).std() < np.asarray(unasked.image).std()
    with pytest.raises(Flagged, match="seed 3"):
        paint(strict, safety="refuse")
    passed = paint(lax, safety="refuse")
    assert passed.flagged is False
    assert passed.image.tobytes() == unasked.image.tobytes()
    with pytest.raises(UserError, match="without a safety checker"):
        generate(plain, replace(request, safety="note"))
    with pytest.raises(UserError, match="safety"):
        replace(request, safety="hide")
