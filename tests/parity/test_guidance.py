"""Guidance against diffusers: its PAG and SAG pipelines over whole paths, FreeU, APG, CFG rescaling, thresholding."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.parity.peers import MAX, difference, noise, unet_twins
from tests.parity.test_networks import SMALL
from torch import Tensor

from aquatint.base.noise import PRIOR, Noise
from aquatint.diffusion.denoisers import Answers, Conditioning, Pair, first, judged, paired, rescaled, scaled, twice
from aquatint.diffusion.grids import leading
from aquatint.diffusion.guidance import blurred, once, projected, running, thresholded, weakened
from aquatint.diffusion.prediction import EPSILON, PREDICTIONS, SAMPLE
from aquatint.diffusion.samplers import SAMPLERS
from aquatint.diffusion.schedule import NoiseSchedule, ScheduleConfig
from aquatint.nets.freeu import freed
from aquatint.nets.perturbed import middle_size, perturbed, watched
from aquatint.nets.unet import Stage

diffusers = pytest.importorskip("diffusers")

SCHEDULE = NoiseSchedule(ScheduleConfig())
TABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
WORDS = {"epsilon": "epsilon", "v": "v_prediction"}
# attention in every stage, so that each has layers to perturb
EVERYWHERE = replace(SMALL["SD15"], stages=(Stage(32, 2), Stage(64, 4), Stage(64, 8)))
STEPS = 5
LATENTS = Noise([3]).normal((4, 16, 16), draw=PRIOR)
CONTEXT, NEGATIVE = noise(1, 77, EVERYWHERE.context, seed=2), noise(1, 77, EVERYWHERE.context, seed=3)
TOLD, AWAY = Conditioning(CONTEXT), Conditioning(NEGATIVE)


def pipeline(kind: str, unet: Any, prediction: str, **options: Any) -> Any:
    """A pipeline of diffusers' round the U-Net, with no text encoder: it is given what the prompts say."""
    made = getattr(diffusers, kind)
    unet.register_to_config(sample_size=64)  # their twin in tests/parity/peers.py has none, which pipelines ask for
    vae = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8), norm_num_groups=4,
    )  # fmt: skip
    scheduler = diffusers.DDIMScheduler(
        steps_offset=1, set_alpha_to_one=False, clip_sample=False, prediction_type=WORDS[prediction], **TABLE
    )
    pipe = made(
        vae=vae, text_encoder=None, tokenizer=None, unet=unet, scheduler=scheduler, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False, **options,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def painted(pipe: Any, guidance: float, **options: Any) -> Tensor:
    made = pipe(
        prompt_embeds=CONTEXT, negative_prompt_embeds=NEGATIVE, latents=LATENTS.clone(), num_inference_steps=STEPS,
        guidance_scale=guidance, output_type="latent", height=128, width=128, **options,
    )  # fmt: skip
    return made.images


@torch.no_grad()
def walked(pair: Pair) -> Tensor:
    *_, last = SAMPLERS["ddim"](first(pair), LATENTS, leading(SCHEDULE, STEPS), Noise([3]), schedule=SCHEDULE)
    return last.x


def close(ours: Tensor, theirs: Tensor, plain: Tensor) -> None:
    """Within the house's bound, where the guidance makes a hundred times as much of a difference."""
    found = difference(ours, theirs)
    assert found.max <= MAX, found
    assert difference(plain, theirs).rms > 100 * MAX


@pytest.mark.parametrize(
    ("prediction", "layers", "places", "guidance", "rescale"),
    [
        ("epsilon", ["mid"], ["middle"], 5.0, 0.0),
        ("v", ["mid"], ["middle"], 5.0, 0.7),
        ("epsilon", ["mid"], ["middle"], 1.0, 0.0),
        ("v", ["down_blocks.1"], ["descent.1"], 1.0, 0.0),
        ("epsilon", ["up_blocks.0.attentions.0", "mid"], ["ascent.0.cells.0", "middle"], 5.0, 0.7),
    ],
)
def test_perturbed_attention(prediction, layers, places, guidance, rescale):
    unet, theirs = unet_twins(EVERYWHERE)
    pipe = pipeline("StableDiffusionPAGPipeline", theirs, prediction, pag_applied_layers=layers)
    yours = painted(pipe, guidance, pag_scale=3.0, guidance_rescale=rescale)
    kind, weak = PREDICTIONS[prediction], perturbed(unet, places)
    asking = once(unet, TOLD) if guidance == 1 else twice(unet, TOLD, AWAY)
    guide = rescaled(weakened(scaled(guidance), weak, [(1.0, TOLD)], 3.0), rescale)
    plain = paired(unet, kind, TOLD, AWAY, guidance, rescale)
    close(walked(judged(asking, guide, kind)), yours, walked(plain))


@pytest.mark.parametrize(("prediction", "guidance"), [("epsilon", 5.0), ("v", 5.0), ("v", 1.0)])
def test_self_attention(prediction, guidance):
    config = replace(EVERYWHERE, stages=tuple(Stage(stage.width, 8) for stage in EVERYWHERE.stages))
    unet, theirs = unet_twins(config)
    theirs.register_to_config(attention_head_dim=8)  # the pipeline takes the number of heads from here
    yours = painted(pipeline("StableDiffusionSAGPipeline", theirs, prediction), guidance, sag_scale=0.75)
    kind = PREDICTIONS[prediction]
    net, seen = watched(unet)

    def looks() -> Tensor:
        found = seen[0]
        assert bool((found > 1).any())
        assert bool((found < 1).any())
        seen.clear()
        return found

    asking, base = (once(net, TOLD), TOLD) if guidance == 1 else (twice(net, TOLD, AWAY), AWAY)
    size = lambda height, width: middle_size(unet, height, width)  # noqa: E731
    guide = blurred(scaled(guidance), unet, base, looks, size, 0.75, 1.0, kind)
    close(walked(judged(asking, guide, kind)), yours, walked(paired(unet, kind, TOLD, AWAY, guidance)))


@pytest.mark.parametrize("size", [(16, 16), (18, 26), (13, 7)])
@pytest.mark.parametrize("name", ["SD15", "every stage", "SD21"])
@torch.no_grad()
def test_freeu(name, size):
    """The first version, which is the one that diffusers has."""
    config = EVERYWHERE if name == "every stage" else SMALL[name]
    unet, theirs = unet_twins(config)
    x, t, context = noise(2, 4, *size), torch.tensor([900.0, 40.0]), noise(2, 77, config.context, seed=2)
    plain = unet(x, t, context)
    theirs.enable_freeu(s1=0.9, s2=0.2, b1=1.3, b2=1.4)
    yours = theirs(x, t, context).sample
    ours = freed(unet, (1.3, 1.4), (0.9, 0.2), version=1)(x, t, context)
    close(ours, yours, plain)
    assert torch.equal(unet(x, t, context), plain)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize(("norm", "momentum"), [(0.0, 0.0), (7.5, -0.75), (7.5, 0.0)])
def test_projected_guidance(eta, norm, momentum):
    """In x0, as the paper has it: diffusers' arithmetic with "original formulation", which takes scale - 1."""
    module = pytest.importorskip("diffusers.guiders.adaptive_projected_guidance")
    buffer = module.MomentumBuffer(momentum) if momentum else None
    guide = projected(9.0, eta, norm, running(momentum), SAMPLE)
    for index in range(4):
        toward, away = noise(2, 4, 8, 8, seed=index), noise(2, 4, 8, 8, seed=100 + index)
        yours = module.normalized_guidance(toward, away, 8.0, buffer, eta, norm, use_original_formulation=True)
        level = SCHEDULE.at(900.0 - 200 * index)
        ours = guide(Answers(away, toward - away, toward, (toward,)), 0 * toward, level)
        assert difference(ours, yours).max <= MAX


def test_thresholding():
    """diffusers' schedulers take a bound of 1."""
    scheduler = diffusers.DDIMScheduler(thresholding=True, dynamic_thresholding_ratio=0.97, sample_max_value=1e6)
    x0 = 2 * noise(3, 4, 8, 8)
    made, _ = thresholded(lambda x, level: (x, x), 0.97, 1.0)(x0, SCHEDULE.at(500))
    torch.testing.assert_close(made, scheduler._threshold_sample(x0))


def test_epsilon_is_told_from_x0():
    """Projection in the net's own words would be another guidance; ours is the paper's, whatever the net predicts."""
    toward, away, x = noise(1, 4, 8, 8, seed=1), noise(1, 4, 8, 8, seed=2), noise(1, 4, 8, 8, seed=3)
    level, module = SCHEDULE.at(600), pytest.importorskip("diffusers.guiders.adaptive_projected_guidance")
    said = projected(9.0, 0.0, 0.0, running(0.0), EPSILON)(Answers(away, toward - away, toward, (toward,)), x, level)
    both = (EPSILON.to_x0(x, out, level) for out in (toward, away))
    yours = module.normalized_guidance(*both, 8.0, None, 0.0, 0.0, use_original_formulation=True)
    assert difference(EPSILON.to_x0(x, said, level), yours).max <= MAX
