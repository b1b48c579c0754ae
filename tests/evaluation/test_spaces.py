"""Feature spaces: what they look at, what they are called, and which programs are never run."""

import hashlib
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from aquatint.base.errors import UserError
from aquatint.evaluation import spaces
from aquatint.evaluation.detector import Classes, Detector
from aquatint.evaluation.metrics import nearest
from aquatint.nets.text import ImageConfig, ImageTower, TextConfig, TextEncoder
from aquatint.nets.tokenizer import Tokenizer
from aquatint.training.data.world import SMALL
from aquatint.weights.clip import Clip


def picture(seed: int, width: int = 64, height: int = 64) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


class Pool(nn.Module):
    """What a TorchScript Inception looks like from outside: means of colours for features."""

    def forward(self, x: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        if not return_features:
            return torch.zeros(1)
        return torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1)


class Broken(nn.Module):
    def forward(self, x: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        return x.mean((2, 3)) / 0.0


class Shapeless(nn.Module):
    def forward(self, x: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        return x.mean()


def script(path: Path, module: nn.Module) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript as a whole
        torch.jit.save(torch.jit.script(module), path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_pixels_are_the_means_of_fields():
    white = np.zeros((64, 64, 3), np.uint8)
    white[:8, 8:16] = 255
    row = spaces.pixels().features([Image.fromarray(white)])
    assert row.shape == (1, 192)
    assert row.reshape(3, 8, 8)[:, 0, 1].tolist() == [1.0] * 3
    assert float(row.sum()) == 3


def test_only_the_middle_square_is_looked_at():
    wide = np.zeros((64, 200, 3), np.uint8)
    wide[:, 68:132] = np.asarray(picture(0))
    for space in (spaces.pixels(), spaces.detector(blank())):
        found = space.features([Image.fromarray(wide), picture(0), picture(1)])
        assert torch.equal(found[0], found[1])
        assert not torch.equal(found[1], found[2])


def blank() -> Detector:
    net = Detector(Classes.of(SMALL))
    net.start(1)
    return net


def test_the_carried_detector_is_a_space():
    space = spaces.detector()
    assert space.distances == ("fd_detector", "kd_detector")
    assert space.digest == hashlib.sha256(spaces.DETECTOR.read_bytes()).hexdigest()
    assert space.features([picture(0), picture(1, 90, 40)]).shape == (2, 160)


def small_clip() -> Clip:
    torch.manual_seed(0)
    tokenizer = Tokenizer.train(["a cat in the snow"], 530)
    text = TextEncoder(TextConfig(width=16, layers=1, heads=2, vocabulary=530, projection=8))
    image = ImageTower(ImageConfig(size=32, patch=16, width=16, layers=1, heads=2, projection=8))
    return Clip(text.eval(), image.eval(), tokenizer, "small", "0" * 64)


def test_clip_looks_one_by_one_and_reads():
    opened = small_clip()
    space = spaces.clip(opened)
    together = space.features([picture(0, 50, 40), picture(1)])
    assert together.shape == (2, 8)
    assert torch.allclose(together[1:], space.features([picture(1)]), atol=1e-6)
    assert spaces.clip_texts(opened, ["a cat"] * 40).shape == (40, 8)


def test_a_program_runs_only_by_its_sum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "pool.pt"
    digest = script(path, Pool())
    loads: list[object] = []
    with monkeypatch.context() as patch:
        patch.setattr(torch.jit, "load", lambda *args, **kwargs: loads.append(args))
        for given in (None, "", "0" * 64, digest[:-1], digest[:16]):
            with pytest.raises(UserError, match=digest):
                spaces.inception(path, given)
    assert loads == []
    space = spaces.inception(path, digest.upper())
    assert space.distances == ("fd_inception", "kd_inception")  # never called FID: it is another file
    grey = Image.new("RGB", (40, 60), (10, 20, 30))
    assert space.features([grey, grey])[1].tolist() == pytest.approx([10, 20, 30, 10, 20, 30], rel=1e-5)
    monkeypatch.setitem(spaces.INCEPTION, digest, "ours")
    assert spaces.inception(path).distances == ("fid", "kid")


def test_bad_programs_and_features_are_told(tmp_path: Path):
    path = tmp_path / "x.pt"
    for module, told in ((Broken(), "not finite"), (Shapeless(), "no row of numbers")):
        space = spaces.inception(path, script(path, module))
        with pytest.raises(UserError, match=told):
            space.features([picture(0)])
    path.write_bytes(b"not a program")
    with pytest.raises(UserError, match="no Inception in TorchScript"):
        spaces.inception(path, hashlib.sha256(b"not a program").hexdigest())
    with pytest.raises(UserError, match="cannot be read"):
        spaces.inception(tmp_path / "nowhere.pt")


def test_features_do_not_depend_on_the_batch():
    pictures = [picture(seed) for seed in range(spaces.BATCH + 3)]
    whole = spaces.pixels().features(pictures)
    assert torch.equal(whole[-1:], spaces.pixels().features(pictures[-1:]))


def test_thumbs_find_the_copy_and_measure_the_rest():
    references = [picture(seed) for seed in range(20)]
    lighter = Image.fromarray(np.clip(np.asarray(references[3]).astype(int) + 10, 0, 255).astype(np.uint8))
    space = spaces.thumbs()
    found = nearest(space.features([references[7], lighter]), space.features(references))
    assert found.which.tolist() == [7, 3]
    assert float(found.distance[0]) == pytest.approx(0.0, abs=0.05)
    assert 8 < float(found.distance[1]) <= 10
