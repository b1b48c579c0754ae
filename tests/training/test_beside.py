"""InstructPix2Pix and depth models learn, shown what painting shows them: the picture before, or a depth map."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageOps
from tests.fixtures import tiny_bundle
from tests.training.sets import picture

from aquatint.base.errors import UserError
from aquatint.base.noise import CAPTION, Noise
from aquatint.families import TINY, Family
from aquatint.pipelines.edit import Edit, canvas
from aquatint.pipelines.given import given
from aquatint.pipelines.request import Request
from aquatint.pipelines.shown import shown
from aquatint.training.data.beside import unseen
from aquatint.training.data.buckets import Shape
from aquatint.training.data.examples import Encoded, encode
from aquatint.training.data.folder import read
from aquatint.training.lesson import Lessons, Subject
from aquatint.training.loop import train
from aquatint.training.recipe import Moment, Optim, Recipe, Share
from aquatint.training.tuning import Full, Hinted, Inversion, LoRA, Tuned, controlnet, full, inversion, lora
from aquatint.weights.lora_writer import save_lora
from aquatint.weights.loras import fit, open_lora

FAST = Optim(lr=1e-2, warmup=2)
PICTURE = replace(TINY, name="TINY_PIX2PIX", unet=replace(TINY.unet, channels_in=8))
DEPTH = replace(TINY, name="TINY_DEPTH", unet=replace(TINY.unet, channels_in=5))
BOTH = pytest.mark.parametrize("family", [PICTURE, DEPTH], ids=lambda family: family.sees)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return filled(tmp_path / "pictures", (64, 64))


def filled(folder: Path, size: tuple[int, int], count: int = 3) -> Path:
    """Pictures that are their pictures before in negative, hints that are the same, and depth maps of another size."""
    for name in ("before", "depth", "hints"):
        (folder / name).mkdir(parents=True)
    for number in range(count):
        before = picture(number, size)
        before.save(folder / "before" / f"{number}.png")
        before.save(folder / "hints" / f"{number}.png")
        ImageOps.invert(before).save(folder / f"{number}.png")
        picture(10 + number, (48, 40)).convert("L").save(folder / "depth" / f"{number}.png")
    return folder


def encoded(data: Path, family: Family, side: int = 64, *, flip: bool = False) -> Encoded:
    autoencoder = tiny_bundle(family).autoencoder
    return encode(read(data, words=["x"]), autoencoder, Shape(side, side), flip=flip, sees=family.sees)


def sights(data: Path, family: Family, **how: object) -> torch.Tensor:
    found = encoded(data, family, **how).beside  # type: ignore[arg-type]
    assert found is not None
    return found


def error(recipe: Recipe, blind: bool = False) -> float:
    """The recipe's loss over 32 samples of other numbers than it learns from; blind: shown nothing."""
    found = []
    with torch.no_grad():
        for step in range(8):
            batch = recipe.batch(Moment(500 + step, 0.0), Share())
            batch = {**batch, "beside": torch.zeros_like(batch["beside"])} if blind else batch
            noise = Noise([9] * 4, range(4 * step, 4 * step + 4))
            found.append(next(recipe.objective.losses(batch, Moment(0, 0.0), noise)).value)  # type: ignore[union-attr]
    return float(torch.stack(found).mean())


def tuned(kind: str, family: Family, data: Path, **more: object) -> Tuned:
    bundle = tiny_bundle(family)
    how: dict[str, object] = {"data": str(data), "words": "a zorb", "steps": 12, "optim": FAST, **more}
    if kind == "lora":
        return lora(bundle, LoRA(**how, reach="all"))  # type: ignore[arg-type]
    if kind == "inversion":
        return inversion(bundle, Inversion(**how, word="zorb"))  # type: ignore[arg-type]
    if kind == "controlnet":
        return controlnet(bundle, Hinted(**how))  # type: ignore[arg-type]
    return full(bundle, Full(**how | {"optim": replace(FAST, lr=3e-3)}))  # type: ignore[arg-type]


def test_the_picture_before_is_shown_as_painting_shows_it(data: Path) -> None:
    bundle, found = tiny_bundle(PICTURE), sights(data, PICTURE)
    for number in range(3):
        edit = Edit(given(data / "before" / f"{number}.png"))
        request = Request("a zorb", width=64, height=64, edit=edit).resolved(PICTURE)
        assert request.edit is not None
        wanted = shown(bundle, request, canvas(request.edit, 64, 64))
        assert wanted is not None
        assert torch.equal(found[number : number + 1], wanted)
    assert not torch.equal(found[0], found[1])


