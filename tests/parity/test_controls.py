"""ControlNet, T2I-Adapter, IP-Adapter, CLIP's image half against diffusers and transformers: nets and trajectories."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import diffusers
import transformers
from tests.fixtures import tiny_bundle
from tests.parity.control_peers import hint_of, put_prompts, their_adapter, their_control
from tests.parity.peers import Difference, difference, noise, unet_twins
from tests.weights import control_files
from tests.weights.control_files import TOWER, filled

from aquatint.base.noise import Noise
from aquatint.diffusion.denoisers import Conditioning, Net, guided
from aquatint.diffusion.grids import GRIDS
from aquatint.diffusion.joined import switched
from aquatint.diffusion.prediction import PREDICTIONS
from aquatint.diffusion.samplers import SAMPLERS
from aquatint.diffusion.schedule import NoiseSchedule, ScheduleConfig
from aquatint.families import SD15, Family
from aquatint.nets.control import Control, ControlConfig, ControlNet, controlled
from aquatint.nets.picture_prompt import prompted
from aquatint.nets.text import ImageTower
from aquatint.nets.unet import Stage, UNetConfig
from aquatint.pipelines.given import given
from aquatint.pipelines.preprocess import clip_pixels
from aquatint.pipelines.steering import Controls, tokens_of
from aquatint.weights.controls import build, fit, open_control
from aquatint.weights.towers import build_tower, open_tower

# Stable Diffusion's shapes with narrow stages; XL's is told a vector and does not attend at full size.
SMALL = replace(SD15.unet, stages=(Stage(32, 4), Stage(64, 4), Stage(96, 4), Stage(96, 4, depth=0)), context=48)
LARGE = UNetConfig(
    stages=(Stage(32, 1, depth=0), Stage(64, 2, depth=2), Stage(96, 3, depth=3)),
    middle=3, context=40, vector=56, linear=True,
)  # fmt: skip
FAMILIES = {"SD": replace(SD15, unet=SMALL), "XL": replace(SD15, unet=LARGE)}
T = torch.tensor([981.0, 21.0])
TABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}


def told(family: Family, batch: int = 2) -> tuple[Tensor, Tensor, Tensor | None]:
    """x, context, vector."""
    config = family.unet
    vector = noise(batch, config.vector, seed=4) if config.vector else None
    return noise(batch, 4, 16, 16), noise(batch, 11, config.context, seed=2), vector


def within(ours: Tensor, theirs: Tensor) -> Difference:
    found = difference(ours, theirs)
    assert found.within, found
    return found


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_controlnet(name: str) -> None:
    ours = control_files.control(FAMILIES[name])
    theirs = their_control(ours)
    x, context, vector = told(FAMILIES[name])
    hint = hint_of(5, 128, 128)
    skips, middle = ours(x, T, context, vector, ours.prepare(hint))
    found = theirs(x, T, context, hint.expand(2, -1, -1, -1), class_labels=vector)
    assert len(skips) == len(found.down_block_res_samples)
    for mine, yours in zip([*skips, middle], [*found.down_block_res_samples, found.mid_block_res_sample], strict=True):
        within(mine, yours)


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_two_controlnets_on_a_unet(name: str) -> None:
    unet, their_unet = unet_twins(FAMILIES[name].unet)
    x, context, vector = told(FAMILIES[name])
    nets = [control_files.control(FAMILIES[name], seed) for seed in (1, 2)]
    hints, weights = [hint_of(seed, 128, 128) for seed in (5, 6)], [0.8, 0.3]
    steered = controlled(unet, [Control(n, n.prepare(h), w) for n, h, w in zip(nets, hints, weights, strict=True)])
    several = diffusers.MultiControlNetModel([their_control(net) for net in nets])
    down, middle = several(
        x, T, context, [hint.expand(2, -1, -1, -1) for hint in hints], weights, class_labels=vector, return_dict=False
    )
    wanted = their_unet(
        x, T, context, class_labels=vector, down_block_additional_residuals=down, mid_block_additional_residual=middle
    ).sample
    within(steered(x, T, context, vector), wanted)
    assert difference(unet(x, T, context, vector), wanted).rms > 0.01, "the controls do nothing"


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_t2i_adapter_on_a_unet(name: str, channels: int) -> None:
    unet, their_unet = unet_twins(FAMILIES[name].unet)
    x, context, vector = told(FAMILIES[name])
    ours, hint = control_files.adapter(FAMILIES[name], channels=channels), hint_of(5, 128, 128, channels)
    theirs = their_adapter(ours)
    features, wanted = ours(hint), theirs(hint)
    assert len(features) == len(wanted) == 4
    for mine, yours in zip(features, wanted, strict=True):
        within(mine, yours)
    weighed = [(0.7 * feature).expand(2, -1, -1, -1).clone() for feature in wanted]
    answer = their_unet(x, T, context, class_labels=vector, down_intrablock_additional_residuals=weighed).sample
    within(controlled(unet, features=[(features, 0.7)])(x, T, context, vector), answer)
    assert difference(unet(x, T, context, vector), answer).rms > 0.01, "the adapter does nothing"


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_ip_adapters_on_a_unet(name: str) -> None:
    """A plain and a plus one, with their own weights, on one U-Net."""
    unet, their_unet = unet_twins(FAMILIES[name].unet)
    x, context, vector = told(FAMILIES[name])
    before = unet(x, T, context, vector)
    plain, plus = control_files.prompt(FAMILIES[name], 1), control_files.prompt(FAMILIES[name], 2, plus=True)
    embed, states = noise(2, TOWER.projection, seed=7), noise(2, TOWER.side**2 + 1, TOWER.width, seed=8)
    put_prompts(their_unet, [plain, plus], [0.6, 1.2])
    seen = {"image_embeds": [embed[:, None], states[:, None]]}
    wanted = their_unet(x, T, context, class_labels=vector, added_cond_kwargs=seen).sample
    tokens = [plain(embed), plus(states)]
    projections = their_unet.encoder_hid_proj(seen["image_embeds"])
    for mine, yours in zip(tokens, projections, strict=True):
        within(mine, yours.flatten(1, 2))
    steered = prompted(unet, [(plain, 0.6), (plus, 1.2)])
    within(steered(x, T, torch.cat([context, *tokens], dim=1), vector), wanted)
    assert difference(before, wanted).rms > 0.01, "the adapters do nothing"
    assert unet(x, T, context, vector).equal(before), "the U-Net has changed"


@torch.no_grad()
def test_the_comparison_can_fail() -> None:
    ours = control_files.control(FAMILIES["SD"])
    theirs, (x, context, _), hint = their_control(ours), told(FAMILIES["SD"]), hint_of(5, 128, 128)
    ours.zero.weight.data.mul_(1.001)
    _, middle = ours(x, T, context, None, ours.prepare(hint))
    assert not difference(middle, theirs(x, T, context, hint.expand(2, -1, -1, -1)).mid_block_res_sample).within


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "pickle"])
@pytest.mark.parametrize("name", FAMILIES)
def test_what_diffusers_saves_opens_here(name: str, safe: bool, tmp_path: Path) -> None:
    """Folders with the config.json that diffusers writes, heads and all."""
    ours = control_files.control(FAMILIES[name])
    their_control(ours).save_pretrained(tmp_path / "control", safe_serialization=safe)
    made = build(fit(open_control(tmp_path / "control"), FAMILIES[name]))
    assert isinstance(made, ControlNet)
    assert made.config == ours.config
    adapter = control_files.adapter(FAMILIES[name])
    their_adapter(adapter).save_pretrained(tmp_path / "adapter", safe_serialization=safe)
    for one, two in ((made, ours), (build(fit(open_control(tmp_path / "adapter"), FAMILIES[name])), adapter)):
        pairs = zip(one.state_dict().items(), two.state_dict().items(), strict=True)
        assert all(a == b and x.equal(y) for (a, x), (b, y) in pairs)


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "pickle"])
def test_what_transformers_saves_opens_here(safe: bool, tmp_path: Path) -> None:
    ours, theirs = tower_twins()
    if safe:
        theirs.save_pretrained(tmp_path)
    else:
        theirs.config.save_pretrained(tmp_path)
        torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    made = build_tower(open_tower(tmp_path))
    assert made.config == ours.config
    assert all(a.equal(b) for a, b in zip(made.state_dict().values(), ours.state_dict().values(), strict=True))


def tower_twins() -> tuple[ImageTower, Any]:
    """Our image tower and transformers' with its weights."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    ours = control_files.tower()
    theirs = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=TOWER.width,
            intermediate_size=TOWER.hidden,
            projection_dim=TOWER.projection,
            num_hidden_layers=TOWER.layers,
            num_attention_heads=TOWER.heads,
            image_size=TOWER.size,
            patch_size=TOWER.patch,
            hidden_act=TOWER.activation,
        )
    ).eval()
    (places, *_) = control_files.spellings(ours).values()
    theirs.load_state_dict(control_files.spelled(ours, places), strict=True)
    return ours, theirs


