"""Stable Diffusion XL, whole: encoders, conditions and trajectories against diffusers' pipelines, from one folder."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

os.environ.setdefault("HF_HUB_OFFLINE", "1")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

from tests.parity.peers import difference, noise, randomise  # noqa: E402
from tests.weights.models import EVERY, random_model, same_weights  # noqa: E402

from aquatint.base.noise import PRIOR, Noise  # noqa: E402
from aquatint.families import SDXL, SDXL_INPAINT, SDXL_REFINER, Family  # noqa: E402
from aquatint.nets.adapters import LowRank  # noqa: E402
from aquatint.pipelines import bundle as bundles  # noqa: E402
from aquatint.pipelines.adapted import adapted  # noqa: E402
from aquatint.pipelines.bundle import Bundle  # noqa: E402
from aquatint.pipelines.edit import Edit  # noqa: E402
from aquatint.pipelines.encode import tell  # noqa: E402
from aquatint.pipelines.generate import generate  # noqa: E402
from aquatint.pipelines.given import given  # noqa: E402
from aquatint.pipelines.lora import Lora  # noqa: E402
from aquatint.pipelines.micro import Micro  # noqa: E402
from aquatint.pipelines.prompt import parse  # noqa: E402
from aquatint.pipelines.refine import Refine  # noqa: E402
from aquatint.pipelines.request import Request  # noqa: E402
from aquatint.pipelines.shelf import shelf  # noqa: E402
from aquatint.weights import assembly, open_model, save  # noqa: E402
from aquatint.weights.adapter_names import nets  # noqa: E402
from aquatint.weights.diffusers import folders, pairs  # noqa: E402
from aquatint.weights.keymap import config_of, parts_of, shapes, to_theirs  # noqa: E402
from aquatint.weights.lora_writer import save_lora  # noqa: E402
from aquatint.weights.loras import Adapters  # noqa: E402

ROWS = {"base": "SDXL", "inpaint": "SDXL_INPAINT", "refiner": "SDXL_REFINER"}
PIPELINES = {"base": "", "inpaint": "Inpaint", "refiner": "Img2Img"}
SEED, SIZE, STEPS = 5, 64, 4
Twins = tuple[Bundle, Any, Path]


def family_of(name: str) -> Family:
    """The small family with this model's own steps."""
    row = EVERY[ROWS[name]]
    return replace(row, autoencoder=replace(row.autoencoder, encoder=(8, 16), decoder=(8, 16), blocks=1))


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Twins]:
    """twins("base"): our bundle, diffusers' pipeline, and the folder that both were opened from."""
    made: dict[str, Twins] = {}

    def pair(name: str) -> Twins:
        if name not in made:
            model = random_model(family_of(name))
            for net in model.nets.values():
                randomise(net)
            path = save(model, tmp_path_factory.mktemp(name) / "model", "diffusers")
            kind = getattr(diffusers, f"StableDiffusionXL{PIPELINES[name]}Pipeline")
            pipeline = kind.from_pretrained(path, local_files_only=True, add_watermarker=False)
            pipeline.set_progress_bar_config(disable=True)
            made[name] = bundles.load(path, device="cpu", dtype="float32", threads=1), pipeline, path
        return made[name]

    return pair


def names_of(pipeline: Any, family: Family) -> dict[str, Any]:
    inner = {"unet": pipeline.unet, "autoencoder": pipeline.vae}
    return inner | {part: getattr(pipeline, folders(family)[part]) for part in parts_of(family) if "text" in part}


@pytest.mark.parametrize("name", ROWS)
def test_our_folder_in_diffusers_and_theirs_here(name: str, twins: Callable[[str], Twins], tmp_path: Path) -> None:
    bundle, pipeline, path = twins(name)
    for part, net in names_of(pipeline, bundle.family).items():
        theirs = net.state_dict()
        expected = to_theirs(pairs(config_of(bundle.family, part), theirs), getattr(bundle, part).state_dict())
        assert set(expected) == {key for key in theirs if not key.endswith("position_ids")}, part
        assert all(torch.equal(tensor, theirs[key]) for key, tensor in expected.items()), part
    pipeline.save_pretrained(tmp_path / "theirs")
    again, ours = open_model(tmp_path / "theirs"), open_model(path)
    assert again.family == ours.family
    assert again.digest == ours.digest
    assert same_weights(again, ours)
    assert [words and words.pad for words in (again.tokenizer, again.tokenizer2)] == [
        words and words.pad for words in (ours.tokenizer, ours.tokenizer2)
    ]