@pytest.mark.parametrize("wide", [64, 96])
def test_a_depth_map_is_shown_as_painting_shows_it(wide: int, tmp_path: Path) -> None:
    """Of a picture that is cut, as of one that painting crops."""
    data = filled(tmp_path / "pictures", (wide, 64))
    bundle, found = tiny_bundle(DEPTH), sights(data, DEPTH)
    for number in range(3):
        edit = Edit(given(data / f"{number}.png"), fit="crop")
        depth = given(data / "depth" / f"{number}.png")
        request = Request("a zorb", width=64, height=64, edit=edit if wide != 64 else None, depth=depth).resolved(DEPTH)
        wanted = shown(bundle, request, canvas(edit, 64, 64) if wide != 64 else None)
        assert wanted is not None
        assert torch.equal(found[number : number + 1], wanted)
    assert found.amin(dim=(1, 2, 3)).tolist() == [-1.0] * 3
    assert found.amax(dim=(1, 2, 3)).tolist() == [1.0] * 3


def test_pictures_before_are_cut_and_mirrored_as_the_pictures_are(tmp_path: Path) -> None:
    data = filled(tmp_path / "pictures", (112, 80))
    for number in range(3):
        (data / "before" / f"{number}.png").write_bytes((data / f"{number}.png").read_bytes())
    found = encoded(data, PICTURE, flip=True)
    assert found.beside is not None
    assert found.flipped
    torch.testing.assert_close(found.beside * TINY.autoencoder.scale, found.means, rtol=0, atol=1e-5)


def test_depth_maps_are_mirrored_as_the_pictures_are(data: Path) -> None:
    found = sights(data, DEPTH, flip=True)
    torch.testing.assert_close(found[3:], found[:3].flip(-1), rtol=0, atol=1e-5)
    assert (found[3:] - found[:3]).abs().max() > 0.5


def test_a_picture_before_may_have_the_pictures_own_ending(data: Path) -> None:
    for number in range(3):
        for place in (data, data / "before"):
            Image.open(place / f"{number}.png").save(place / f"{number}.jpg")
            (place / f"{number}.png").unlink()
    assert [example.before == data / "before" / f"{n}.jpg" for n, example in enumerate(read(data, words=["x"]))] == [
        True
    ] * 3


@pytest.mark.parametrize(
    ("silent", "share", "wanted"),
    [  # lacking the words alone, the picture alone, both
        (0.1, 0.1, (0.05, 0.05, 0.05)),  # Brooks et al. 2023, section 3.2.1
        (0.3, 0.1, (0.25, 0.05, 0.05)),
        (0.0, 0.2, (0.0, 0.2, 0.0)),
        (0.2, 0.0, (0.2, 0.0, 0.0)),
        (0.4, 1.0, (0.0, 0.6, 0.4)),
        (1.0, 0.1, (0.9, 0.0, 0.1)),
    ],
)
def test_what_lacks_words_and_what_lacks_pictures(silent: float, share: float, wanted: tuple[float, ...]) -> None:
    drawn = Noise([5] * 20_000, range(20_000)).uniform((1,), draw=CAPTION)
    mute, blind = drawn < silent, unseen(drawn, silent, share)
    found = [float(part.float().mean()) for part in (mute & ~blind, blind & ~mute, mute & blind)]
    assert found == pytest.approx(wanted, abs=0.006)


def test_words_and_pictures_are_dropped_from_batches(data: Path) -> None:
    bundle = tiny_bundle(PICTURE)
    settings = LoRA(data=str(data), words="a zorb", batch=600)
    batch = lora(bundle, settings).recipe.batch(Moment(0, 0.0), Share())
    blind = (batch["beside"] == 0).all(dim=3).all(dim=2).all(dim=1)
    mute = (batch["ids"] == bundle.tokenizer([""])).all(dim=1)
    drawn = Noise([0] * 600, range(600)).uniform((1,), draw=CAPTION)[:, 0]
    assert torch.equal(mute, drawn < 0.1)
    assert torch.equal(blind, (drawn >= 0.05) & (drawn < 0.15))
    plain = lora(bundle, replace(settings, unseen=0.0)).recipe.batch(Moment(0, 0.0), Share())
    assert (plain["beside"] != 0).any(dim=3).any(dim=2).any(dim=1).all()
    assert torch.equal(plain["beside"][~blind], batch["beside"][~blind])
    assert all(torch.equal(plain[key], batch[key]) for key in batch if key != "beside")