@torch.no_grad()
def test_image_tower() -> None:
    ours, theirs = tower_twins()
    pictures = noise(2, 3, TOWER.size, TOWER.size)
    found = theirs(pictures, output_hidden_states=True)
    within(ours(pictures), found.image_embeds)
    within(ours.states(pictures)[-2], found.hidden_states[-2])


@pytest.mark.parametrize("size", [(224, 224), (300, 200), (97, 431), (640, 641), (31, 224)])
def test_what_clip_sees(size: tuple[int, int]) -> None:
    from transformers import CLIPImageProcessorPil

    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    wanted = CLIPImageProcessorPil()(picture, return_tensors="pt").pixel_values
    assert (clip_pixels(picture, 224) - wanted).abs().max() < 1e-5


Spans = list[tuple[int, Net]]


def ours_along(spans: Spans, cond: Conditioning, away: Conditioning, steps: int, start: Tensor) -> Tensor:
    """Our DDIM trajectory, asked of one net after the other."""
    schedule = NoiseSchedule(ScheduleConfig())
    levels = GRIDS["leading"](schedule, steps)
    prediction = PREDICTIONS["epsilon"]
    parts = [(levels[until], guided(net, prediction, cond, away, 5.0)) for until, net in spans]
    *_, last = SAMPLERS["ddim"](switched(parts), start, levels, Noise([0]), schedule=schedule)
    return last.x