@pytest.mark.parametrize("prompt", ["a red cat, two blue circles", "cat " * 90, ""])
@pytest.mark.parametrize("name", ["base", "refiner"])
@torch.no_grad()
def test_what_the_net_is_told(name: str, prompt: str, twins: Callable[[str], Twins]) -> None:
    """Both encoders' tokens of the layer before the last side by side, and the pooled vector of the second."""
    bundle, pipeline, _ = twins(name)
    reference = pipeline.encode_prompt(prompt, negative_prompt="blue", do_classifier_free_guidance=True)
    (told,) = tell(bundle, parse(prompt, "plain", steps=4), parse("blue", "plain", steps=4, negative=True))
    found = (told.positives[0][1].context, told.negative.context, told.positives[0][1].vector, told.negative.vector)
    for ours, theirs in zip(found, reference, strict=True):
        assert ours is not None
        assert difference(ours, theirs).within


@pytest.mark.parametrize("clip_skip", [2, 3])
@torch.no_grad()
def test_clip_skip(clip_skip: int, twins: Callable[[str], Twins]) -> None:
    """diffusers counts from the layer before the last, which is our 2."""
    bundle, pipeline, _ = twins("refiner")
    reference, *_ = pipeline.encode_prompt("a cat", negative_prompt="", clip_skip=clip_skip - 2)
    found = bundle.encode_text(["a cat"], clip_skip=clip_skip).context
    assert difference(found, reference).within


def end_of(bundle: Bundle, request: Request) -> Tensor:
    """The last clean latents that painting shows."""
    *_, last = generate(bundle, request)
    assert last.x0 is not None
    return last.x0


def noise_for(bundle: Bundle) -> Tensor:
    return Noise((SEED,)).normal(bundle.latent_shape(SIZE, SIZE), draw=PRIOR)


def settled(pipeline: Any, eps: Tensor) -> Tensor:
    """eps, scaled so that diffusers starts from sigma eps, as k-diffusion does, and not from sqrt(sigma^2 + 1) eps."""
    pipeline.scheduler.set_timesteps(STEPS)
    return eps * pipeline.scheduler.sigmas.max() / pipeline.scheduler.init_noise_sigma


SAID: dict[str, Any] = {"steps": STEPS, "seeds": (SEED,), "width": SIZE, "height": SIZE, "grammar": "plain"}


@pytest.mark.parametrize("negative", [None, "blue circles"])
@pytest.mark.parametrize("guidance", [5.0, 1.0])
@torch.no_grad()
def test_a_picture_of_the_base(negative: str | None, guidance: float, twins: Callable[[str], Twins]) -> None:
    bundle, pipeline, _ = twins("base")
    assert bundle.family.defaults.sampler == "euler"
    latents = settled(pipeline, noise_for(bundle))
    reference = pipeline(
        "a red cat", negative_prompt=negative, num_inference_steps=STEPS, guidance_scale=guidance, latents=latents,
        height=SIZE, width=SIZE, output_type="latent",
    ).images  # fmt: skip
    request = Request("a red cat", negative or "", guidance=guidance, **SAID)
    assert difference(end_of(bundle, request), reference).within
    for micro in (
        Micro(crop=(40, 0)),
        Micro(target=(100, 64)),
        *([Micro(blank=False)] if guidance > 1 > len(request.negative) else []),
    ):
        assert difference(end_of(bundle, replace(request, micro=micro)), reference).rms > 1e-3, micro


@torch.no_grad()
def test_micro_conditions(twins: Callable[[str], Twins]) -> None:
    bundle, pipeline, _ = twins("base")
    latents = settled(pipeline, noise_for(bundle))
    reference = pipeline(
        "a red cat", num_inference_steps=STEPS, guidance_scale=5.0, latents=latents, height=SIZE, width=SIZE,
        output_type="latent", original_size=(300, 200), crops_coords_top_left=(7, 90), target_size=(500, 400),
    ).images  # fmt: skip
    micro = Micro(original=(200, 300), crop=(90, 7), target=(400, 500))
    assert difference(end_of(bundle, Request("a red cat", micro=micro, **SAID)), reference).within


def picture() -> Image.Image:
    values = np.linspace(0, 255, SIZE * SIZE * 3).reshape(SIZE, SIZE, 3)
    return Image.fromarray((values[::-1] * np.array([1, 0.7, 0.4])).astype(np.uint8))