def test_held_pictures_are_all_shown(data: Path) -> None:
    settings = LoRA(data=str(data), words="a zorb", held=str(data), unseen=1.0)
    lessons = Lessons(tiny_bundle(PICTURE), settings, Subject())
    assert (lessons.batch(Moment(0, 0.0), Share())["beside"] == 0).all()
    (held,) = lessons.examined()
    assert torch.equal(held["beside"], sights(data, PICTURE))


def test_no_depth_map_is_dropped(data: Path) -> None:
    batch = tuned("lora", DEPTH, data, unseen=1.0).recipe.batch(Moment(0, 0.0), Share())
    assert (batch["beside"].amax(dim=(1, 2, 3)) == 1).all()


@BOTH
def test_processes_and_the_class_are_shown_theirs(family: Family, data: Path, tmp_path: Path) -> None:
    prior = filled(tmp_path / "class", (64, 64), count=1)
    recipe = tuned("lora", family, data, prior=str(prior), prior_words="a thing", unseen=0.0, flip=False).recipe
    batch = recipe.batch(Moment(2, 0.0), Share())
    assert batch["beside"].shape == (4, family.unet.channels_in - 4, 8, 8)
    assert torch.equal(batch["beside"][2:], sights(prior, family).expand(2, -1, -1, -1))
    parts = [recipe.batch(Moment(2, 0.0), Share(rank, 2))["beside"] for rank in (0, 1)]
    assert sorted(map(float, torch.cat(parts).sum(dim=(1, 2, 3)))) == sorted(
        map(float, batch["beside"].sum(dim=(1, 2, 3)))
    )


@BOTH
@pytest.mark.parametrize("kind", ["lora", "inversion", "full", "controlnet"])
def test_it_learns(kind: str, family: Family, data: Path, tmp_path: Path) -> None:
    made = tuned(kind, family, data, held=str(data))
    first = error(made.recipe)
    train(made.recipe, tmp_path / "run")
    assert error(made.recipe) < first


@BOTH
def test_what_it_is_shown_comes_to_count(family: Family, data: Path, tmp_path: Path) -> None:
    """From a net that does not look at it: its weights for these channels begin at zero, and then move."""
    bundle = tiny_bundle(family)
    with torch.no_grad():
        bundle.unet.enter.weight[:, 4:] = 0
    made = full(bundle, Full(data=str(data), words="x", steps=10, unseen=0.0, optim=replace(FAST, lr=3e-3)))
    assert error(made.recipe) == error(made.recipe, blind=True)
    train(made.recipe, tmp_path / "run")
    assert bundle.unet.enter.weight[:, 4:].abs().max() > 1e-3
    assert error(made.recipe) != error(made.recipe, blind=True)


@BOTH
@pytest.mark.parametrize("dialect", ["kohya", "diffusers"])
def test_a_lora_is_written_and_opened_again(family: Family, dialect: str, data: Path, tmp_path: Path) -> None:
    made = tuned("lora", family, data, steps=2)
    adapters = made.learned(train(made.recipe, tmp_path / "run")).adapters
    path = save_lora(tmp_path / "made.safetensors", adapters, family, dialect)
    again = fit(open_lora(path), family).adapters
    assert set(again["unet"]) == set(adapters["unet"])
    unet = tiny_bundle(family).unet
    for name, adapter in adapters["unet"].items():
        weight = torch.zeros(unet.get_parameter(name).shape)
        torch.testing.assert_close(again["unet"][name].delta(weight), adapter.delta(weight))


@BOTH
def test_what_is_missing_is_named(family: Family, data: Path) -> None:
    folder = data / ("before" if family is PICTURE else "depth")
    (folder / "1.png").unlink()
    (folder / "2.png").unlink()
    with pytest.raises(
        UserError, match=rf'"1.png" has no {folder.name if family is DEPTH else "picture before"}.*1 more'
    ):
        tuned("lora", family, data)
    (folder / "2.png").write_bytes(b"no picture")
    (data / "1.png").unlink()
    with pytest.raises(UserError, match=r"2\.png.*not a picture"):
        tuned("lora", family, data)


def test_what_does_not_fit_is_named(data: Path) -> None:
    Image.new("L", (64, 64), 77).save(data / "depth" / "1.png")
    with pytest.raises(UserError, match=r"1\.png.*same grey"):
        tuned("lora", DEPTH, data)
    picture(1, (80, 64)).save(data / "before" / "1.png")
    with pytest.raises(UserError, match=r'before/1\.png" is 80 x 64 pixels, "1.png" 64 x 64'):
        tuned("lora", PICTURE, data)
