"""InstructPix2Pix, the depth model, latent consistency models, inpainting 2 and Turbo, against diffusers' pipelines.

Whole pipelines with the same small random weights, read by diffusers from folders that we wrote: the same texts,
pictures and noise go in, and the latents that the decoder gets come out.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.parity.peers import difference, randomise
from tests.weights.models import narrow, random_model

os.environ.setdefault("HF_HUB_OFFLINE", "1")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

from aquatint.base.noise import PRIOR, STEP, Noise  # noqa: E402
from aquatint.families import FAMILIES  # noqa: E402
from aquatint.pipelines.bundle import Bundle, load, save  # noqa: E402
from aquatint.pipelines.edit import Edit  # noqa: E402
from aquatint.pipelines.generate import generate  # noqa: E402
from aquatint.pipelines.given import given  # noqa: E402
from aquatint.pipelines.request import Request  # noqa: E402
from aquatint.weights import save as save_opened  # noqa: E402

SEED, STEPS, SIDE = 5, 6, 64
PROMPT, NEGATIVE = "a red cat", "two blue circles"


def photo(seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE // 8, SIDE // 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


@pytest.fixture
def twins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """twins("SD15_PIX2PIX", a pipeline's class): our bundle and theirs, from one folder."""
    gaussian = "diffusers.models.autoencoders.vae.DiagonalGaussianDistribution"
    monkeypatch.setattr(f"{gaussian}.sample", lambda self, generator=None: self.mean)

    def made(name: str, pipeline: Any, sampler: str = "ddim", **options: Any) -> tuple[Bundle, Any]:
        family = narrow(FAMILIES[name])
        defaults = family.defaults if sampler == "lcm" else replace(family.defaults, sampler=sampler, grid="leading")
        opened = random_model(replace(family, defaults=defaults))
        for net in (opened.unet, opened.autoencoder, opened.text):
            randomise(net)
        path = save_opened(opened, tmp_path / f"ours-{name}", "diffusers")
        theirs = pipeline.from_pretrained(path, local_files_only=True, **options)
        theirs.set_progress_bar_config(disable=True)
        return load(path, threads=1, device="cpu"), theirs

    return made


def prior(bundle: Bundle) -> torch.Tensor:
    return Noise((SEED,)).normal(bundle.latent_shape(SIDE, SIDE), draw=PRIOR)


def painted(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, **wishes: Any) -> torch.Tensor:
    """The latents that our decoder gets."""
    got: list[torch.Tensor] = []
    decode = Bundle.decode

    def watched(self: Bundle, latents: torch.Tensor) -> list[Image.Image]:
        got.append(latents)
        return decode(self, latents)

    monkeypatch.setattr(Bundle, "decode", watched)
    words = {"steps": STEPS, "seeds": (SEED,), "negative": NEGATIVE, "grammar": "plain", "width": SIDE, "height": SIDE}
    list(generate(bundle, Request(PROMPT, **(words | wishes))))
    return got[-1]


def theirs_painted(pipeline: Any, **options: Any) -> torch.Tensor:
    return pipeline(prompt=PROMPT, num_inference_steps=options.pop("steps", STEPS), output_type="latent", **options)[0]


@pytest.mark.parametrize(("text", "picture"), [(7.5, 1.5), (3.0, 2.5)])
def test_instruct_pix2pix(text: float, picture: float, twins: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = twins(
        "SD15_PIX2PIX", diffusers.StableDiffusionInstructPix2PixPipeline, safety_checker=None, feature_extractor=None
    )
    options: dict[str, Any] = {"image": photo(), "latents": prior(ours), "negative_prompt": NEGATIVE}
    yours = theirs_painted(theirs, guidance_scale=text, image_guidance_scale=picture, **options)
    edit = Edit(given(photo()))
    mine = painted(ours, monkeypatch, edit=edit, guidance=text, picture_guidance=picture)
    found = difference(mine, yours)
    print(f"InstructPix2Pix, {STEPS} steps, guidance {text} and {picture}: {found}")
    assert found.max < 1e-4
    other = painted(ours, monkeypatch, edit=edit, guidance=text, picture_guidance=picture + 0.1)
    assert difference(other, yours).max > 1e-3  # the inverse control


@pytest.mark.parametrize("offset", [0, 1])
def test_their_offset_is_kept(offset: int, twins: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Pipelines other than the plain ones take steps_offset as the scheduler says it."""
    ours, theirs = twins("SD15_PIX2PIX", diffusers.StableDiffusionInstructPix2PixPipeline, safety_checker=None)
    theirs.register_modules(scheduler=diffusers.DDIMScheduler.from_config(theirs.scheduler.config, steps_offset=offset))
    theirs.save_pretrained(tmp_path / "theirs")
    again = load(tmp_path / "theirs", threads=1, device="cpu")
    assert again.family.schedule.offset == offset
    yours = theirs_painted(theirs, image=photo(), latents=prior(ours), negative_prompt=NEGATIVE)
    wishes = {"edit": Edit(given(photo())), "guidance": 7.5, "picture_guidance": 1.5}
    assert difference(painted(again, monkeypatch, **wishes), yours).max < 1e-4
    assert (difference(painted(ours, monkeypatch, **wishes), yours).max > 1e-3) == (offset == 0)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_depth(strength: float, twins: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = twins(
        "SD21_DEPTH", diffusers.StableDiffusionDepth2ImgPipeline, depth_estimator=None, feature_extractor=None
    )
    module = "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_depth2img"
    monkeypatch.setattr(f"{module}.randn_tensor", lambda *_, **__: prior(ours))
    depth = photo(seed=3).convert("L").resize((48, 40))
    values = torch.from_numpy(np.array(depth, dtype=np.float32))[None]
    options: dict[str, Any] = {"image": photo(), "depth_map": values, "negative_prompt": NEGATIVE}
    yours = theirs_painted(theirs, strength=strength, guidance_scale=7.5, **options)
    edit = Edit(given(photo()), strength=strength)
    mine = painted(ours, monkeypatch, edit=edit, guidance=7.5, depth=given(depth))
    found = difference(mine, yours)
    print(f"depth, strength {strength}: {found}")
    assert found.max < 1e-4
    other = painted(ours, monkeypatch, edit=edit, guidance=7.5, depth=given(photo(seed=4).convert("L")))
    assert difference(other, yours).max > 1e-3


@pytest.mark.parametrize("steps", [1, 4])
def test_latent_consistency(steps: int, twins: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = twins(
        "SD15_LCM", diffusers.LatentConsistencyModelPipeline, "lcm", safety_checker=None, feature_extractor=None
    )
    draws = iter(Noise((SEED,)).normal(ours.latent_shape(SIDE, SIDE), step=k, draw=STEP) for k in range(steps))
    monkeypatch.setattr("diffusers.schedulers.scheduling_lcm.randn_tensor", lambda *_, **__: next(draws))
    yours = theirs_painted(theirs, steps=steps, guidance_scale=8.0, latents=prior(ours), height=SIDE, width=SIDE)
    mine = painted(ours, monkeypatch, steps=steps, guidance=8.0)
    found = difference(mine, yours)
    print(f"LCM, {steps} steps: {found}")
    assert found.max < 1e-4
    assert difference(painted(ours, monkeypatch, steps=steps, guidance=7.0), yours).max > 1e-3


def test_inpainting_2(twins: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = twins("SD21_INPAINT", diffusers.StableDiffusionInpaintPipeline, safety_checker=None)
    mask = Image.new("L", (SIDE, SIDE), 0)
    mask.paste(255, (16, 8, 48, 40))
    options: dict[str, Any] = {"image": photo(), "mask_image": mask, "latents": prior(ours), "strength": 1.0}
    yours = theirs_painted(theirs, negative_prompt=NEGATIVE, guidance_scale=7.5, height=SIDE, width=SIDE, **options)
    edit = Edit(given(photo()), strength=1.0, mask=given(mask), blur=0.0)
    found = difference(painted(ours, monkeypatch, edit=edit, guidance=7.5), yours)
    print(f"inpainting 2: {found}")
    assert found.max < 1e-4


@pytest.mark.parametrize("steps", [1, 4])
def test_turbo(steps: int, twins: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder with the scheduler that SD-Turbo was published with: few steps and no guidance."""
    ours, theirs = twins("SD21", diffusers.StableDiffusionPipeline, safety_checker=None)
    theirs.scheduler = diffusers.EulerDiscreteScheduler.from_config(
        theirs.scheduler.config, timestep_spacing="trailing"
    )
    yours = theirs_painted(theirs, steps=steps, guidance_scale=1.0, latents=prior(ours), height=SIDE, width=SIDE)
    theirs.save_pretrained(tmp_path / "turbo")
    turbo = load(tmp_path / "turbo", threads=1, device="cpu")
    assert (turbo.family.defaults.sampler, turbo.family.defaults.guidance) == ("euler", 1.0)
    mine = painted(turbo, monkeypatch, steps=steps)
    found = difference(mine, yours)
    print(f"Turbo, {steps} steps: {found}")
    assert found.max < 1e-4


@pytest.mark.parametrize(
    ("name", "pipeline"),
    [("SD15_PIX2PIX", "StableDiffusionInstructPix2PixPipeline"), ("SD15_LCM", "LatentConsistencyModelPipeline")],
)
def test_their_folders_come_back(name: str, pipeline: str, twins: Any, tmp_path: Path) -> None:
    ours, theirs = twins(name, getattr(diffusers, pipeline), "lcm", safety_checker=None, feature_extractor=None)
    theirs.save_pretrained(tmp_path / "theirs")
    again = load(tmp_path / "theirs", device="cpu")
    assert (again.family, again.digest) == (ours.family, ours.digest)
    single = save(again, tmp_path / "single.safetensors", "compvis")
    assert load(single, device="cpu").digest == ours.digest
