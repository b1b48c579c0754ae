"""Pictures in other number formats and on other devices than the tests' usual float32 on the CPU."""

from typing import Any

import numpy as np
import pytest
import torch

import aquatint
from aquatint.pipelines.bundle import Bundle

CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))
HOW: dict[str, Any] = {"prompt": "a red apple", "seed": 11, "width": 64, "height": 64, "steps": 4}


@pytest.fixture(scope="module")
def usual() -> Bundle:
    return aquatint.load(device="cpu", dtype="float32", threads=1)


def pixels(bundle: Bundle, **wishes: Any) -> np.ndarray:
    return np.asarray(bundle.paint(**{**HOW, **wishes}).image).astype(int)


def kinds(bundle: Bundle) -> set[tuple[str, torch.dtype]]:
    nets = (bundle.unet, bundle.autoencoder, bundle.text)
    return {(weight.device.type, weight.dtype) for net in nets for weight in net.parameters()}


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize(("dtype", "mean"), [("float32", 0.05), ("float16", 0.5), ("bfloat16", 3.0)])
def test_the_same_picture(usual: Bundle, device: str, dtype: str, mean: float) -> None:
    """To rounding, in steps of 1/255; weights are where and what was asked for, and the key says so."""
    bundle = aquatint.load(device=device, dtype=dtype, threads=1)
    assert kinds(bundle) == {(device, getattr(torch, dtype))}
    assert bundle.key.dtype == dtype
    assert (bundle.key.device == "cpu") == (device == "cpu")
    got = pixels(bundle)
    assert np.abs(got - pixels(usual)).mean() < mean
    assert np.array_equal(got, pixels(bundle))


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_half_precision_for_an_edit(usual: Bundle, device: str) -> None:
    """Pictures go in and come out through the same device and number format."""
    picture = usual.paint(**HOW).image
    edit = aquatint.Edit(aquatint.given(picture), strength=0.5)
    bundle = aquatint.load(device=device, dtype="float16", threads=1)
    assert np.abs(pixels(bundle, edit=edit) - pixels(usual, edit=edit)).mean() < 1.0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_picture_on_cuda_does_not_depend_on_its_company() -> None:
    bundle = aquatint.load(device="cuda")
    request = aquatint.Request(**{**{k: v for k, v in HOW.items() if k != "seed"}, "seeds": (3, 11)})
    two = [progress.picture for progress in aquatint.generate(bundle, request) if progress.picture]
    assert np.array_equal(np.asarray(two[1].image).astype(int), pixels(bundle))