@pytest.fixture
def settled_noise(monkeypatch: pytest.MonkeyPatch) -> Callable[[Tensor], None]:
    """diffusers' noise is ours, and it encodes pictures as their latents' mean."""
    from diffusers.pipelines.stable_diffusion_xl import pipeline_stable_diffusion_xl_img2img as img2img
    from diffusers.pipelines.stable_diffusion_xl import pipeline_stable_diffusion_xl_inpaint as inpaint

    def use(eps: Tensor) -> None:
        for module in (img2img, inpaint):
            monkeypatch.setattr(module, "randn_tensor", lambda shape, **_: eps.reshape(shape))
            monkeypatch.setattr(module, "retrieve_latents", lambda output, **_: output.latent_dist.mode())

    return use


@pytest.mark.parametrize("aesthetic", [None, 7.5])
@torch.no_grad()
def test_the_refiner_over_a_picture(
    aesthetic: float | None, twins: Callable[[str], Twins], settled_noise: Callable[[Tensor], None], tmp_path: Path
) -> None:
    bundle, pipeline, _ = twins("refiner")
    picture().save(tmp_path / "picture.png")
    settled_noise(noise_for(bundle))
    options = {} if aesthetic is None else {"aesthetic_score": aesthetic, "negative_aesthetic_score": 1.0}
    reference = pipeline(
        "a red cat", image=picture(), strength=0.5, num_inference_steps=STEPS, guidance_scale=5.0,
        output_type="latent", **options,
    ).images  # fmt: skip
    micro = None if aesthetic is None else Micro(aesthetic=aesthetic, negative_aesthetic=1.0)
    edit = Edit(given(tmp_path / "picture.png"), strength=0.5)
    assert difference(end_of(bundle, Request("a red cat", edit=edit, micro=micro, **SAID)), reference).within


@torch.no_grad()
def test_the_inpainting_model(
    twins: Callable[[str], Twins], settled_noise: Callable[[Tensor], None], tmp_path: Path
) -> None:
    bundle, pipeline, _ = twins("inpaint")
    mask = Image.new("L", (SIZE, SIZE), 0)
    mask.paste(255, (16, 8, 48, 40))
    for name, image in (("picture", picture()), ("mask", mask)):
        image.save(tmp_path / f"{name}.png")
    eps = noise_for(bundle)
    latents = settled(pipeline, eps)
    settled_noise(eps)
    reference = pipeline(
        "a red cat", image=picture(), mask_image=mask, strength=1.0, num_inference_steps=STEPS, guidance_scale=5.0,
        latents=latents, height=SIZE, width=SIZE, output_type="latent",
    ).images  # fmt: skip
    edit = Edit(given(tmp_path / "picture.png"), strength=1.0, mask=given(tmp_path / "mask.png"), blur=0.0)
    assert difference(end_of(bundle, Request("a red cat", edit=edit, **SAID)), reference).within


@pytest.mark.parametrize("micro", [None, Micro(original=(200, 300), crop=(9, 0))])
@torch.no_grad()
def test_the_refiner_goes_on_where_the_base_stops(micro: Micro | None, twins: Callable[[str], Twins]) -> None:
    (base, theirs, _), (refiner, their_refiner, _) = twins("base"), twins("refiner")
    sizes = {"original_size": (300, 200), "crops_coords_top_left": (0, 9)} if micro else {}
    negative = {"negative_crops_coords_top_left": (0, 9)} if micro else {}  # which their refiner alone takes as (0, 0)
    said = {"num_inference_steps": STEPS, "guidance_scale": 5.0, "output_type": "latent", **sizes}
    latents = settled(theirs, noise_for(base))
    half = theirs("a red cat", latents=latents, height=SIZE, width=SIZE, denoising_end=0.7, **said).images
    reference = their_refiner(
        "a red cat", image=half, denoising_start=0.7, aesthetic_score=7.0, **said, **negative
    ).images
    both = replace(base, refiner=refiner)
    request = Request("a red cat", micro=micro, refine=Refine(0.7, aesthetic=7.0), **SAID)
    assert difference(end_of(both, request), reference).within
    for refine in (Refine(0.7), Refine(0.4, aesthetic=7.0), None):
        assert difference(end_of(both, replace(request, refine=refine)), reference).rms > 3e-4, refine


def lora_for(family: Family) -> Adapters:
    """Rank 2 on the layers that kohya's scripts train, of all three nets."""
    made: Adapters = {}
    for net, config in nets(family).items():
        for seed, (name, shape) in enumerate(shapes(config).items()):
            if len(shape) == 2 and (".attend." in name or name.startswith("layers.")):
                down, up = noise(2, shape[1], seed=seed), noise(shape[0], 2, seed=seed + 1000)
                made.setdefault(net, {})[name] = LowRank(down / shape[1] ** 0.5, up, scale=0.5)
    return made


