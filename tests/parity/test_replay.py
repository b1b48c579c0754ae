"""Whole pictures against diffusers' pipeline: the same weights, words and seed, in the profile "diffusers".

Its text encoder, U-Net, decoder, scheduler and generator are all its own. Step counts are such that its grids have
whole times: between them it interpolates sigma / alpha, and we its logarithm (docs/reproduction.md).
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.parity.peers import randomise
from tests.weights.models import ODD

import aquatint
from aquatint.nets.autoencoder import Autoencoder
from aquatint.nets.text import TextEncoder
from aquatint.nets.tokenizer import Tokenizer
from aquatint.nets.unet import UNet
from aquatint.pipelines.bundle import Bundle
from aquatint.pipelines.generate import generate
from aquatint.pipelines.profiles import replayed
from aquatint.pipelines.request import Request

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

TABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
LEADING = {"steps_offset": 1, "set_alpha_to_one": False}
CASES: list[tuple[str, int, str, dict[str, Any]]] = [
    ("DDIM", 10, "ddim", {"clip_sample": False, **LEADING}),
    ("PNDM", 10, "plms", {"skip_prk_steps": True, **LEADING}),
    ("EulerDiscrete", 10, "euler", {}),
    ("EulerAncestralDiscrete", 10, "euler_a", {}),
    ("HeunDiscrete", 10, "heun", {}),
    ("DPMSolverMultistep", 9, "dpmpp_2m", {}),
    ("UniPCMultistep", 9, "unipc", {}),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Any]:
    """A small model of random weights as both programs open it from one diffusers folder."""
    nets = UNet(ODD.unet), Autoencoder(ODD.autoencoder), TextEncoder(ODD.text)
    for net in nets:
        randomise(net)
        net.eval().requires_grad_(False)
    made = Bundle(*nets, Tokenizer.packaged(), ODD, "odd", threads=1)
    folder = tmp_path_factory.mktemp("replay") / "odd"
    aquatint.save(made, folder, "diffusers")
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return aquatint.load(folder, threads=1), pipeline


def theirs(pipeline: Any, scheduler: Any, steps: int, seed: int) -> np.ndarray:
    pipeline.scheduler = scheduler
    generator = torch.Generator("cpu").manual_seed(seed)
    made = pipeline(
        "a photo of (a cat:1.2)", negative_prompt="blurry", num_inference_steps=steps, guidance_scale=5.0, width=64,
        height=64, generator=generator,
    )  # fmt: skip
    return np.asarray(made.images[0]).astype(int)


def ours(bundle: Bundle, sampler: str, steps: int, seed: int, profile: str = "diffusers", **more: Any) -> np.ndarray:
    request = Request(
        "a photo of (a cat:1.2)",
        "blurry",
        width=64,
        height=64,
        seeds=(seed,),
        sampler=sampler,
        steps=steps,
        guidance=5.0,
        **more,
    )
    (one,) = replayed(request, profile)
    *_, last = generate(bundle, one)
    assert last.picture is not None
    return np.asarray(last.picture.image).astype(int)


@pytest.mark.parametrize(("peer", "steps", "sampler", "options"), CASES, ids=[case[2] for case in CASES])
def test_the_same_picture(
    model: tuple[Bundle, Any], peer: str, steps: int, sampler: str, options: dict[str, Any]
) -> None:
    bundle, pipeline = model
    scheduler = getattr(diffusers, f"{peer}Scheduler")(**TABLE, **options)
    yours = theirs(pipeline, scheduler, steps, 7)
    mine = ours(bundle, sampler, steps, 7)
    assert yours.std() > 5, "a grey picture proves little"
    assert np.abs(mine - yours).max() <= 1  # of 255: what rounding leaves
    if sampler == "euler_a":  # or the check is blind
        assert np.abs(ours(bundle, sampler, steps, 8) - yours).max() > 20
        assert np.abs(ours(bundle, sampler, steps, 7, "aquatint") - yours).max() > 20


def test_fresh_noise_of_ddim(model: tuple[Bundle, Any]) -> None:
    """eta 1: each step's noise from the generator that gave the first."""
    bundle, pipeline = model
    pipeline.scheduler = diffusers.DDIMScheduler(clip_sample=False, **LEADING, **TABLE)
    generator = torch.Generator("cpu").manual_seed(3)
    options = {"num_inference_steps": 10, "guidance_scale": 5.0, "width": 64, "height": 64, "eta": 1.0}
    yours = np.asarray(pipeline("a cat", generator=generator, **options).images[0]).astype(int)
    request = Request("a cat", width=64, height=64, seeds=(3,), sampler="ddim", steps=10, guidance=5.0, eta=1.0)
    *_, last = generate(bundle, replayed(request, "diffusers")[0])
    assert last.picture is not None
    assert np.abs(np.asarray(last.picture.image).astype(int) - yours).max() <= 1


def test_a_brownian_path(model: tuple[Bundle, Any]) -> None:
    """torchsde's tree in diffusers' scheduler, ours in our sampler: the same picture, and another with another path."""
    bundle, pipeline = model
    yours = theirs(pipeline, diffusers.DPMSolverSDEScheduler(noise_sampler_seed=7, **TABLE), 10, 7)
    mine = {noise: ours(bundle, "dpmpp_sde", 10, 7, noise=noise) for noise in ("cpu+tree", "cpu")}
    assert yours.std() > 5, "a grey picture proves little"
    assert np.abs(mine["cpu+tree"] - yours).max() <= 1
    assert np.abs(mine["cpu"] - yours).max() > 20


def test_the_folder_is_the_model(model: tuple[Bundle, Any]) -> None:
    bundle, pipeline = model
    assert isinstance(bundle, Bundle)
    assert Path(pipeline.config._name_or_path).name == "odd"
    assert bundle.file is None  # of a folder of several files no web UI has a hash