def pipeline_with(kind: str, unet: Any, **parts: Any) -> Any:
    """diffusers' pipeline of a kind with this U-Net; texts come as embeddings and latents go out."""
    config = transformers.CLIPTextConfig(
        hidden_size=SMALL.context, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, vocab_size=600
    )
    vae = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 4, 4),
        norm_num_groups=2,
        layers_per_block=1,
    )
    parts = {"feature_extractor": None} | parts
    made = getattr(diffusers, kind)(
        vae=vae,
        text_encoder=transformers.CLIPTextModel(config),
        tokenizer=None,
        unet=unet,
        scheduler=diffusers.DDIMScheduler(steps_offset=1, set_alpha_to_one=False, **TABLE),
        safety_checker=None,
        requires_safety_checker=False,
        **parts,
    )
    made.set_progress_bar_config(disable=True)
    return made


STEPS, START = 8, noise(1, 4, 16, 16, seed=30)
COND, AWAY = (Conditioning(noise(1, 11, SMALL.context, seed=seed)) for seed in (21, 22))
COMMON = {
    "prompt_embeds": COND.context,
    "negative_prompt_embeds": AWAY.context,
    "num_inference_steps": STEPS,
    "guidance_scale": 5.0,
    "latents": START,
    "output_type": "latent",
}


def acting(start: float, end: float) -> list[int]:
    """The steps at which a control acts."""
    return [step for step in range(STEPS) if not (step / STEPS < start or (step + 1) / STEPS > end)]


def spans_of(net_at: Callable[[int], Net]) -> Spans:
    return [(step + 1, net_at(step)) for step in range(STEPS)]


@torch.no_grad()
def test_a_trajectory_with_one_controlnet() -> None:
    unet, their_unet = unet_twins(SMALL)
    net, hint = control_files.control(FAMILIES["SD"], 1), hint_of(5, 128, 128)
    pipeline = pipeline_with("StableDiffusionControlNetPipeline", their_unet, controlnet=their_control(net))
    wanted = pipeline(image=hint, controlnet_conditioning_scale=0.9, **COMMON).images
    steered = controlled(unet, [Control(net, net.prepare(hint), 0.9)])
    within(ours_along([(STEPS, steered)], COND, AWAY, STEPS, START), wanted)


@torch.no_grad()
def test_a_trajectory_with_two_controlnets_that_begin_and_end() -> None:
    unet, their_unet = unet_twins(SMALL)
    nets, hints = [control_files.control(FAMILIES["SD"], seed) for seed in (1, 2)], [hint_of(5, 128, 128)] * 2
    pipeline = pipeline_with(
        "StableDiffusionControlNetPipeline", their_unet, controlnet=[their_control(net) for net in nets]
    )
    starts, ends, weights = [0.0, 0.3], [0.5, 0.8], [0.9, 0.4]
    wanted = pipeline(
        image=hints,
        controlnet_conditioning_scale=weights,
        control_guidance_start=starts,
        control_guidance_end=ends,
        **COMMON,
    ).images

    def net_at(step: int) -> Net:
        rows = zip(nets, hints, weights, starts, ends, strict=True)
        on = [Control(n, n.prepare(h), w) for n, h, w, s, e in rows if step in acting(s, e)]
        return controlled(unet, on) if on else unet

    assert acting(0.0, 0.5) == [0, 1, 2, 3]
    assert acting(0.3, 0.8) == [3, 4, 5]
    within(ours_along(spans_of(net_at), COND, AWAY, STEPS, START), wanted)


