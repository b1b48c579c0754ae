"""What a net is shown beside the latents while it learns: hints of a ControlNet, holes of an inpainting net."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from tests.fixtures import tiny_bundle

from aquatint.base.errors import UserError
from aquatint.base.noise import Noise
from aquatint.families import SDXL_REFINER, TINY, TINY_XL
from aquatint.nets.control import Control, controlled
from aquatint.pipelines.edit import Edit, canvas
from aquatint.pipelines.given import given
from aquatint.pipelines.preprocess import PREPROCESSORS
from aquatint.pipelines.request import Request
from aquatint.pipelines.shown import shown
from aquatint.training.data.holes import WHOLE, hidden, holes
from aquatint.training.lesson import aim
from aquatint.training.loop import train
from aquatint.training.objectives.diffusion import Aim
from aquatint.training.recipe import Moment, Optim, Share
from aquatint.training.tuning import Full, Hinted, LoRA, controlnet, copied, full, lora

FAST = Optim(lr=1e-2, warmup=2)
INPAINT = replace(TINY, name="TINY_INPAINT", unet=replace(TINY.unet, channels_in=9))
REFINER = replace(
    TINY_XL,
    name="TINY_REFINER",
    unet=replace(TINY_XL.unet, context=24, vector=40 + 5 * 256),
    text=TINY_XL.text2,
    text2=None,
    micro=SDXL_REFINER.micro,
    blank=False,
)  # type: ignore[arg-type]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "hints").mkdir(parents=True)
    for index in range(3):
        image = Image.new("RGB", (64, 64), (80 * index, 20, 120))
        image.paste("white", (0, 0, 20, 64))
        image.save(folder / f"{index}.png")
        ImageOps.invert(image).save(folder / "hints" / f"{index}.png")
    return folder


def loss(recipe: object, seed: int = 9) -> float:
    batches = [recipe.batch(Moment(500 + step, 0.0), Share()) for step in range(8)]  # type: ignore[attr-defined]
    with torch.no_grad():
        found = [
            next(recipe.objective.losses(batch, Moment(0, 0.0), Noise([seed] * 4, range(4 * n, 4 * n + 4)))).value  # type: ignore[attr-defined]
            for n, batch in enumerate(batches)
        ]
    return float(torch.stack(found).mean())


@pytest.mark.parametrize("family", [TINY, TINY_XL, INPAINT], ids=lambda family: family.name)
def test_a_new_controlnet_says_nothing(family: object) -> None:
    bundle = tiny_bundle(family)  # type: ignore[arg-type]
    net, config = copied(bundle, 0), bundle.unet.config
    x, context = torch.randn(2, config.channels_in, 8, 8), torch.randn(2, 5, config.context)
    vector = torch.randn(2, config.vector) if config.vector else None
    hint = net.prepare(torch.rand(2, 3, 64, 64))
    plain = bundle.unet(x, torch.tensor([3.0, 900.0]), context, vector)
    asked = controlled(bundle.unet, [Control(net, hint)])(x, torch.tensor([3.0, 900.0]), context, vector)
    assert torch.equal(asked, plain)
    known = bundle.unet.state_dict()
    assert all(torch.equal(tensor, known[name]) for name, tensor in net.middle.state_dict(prefix="middle.").items())


@pytest.mark.parametrize("family", [TINY, TINY_XL], ids=lambda family: family.name)
def test_a_controlnet_learns_and_the_model_stays(family: object, data: Path, tmp_path: Path) -> None:
    bundle = tiny_bundle(family)  # type: ignore[arg-type]
    before = {name: tensor.clone() for name, tensor in bundle.unet.state_dict().items()}
    tuned = controlnet(bundle, Hinted(data=str(data), words="a zorb", steps=30, optim=FAST))
    first = loss(tuned.recipe)
    net = tuned.learned(train(tuned.recipe, tmp_path / "run")).control
    assert net is not None
    assert loss(tuned.recipe) < 0.97 * first
    assert all(torch.equal(tensor, before[name]) for name, tensor in bundle.unet.state_dict().items())
    for name in ("hint.layers.0.weight", "zero.weight", "zeros.0.weight", "descent.0.cells.0.block.conv1.weight"):
        if name in net.state_dict():
            assert net.get_parameter(name).abs().max() > 0, name
    assert not any(weight.requires_grad for weight in net.parameters())


def test_every_part_of_a_controlnet_moves(data: Path, tmp_path: Path) -> None:
    bundle = tiny_bundle()
    start = {name: tensor.clone() for name, tensor in copied(bundle, 0).state_dict().items()}
    tuned = controlnet(bundle, Hinted(data=str(data), words="a zorb", steps=6, optim=replace(FAST, decay=0.0)))
    train(tuned.recipe, tmp_path / "run")
    moved = tuned.recipe.objective.players["unet"].state_dict()
    still = [name for name, tensor in start.items() if torch.equal(moved[name], tensor)]
    assert not still


def test_hints_are_the_pictures_own_or_made_and_mirrored_with_them(data: Path) -> None:
    bundle = tiny_bundle()
    settings = Hinted(data=str(data), words="a zorb", flip=True, batch=16)
    batch = controlnet(bundle, settings).recipe.batch(Moment(0, 0.0), Share())
    left, right = batch["hints"][:, :, :, 0], batch["hints"][:, :, :, -1]  # the stripe is black in the hints
    dark = (left == 0).all(dim=(1, 2)), (right == 0).all(dim=(1, 2))
    assert (dark[0] ^ dark[1]).all()
    assert dark[0].any()
    assert dark[1].any()
    canny = PREPROCESSORS["canny"]
    made = controlnet(bundle, replace(settings, hint="canny", flip=False), hinter=canny).recipe
    edges = made.batch(Moment(0, 0.0), Share())["hints"]
    assert (edges[:, :, 32, 18:22] == 255).any()
    (data / "hints" / "1.png").unlink()
    with pytest.raises(UserError, match=r'"1.png" has no hint'):
        controlnet(bundle, settings)


def test_holes_are_a_function_of_the_sample_and_some_are_everything() -> None:
    whole = holes(Noise([3] * 400, range(400)), 64, 96)
    assert whole.shape == (400, 1, 64, 96)
    assert set(whole.unique().tolist()) == {0.0, 1.0}
    shares = whole.mean(dim=(1, 2, 3))
    assert (shares > 0).all()
    assert (shares == 1).float().mean() == pytest.approx(WHOLE, abs=0.06)
    assert 0.1 < shares[shares < 1].mean() < 0.6
    assert torch.equal(holes(Noise([3], [17]), 64, 96)[0], whole[17])
    assert not torch.equal(holes(Noise([4], [17]), 64, 96)[0], whole[17])


def test_an_inpainting_net_is_shown_what_painting_shows_it(data: Path) -> None:
    bundle = tiny_bundle(INPAINT)
    picture, mask = Image.open(data / "1.png"), Image.new("L", (64, 64))
    mask.paste(255, (13, 9, 40, 30))
    request = Request("a zorb", width=64, height=64, edit=Edit(given(picture), mask=given(mask), blur=0)).resolved(
        INPAINT
    )
    assert request.edit is not None
    wanted = shown(bundle, request, canvas(request.edit, 64, 64))
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
    torn = torch.zeros(1, 1, 64, 64)
    torn[:, :, 9:30, 13:40] = 1
    found = hidden(bundle.autoencoder, pixels, torn)
    assert wanted is not None
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_an_inpainting_net_learns(kind: str, data: Path, tmp_path: Path) -> None:
    bundle = tiny_bundle(INPAINT)
    how: dict[str, object] = {"data": str(data), "words": "a zorb", "steps": 20, "optim": replace(FAST, lr=3e-3)}
    tuned = lora(bundle, LoRA(**how)) if kind == "lora" else full(bundle, Full(**how))  # type: ignore[arg-type]
    batch = tuned.recipe.batch(Moment(0, 0.0), Share())
    assert batch["beside"].shape == (4, 5, 8, 8)
    assert "pixels" not in batch
    halves = [tuned.recipe.batch(Moment(0, 0.0), Share(rank, 2))["beside"] for rank in (0, 1)]
    assert torch.equal(torch.cat(halves), batch["beside"])
    first = loss(tuned.recipe)
    train(tuned.recipe, tmp_path / "run")
    assert loss(tuned.recipe) < first


def test_a_refiner_is_told_of_beauty_and_learns_its_own_times(data: Path, tmp_path: Path) -> None:
    bundle = tiny_bundle(REFINER)
    settings = Full(data=str(data), words="a zorb", steps=20, aesthetic=7.5, optim=replace(FAST, lr=3e-3))
    tuned = full(bundle, settings)
    assert tuned.recipe.batch(Moment(0, 0.0), Share())["cuts"][:, 4].tolist() == [7.5] * 4
    assert aim(bundle, settings).until == 200
    assert aim(bundle, replace(settings, aim=Aim(until=400))).until == 400
    first = loss(tuned.recipe)
    train(tuned.recipe, tmp_path / "run")
    assert loss(tuned.recipe) < first


def test_models_that_are_shown_what_nobody_knows_are_refused(data: Path) -> None:
    family = replace(TINY, name="MORE", unet=replace(TINY.unet, channels_in=7))
    with pytest.raises(UserError, match="MORE's U-Net takes 7 channels"):
        full(tiny_bundle(family), Full(data=str(data), words="x"))