@pytest.mark.parametrize("dialect", ["kohya", "diffusers"])
@torch.no_grad()
def test_a_lora_on_all_three_nets(dialect: str, twins: Callable[[str], Twins], tmp_path: Path) -> None:
    pytest.importorskip("peft")
    bundle, pipeline, _ = twins("base")
    path = save_lora(tmp_path / "ink.safetensors", lora_for(bundle.family), bundle.family, dialect)
    on = adapted(replace(bundle, shelf=shelf([path])), [Lora("ink")]).bundle
    pipeline.load_lora_weights(path.parent, weight_name=path.name)
    try:
        latents = settled(pipeline, noise_for(bundle))
        said = {"num_inference_steps": STEPS, "guidance_scale": 5.0, "height": SIZE, "width": SIZE}
        reference = pipeline("a red cat", latents=latents, output_type="latent", **said).images
        context, _, pooled, _ = pipeline.encode_prompt("a red cat")
    finally:
        pipeline.unload_lora_weights()
    for with_it, fits in ((on, True), (bundle, False)):
        told = with_it.encode_text(["a red cat"])
        assert difference(told.context, context).within == fits
        assert told.vector is not None
        assert difference(told.vector, pooled).within == fits
        assert difference(end_of(with_it, Request("a red cat", **SAID)), reference).within == fits


@pytest.mark.parametrize("name", ["base", "refiner"])
def test_the_single_file_is_the_folder(name: str, twins: Callable[[str], Twins], tmp_path: Path) -> None:
    """The same weights in the other layout: one digest, and diffusers finds in it what it finds in the folder."""
    bundle, pipeline, path = twins(name)
    folder = open_model(path)
    save(folder, tmp_path / "model.safetensors", "compvis")
    single = open_model(tmp_path / "model.safetensors")
    assert single.digest == folder.digest
    assert same_weights(single, folder)
    shutil.copytree(path, tmp_path / "config", ignore=shutil.ignore_patterns("*.safetensors"))
    options = {"config": str(tmp_path / "config"), "local_files_only": True, "add_watermarker": False}
    theirs = type(pipeline).from_single_file(str(tmp_path / "model.safetensors"), **options)
    expected = names_of(pipeline, bundle.family)
    for part, net in names_of(theirs, bundle.family).items():
        state = expected[part].state_dict()
        assert all(torch.equal(tensor, state[key]) for key, tensor in net.state_dict().items()), part


@pytest.mark.parametrize("row", [SDXL, SDXL_INPAINT, SDXL_REFINER], ids=lambda row: row.name)
def test_names_and_shapes_at_full_size(row: Family) -> None:
    """The published configs give diffusers' and transformers' nets the tensors that our pairs name."""
    documents = assembly.documents(row)
    with torch.device("meta"):
        theirs_by_part = {
            "unet": diffusers.UNet2DConditionModel.from_config(documents["unet/config.json"]),
            "autoencoder": diffusers.AutoencoderKL.from_config(documents["vae/config.json"]),
        }
        for part in parts_of(row)[2:]:
            document = documents[f"{folders(row)[part]}/config.json"]
            kind = getattr(transformers, document["architectures"][0])
            theirs_by_part[part] = kind(transformers.CLIPTextConfig(**document))
    for part, net in theirs_by_part.items():
        config = config_of(row, part)
        ours = shapes(config)
        theirs = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
        named = {pair.theirs: pair.turn.shapes([ours[name] for name in pair.ours])[0] for pair in pairs(config, theirs)}
        assert named == theirs, part


def test_the_numbers_are_those_of_diffusers() -> None:
    """Sinusoids of the published pipeline's time ids, which its U-Net makes itself."""
    from diffusers.models.embeddings import Timesteps

    from aquatint.pipelines.micro import embedded

    ids = Micro(original=(1280, 720), crop=(16, 8)).numbers(SDXL, 1024, 768)
    assert ids == (720, 1280, 8, 16, 768, 1024)
    reference = Timesteps(256, True, 0)(torch.tensor(ids, dtype=torch.float32)).reshape(1, -1)
    assert torch.allclose(embedded(ids), reference, atol=2e-5)
    assert Micro().numbers(SDXL_REFINER, 1024, 768) == (768, 1024, 0, 0, 6.0)
    assert Micro().numbers(SDXL_REFINER, 1024, 768, negative=True) == (768, 1024, 0, 0, 2.5)
