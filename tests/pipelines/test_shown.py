"""Models that are shown a picture, a depth map or their guidance: what reaches the net, and wishes that do not fit."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.fixtures import tiny_bundle, tiny_with

from aquatint.base import config, images
from aquatint.base.errors import UserError
from aquatint.diffusion.denoisers import Conditioning, guided, judged, rescaled, scaled
from aquatint.diffusion.pictured import pictured
from aquatint.diffusion.prediction import PREDICTIONS
from aquatint.diffusion.samplers import SAMPLERS
from aquatint.diffusion.schedule import NoiseSchedule, ScheduleConfig
from aquatint.families import TINY, Family
from aquatint.pipelines import infotext
from aquatint.pipelines.bundle import Bundle
from aquatint.pipelines.edit import Edit, Outpaint, canvas
from aquatint.pipelines.generate import generate
from aquatint.pipelines.given import given
from aquatint.pipelines.picture import Picture
from aquatint.pipelines.record import record_from
from aquatint.pipelines.request import Request, from_words
from aquatint.pipelines.shown import depth_seen

SIDE = 64


def noisy(width: int = SIDE, height: int = SIDE, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def taking(channels: int, **changes: Any) -> Family:
    return tiny_with(unet=replace(TINY.unet, channels_in=channels, **changes))


PHOTO, DEPTH = given(noisy(), "photo"), given(noisy(seed=1).convert("L"), "depth")
PIX2PIX, DEPTHS, LCM = taking(8), taking(5), taking(4, guidance=6)


@pytest.fixture(scope="module")
def bundles() -> Callable[[Family], Bundle]:
    made: dict[str, Bundle] = {}
    return lambda family: made.setdefault(str(family), tiny_bundle(family))


def painted(bundle: Bundle, **wishes: object) -> Picture:
    *_, last = generate(bundle, Request("a cat", **({"steps": 2, "seeds": (7,)} | wishes)))  # type: ignore[arg-type]
    assert last.picture is not None
    return last.picture


class TestGuidanceInTwoDirections:
    @pytest.mark.parametrize("prompts", [1, 2])
    def test_the_formula(self, prompts: int) -> None:
        """With a net that says its own text's first number plus ten times what it is shown."""

        def net(x: torch.Tensor, t: torch.Tensor, context: torch.Tensor, vector: torch.Tensor | None) -> torch.Tensor:
            assert x.shape[1] == 8
            return context[:, :1, :1, None] + 10 * x[:, 4:]

        level = NoiseSchedule(ScheduleConfig()).at(500)
        told = [Conditioning(torch.full((1, 3, 2), value), concat=torch.ones(1, 4, 2, 2)) for value in (5.0, 7.0, 2.0)]
        conds = [(1.0, told[0]), (0.5, told[1])][:prompts]
        pair = judged(pictured(net, conds, told[2], 1.5), scaled(3.0), PREDICTIONS["sample"])
        out, away = pair(torch.zeros(1, 4, 2, 2), level)
        texts = 3.0 * (5 - 2) + (3.0 * 0.5 * (7 - 2) if prompts == 2 else 0)
        assert torch.allclose(out, torch.full_like(out, 2 + 1.5 * 10 + texts))
        assert torch.equal(away, torch.full_like(away, 2.0 + 1.5 * 10))

    def test_no_more_than_the_picture_is_guidance(self, bundles: Callable[[Family], Bundle]) -> None:
        """At picture = 1 the row that is shown nothing drops out, and guidance between the other two stays."""
        unet, generator = bundles(PIX2PIX).unet, torch.Generator().manual_seed(0)
        x, context = torch.randn(1, 4, 8, 8, generator=generator), torch.randn(2, 1, 5, 32, generator=generator)
        shown = torch.randn(1, 4, 8, 8, generator=generator)
        cond, negative = (Conditioning(row, concat=shown) for row in context)
        level = NoiseSchedule(ScheduleConfig()).at(300)
        guide = rescaled(scaled(4.0), 0.5)
        one = judged(pictured(unet, [(1.0, cond)], negative), guide, PREDICTIONS["v"])(x, level)[0]
        assert torch.allclose(one, guided(unet, PREDICTIONS["v"], cond, negative, 4.0, 0.5)(x, level), atol=1e-5)