@torch.no_grad()
def test_a_trajectory_with_a_t2i_adapter() -> None:
    unet, their_unet = unet_twins(SMALL)
    net, hint = control_files.adapter(FAMILIES["SD"], 1), hint_of(5, 128, 128)
    pipeline = pipeline_with("StableDiffusionAdapterPipeline", their_unet, adapter=their_adapter(net))
    wanted = pipeline(image=hint, adapter_conditioning_scale=0.8, height=128, width=128, **COMMON).images
    steered = controlled(unet, features=[(net(hint), 0.8)])
    within(ours_along([(STEPS, steered)], COND, AWAY, STEPS, START), wanted)


@pytest.mark.parametrize("plus", [False, True], ids=["plain", "plus"])
@torch.no_grad()
def test_a_trajectory_with_an_ip_adapter(plus: bool) -> None:
    unet, their_unet = unet_twins(SMALL)
    net = control_files.prompt(FAMILIES["SD"], 1, plus=plus)
    pipeline = pipeline_with("StableDiffusionPipeline", their_unet)
    put_prompts(their_unet, [net], [0.7])
    shape = (1, TOWER.side**2 + 1, TOWER.width) if plus else (1, TOWER.projection)
    seen, unseen = noise(*shape, seed=7), noise(*shape, seed=8)
    embeds = [torch.cat([unseen, seen])[:, None]]
    wanted = pipeline(ip_adapter_image_embeds=embeds, height=128, width=128, **COMMON).images
    steered = prompted(unet, [(net, 0.7)])
    cond, away = (
        replace(told, context=torch.cat([told.context, net(row)], dim=1))
        for told, row in ((COND, seen), (AWAY, unseen))
    )
    within(ours_along([(STEPS, steered)], cond, away, STEPS, START), wanted)


@pytest.mark.parametrize("plus", [False, True], ids=["plain", "plus"])
@torch.no_grad()
def test_from_a_picture_to_tokens(plus: bool) -> None:
    """The picture's, and those that stand for none: diffusers' pipeline with its image encoder, and ours."""
    tower, their_tower = tower_twins()
    _, their_unet = unet_twins(SMALL)
    net = control_files.prompt(FAMILIES["SD"], 1, plus=plus)
    put_prompts(their_unet, [net], [1.0])
    size = TOWER.size
    extractor = transformers.CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size=size)
    parts = {"image_encoder": their_tower, "feature_extractor": extractor}
    pipeline = pipeline_with("StableDiffusionPipeline", their_unet, **parts)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))
    embeds = pipeline.prepare_ip_adapter_image_embeds([picture], None, torch.device("cpu"), 1, True)
    (wanted,) = their_unet.encoder_hid_proj(embeds)
    bundle = replace(tiny_bundle(), controls=Controls({}, tower))
    for mine, yours in zip(tokens_of(bundle, net, given(picture)), wanted.flatten(1, 2).flip(0).split(1), strict=True):
        within(mine, yours)


@torch.no_grad()
def test_an_ip_adapter_and_a_controlnet_together() -> None:
    """The ControlNet is told the text alone, as in diffusers."""
    unet, their_unet = unet_twins(SMALL)
    net, control, hint = (
        control_files.prompt(FAMILIES["SD"], 1),
        control_files.control(FAMILIES["SD"]),
        hint_of(5, 128, 128),
    )
    pipeline = pipeline_with("StableDiffusionControlNetPipeline", their_unet, controlnet=their_control(control))
    put_prompts(their_unet, [net], [0.7])
    seen, unseen = noise(1, TOWER.projection, seed=7), noise(1, TOWER.projection, seed=8)
    wanted = pipeline(image=hint, ip_adapter_image_embeds=[torch.cat([unseen, seen])[:, None]], **COMMON).images
    steered = controlled(
        prompted(unet, [(net, 0.7)]), [Control(control, control.prepare(hint))], pictures=net.config.tokens
    )
    cond, away = (
        replace(told, context=torch.cat([told.context, net(row)], dim=1))
        for told, row in ((COND, seen), (AWAY, unseen))
    )
    within(ours_along([(STEPS, steered)], cond, away, STEPS, START), wanted)


@pytest.mark.full
@torch.no_grad()
def test_controlnet_of_stable_diffusion_1_5() -> None:
    """The published shape; its zero convolutions have weights here."""
    config = ControlConfig(SD15.unet)
    ours = filled(ControlNet(config))
    assert isinstance(ours, ControlNet)
    assert sum(weight.numel() for weight in ours.parameters()) == 361_279_120
    theirs = their_control(ours)
    x, context, hint = noise(1, 4, 64, 64), noise(1, 77, 768, seed=2), hint_of(5, 512, 512)
    skips, middle = ours(x, T[:1], context, None, ours.prepare(hint))
    found = theirs(x, T[:1], context, hint)
    for mine, yours in zip([*skips, middle], [*found.down_block_res_samples, found.mid_block_res_sample], strict=True):
        print(within(mine, yours))