class TestPictures:
    @pytest.mark.parametrize("sampler", list(SAMPLERS))
    def test_every_sampler_paints(self, sampler: str, bundles: Callable[[Family], Bundle]) -> None:
        wishes: dict[str, Any] = {"sampler": sampler, "edit": Edit(PHOTO), "guidance": 2.0, "steps": 3}
        one = painted(bundles(PIX2PIX), **wishes)
        other = painted(bundles(PIX2PIX), **wishes, picture_guidance=3.0)
        assert one.image.tobytes() != other.image.tobytes()

    def test_what_is_not_said(self, bundles: Callable[[Family], Bundle]) -> None:
        request = painted(bundles(PIX2PIX), edit=Edit(PHOTO)).request
        assert request.picture_guidance == 1.5
        assert request.edit is not None
        assert request.edit.strength == 1.0
        plain = painted(bundles(TINY), edit=Edit(PHOTO)).request
        assert plain.picture_guidance is None
        assert plain.edit is not None
        assert plain.edit.strength == 0.75

    def test_it_begins_from_noise_and_sees_the_whole_picture(self, bundles: Callable[[Family], Bundle]) -> None:
        """A net that ignores what it is shown paints the same whatever the picture; ours does not."""
        pictures = [painted(bundles(PIX2PIX), edit=Edit(given(noisy(seed=seed)))).image.tobytes() for seed in (0, 1)]
        assert pictures[0] != pictures[1]
        blind = bundles(PIX2PIX)
        unet = tiny_bundle(PIX2PIX).unet
        unet.enter.weight.data[:, 4:] = 0
        blind = replace(blind, unet=unet)
        pictures = [painted(blind, edit=Edit(given(noisy(seed=seed)))).image.tobytes() for seed in (0, 1)]
        assert pictures[0] == pictures[1]

    def test_masks_strengths_and_several_prompts(self, bundles: Callable[[Family], Bundle]) -> None:
        mask = Image.new("L", (SIDE, SIDE), 0)
        mask.paste(255, (8, 8, 40, 40))
        kept = painted(bundles(PIX2PIX), edit=Edit(PHOTO, mask=given(mask), blur=0.0)).image
        assert kept.crop((48, 0, 64, 64)).tobytes() == noisy().crop((48, 0, 64, 64)).tobytes()
        half = painted(bundles(PIX2PIX), edit=Edit(PHOTO, strength=0.5))
        assert half.request.edit is not None
        assert half.request.edit.strength == 0.5
        painted(bundles(PIX2PIX), edit=Edit(PHOTO), negative="two cats")
        *_, last = generate(bundles(PIX2PIX), Request("a cat AND at night :0.5", steps=2, edit=Edit(PHOTO)))
        assert last.picture is not None

    def test_the_record_says_it(self, bundles: Callable[[Family], Bundle]) -> None:
        picture = painted(bundles(PIX2PIX), edit=Edit(PHOTO), picture_guidance=1.25)
        said = picture.metadata()
        assert "Image CFG scale: 1.25" in said["parameters"]
        assert infotext.request_from(infotext.parse_infotext(said["parameters"])).picture_guidance == 1.25
        assert record_from(said["aquatint"]).request == picture.request
        assert from_words(config.to_data(picture.request)) == picture.request


class TestDepth:
    def test_the_channel_spans_its_range(self) -> None:
        channel = images.depth(noisy(40, 24).convert("L"), 8, 8)
        assert channel.shape == (1, 1, 8, 8)
        assert (channel.min().item(), channel.max().item()) == (-1.0, 1.0)
        ramp = Image.fromarray(np.tile(np.arange(0, 256, 4, dtype=np.uint8), (SIDE, 1)))
        assert (images.depth(ramp, 8, 8)[0, 0].diff(dim=1) > 0).all()  # lighter is nearer
        with pytest.raises(UserError, match="same grey everywhere"):
            images.depth(Image.new("L", (8, 8), 77), 4, 4)

    def test_it_lies_where_the_picture_does(self) -> None:
        ramp = Image.fromarray(np.tile(np.arange(128, dtype=np.uint8), (64, 1)))
        map, photo = given(ramp), given(noisy(128, 64))
        assert depth_seen(map, None, None).size == (128, 64)
        edit = Edit(photo, fit="crop")
        seen = np.asarray(depth_seen(map, edit, canvas(edit, 64, 64)))
        assert seen.shape == (64, 64)
        assert (seen[0, 0], seen[0, -1]) == (32, 95)
        mask = Image.new("L", (128, 64), 0)
        mask.paste(255, (96, 16, 112, 32))
        edit = Edit(photo, mask=given(mask), masked=True, padding=8, blur=0.0)
        over = canvas(edit, 64, 64)
        seen = np.asarray(depth_seen(map, edit, over))
        assert abs(int(seen[0, 0]) - over.place[0]) <= 1
        edit = Edit(photo, outpaint=Outpaint(left=64))
        assert depth_seen(map, edit, canvas(edit, 192, 64)).size == (128, 64)  # stretched over the whole, as it comes

    def test_it_is_seen_and_recorded(self, bundles: Callable[[Family], Bundle]) -> None:
        one = painted(bundles(DEPTHS), depth=DEPTH)
        other = painted(bundles(DEPTHS), depth=given(noisy(seed=2).convert("L")))
        assert one.image.tobytes() != other.image.tobytes()
        assert one.image.size == (SIDE, SIDE)
        assert painted(bundles(DEPTHS), depth=given(noisy(96, 64).convert("L"))).image.size == (96, 64)
        record = record_from(one.metadata()["aquatint"])
        assert record.request == one.request
        assert record.request.depth is not None
        with pytest.raises(UserError, match="not at hand"):
            generate_all(bundles(DEPTHS), record.request)
        painted(bundles(DEPTHS), depth=DEPTH, edit=Edit(PHOTO, strength=0.5))


def generate_all(bundle: Bundle, request: Request) -> None:
    for _ in generate(bundle, request):
        pass


class TestDistilled:
    def test_guidance_is_heard_and_the_negative_is_not(self, bundles: Callable[[Family], Bundle]) -> None:
        bundle = bundles(LCM)
        pictures = {
            name: painted(bundle, **wishes).image.tobytes()
            for name, wishes in {
                "2": {"guidance": 2.0},
                "8": {"guidance": 8.0},
                "8 and a negative": {"guidance": 8.0, "negative": "two cats"},
            }.items()
        }
        assert pictures["2"] != pictures["8"] == pictures["8 and a negative"]

    def test_company_changes_nothing(self, bundles: Callable[[Family], Bundle]) -> None:
        for family, wishes in ((LCM, {}), (PIX2PIX, {"edit": Edit(PHOTO)}), (DEPTHS, {"depth": DEPTH})):
            request = Request("a cat", seeds=(3, 7), steps=2, **wishes)  # type: ignore[arg-type]
            both = [step.picture for step in generate(bundles(family), request) if step.picture is not None]
            alone = painted(bundles(family), **wishes)
            assert both[1].image.tobytes() == alone.image.tobytes()


@pytest.mark.parametrize(
    ("family", "wishes", "told"),
    [
        (PIX2PIX, {}, "--image"),
        (DEPTHS, {}, "--depth"),
        (DEPTHS, {"edit": Edit(PHOTO)}, "--depth"),
        (TINY, {"depth": DEPTH}, "A depth map for TINY"),
        (PIX2PIX, {"edit": Edit(PHOTO), "depth": DEPTH}, "A depth map"),
        (TINY, {"picture_guidance": 2.0}, "picture_guidance = 2 for TINY"),
        (DEPTHS, {"depth": DEPTH, "picture_guidance": 2.0}, "picture_guidance = 2"),
        (taking(7), {}, "takes 7 channels"),
        (DEPTHS, {"depth": given(Image.new("L", (SIDE, SIDE)))}, "same grey"),
    ],
)
def test_wishes_that_do_not_fit(
    family: Family, wishes: dict[str, Any], told: str, bundles: Callable[[Family], Bundle]
) -> None:
    with pytest.raises(UserError, match=told):
        generate_all(bundles(family), Request("a cat", steps=2, **wishes))


def test_numbers_out_of_range() -> None:
    for value in (-1, 101, float("nan")):
        with pytest.raises(UserError, match="picture_guidance"):
            Request("a cat", picture_guidance=value)


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_an_offset_of_zero_suits_every_sampler(sampler: str) -> None:
    """The last two levels of "leading" are then a millionth apart, and nothing divides by nothing."""
    bundle = tiny_bundle(tiny_with(schedule=replace(TINY.schedule, offset=0)))
    picture = painted(bundle, sampler=sampler, grid="leading", steps=4)
    assert picture.image.size == (SIDE, SIDE)
