"""Edits: what is kept keeps its bits, what begins where, masks and sizes, and every contradiction is refused."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tests.fixtures import tiny_bundle, tiny_with

from aquatint.base import config, images
from aquatint.base.errors import UserError
from aquatint.diffusion.samplers import SAMPLERS
from aquatint.families import TINY
from aquatint.pipelines import metadata
from aquatint.pipelines.bundle import Bundle
from aquatint.pipelines.edit import Edit, Outpaint, canvas
from aquatint.pipelines.generate import generate
from aquatint.pipelines.given import Given, given, supplied
from aquatint.pipelines.picture import Picture
from aquatint.pipelines.request import Request

SIDE = 64


def noisy(width: int = SIDE, height: int = SIDE, seed: int = 0) -> Image.Image:
    """A picture without two equal pixels side by side."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def square(left: int = 16, top: int = 24, right: int = 40, bottom: int = 48, size: int = SIDE) -> Image.Image:
    mask = Image.new("L", (size, size), 0)
    mask.paste(255, (left, top, right, bottom))
    return mask


PHOTO, MASK = given(noisy(), "photo"), given(square(), "mask")


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return tiny_bundle()


def painted(bundle: Bundle, edit: Edit | None, **wishes: object) -> Picture:
    wishes = {"steps": 4, "seeds": (7,)} | wishes
    *_, last = generate(bundle, Request("a cat", edit=edit, **wishes))  # type: ignore[arg-type]
    assert last.picture is not None
    return last.picture


def values(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)


class TestGiven:
    def test_a_picture_is_told_by_its_pixels(self) -> None:
        data = io.BytesIO()
        noisy().save(data, "PNG", optimize=True)
        assert given(data.getvalue(), "photo") == PHOTO
        assert given(noisy(seed=1), "photo") != PHOTO
        assert given(noisy(32, 128), "photo").sha256 != given(noisy(128, 32), "photo").sha256

    def test_a_record_holds_no_pixels_and_takes_them_again(self) -> None:
        back = config.from_json(Given, config.to_json(PHOTO))
        assert back == PHOTO
        with pytest.raises(UserError, match=r"not at hand.*--image"):
            _ = back.pixels
        assert supplied(back, noisy()).pixels.tobytes() == noisy().tobytes()
        with pytest.raises(UserError, match="painted from"):
            supplied(back, noisy(seed=1))

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"])
    def test_every_mode_is_taken(self, mode: str) -> None:
        made = given(Image.new(mode, (8, 8)))
        assert made.pixels.mode in ("RGB", "RGBA", "L")
        assert images.rgb(made.pixels).size == (8, 8)


class TestWhole:
    def test_the_less_strength_the_nearer_the_picture(self, bundle: Bundle) -> None:
        smooth = given(noisy().resize((8, 8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        (plain,) = bundle.decode(bundle.encode(smooth.pixels))
        far = [
            np.abs(
                values(painted(bundle, Edit(smooth, strength=s), steps=20, guidance=1.0).image) - values(plain)
            ).mean()
            for s in (0.05, 0.3, 1.0)
        ]
        assert far[0] < far[1] < far[2]

    def test_only_its_share_of_the_steps_is_made(self, bundle: Bundle) -> None:
        seen = list(generate(bundle, Request("a cat", steps=10, edit=Edit(PHOTO, strength=0.35))))
        assert [(step.index, step.total) for step in seen] == [(1, 3), (2, 3), (3, 3)]

    def test_the_picture_for_a_seed_is_its_own(self, bundle: Bundle) -> None:
        request = Request("a cat", steps=4, seeds=(5, 7), edit=Edit(PHOTO, mask=MASK))
        together = [step.picture for step in generate(bundle, request) if step.picture]
        alone = painted(bundle, Edit(PHOTO, mask=MASK))
        assert together[1].image.tobytes() == alone.image.tobytes()
        assert together[0].image.tobytes() != alone.image.tobytes()

    def test_the_size_is_the_pictures(self, bundle: Bundle) -> None:
        assert painted(bundle, Edit(given(noisy(48, 80)))).image.size == (48, 80)
        with pytest.raises(UserError, match=r"50 x 64.*multiples"):
            painted(bundle, Edit(given(noisy(50, 64))))
        with pytest.raises(UserError, match="crop or pad"):
            painted(bundle, Edit(PHOTO), width=32, height=32)

    @pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
    @pytest.mark.parametrize("size", [(50, 90), (64, 64), (17, 8), (200, 40)])
    def test_other_sizes_are_fitted(self, bundle: Bundle, fit: str, size: tuple[int, int]) -> None:
        edit = Edit(given(noisy(*size)), mask=given(noisy(*size, seed=1).convert("L")), fit=fit)  # type: ignore[arg-type]
        assert painted(bundle, edit, width=64, height=32).image.size == (64, 32)

    def test_crop_and_pad_keep_the_shape_of_things(self) -> None:
        wide = Image.new("RGB", (128, 64), "black")
        wide.paste((255, 255, 255), (32, 0, 96, 64))
        cropped = canvas(Edit(given(wide), fit="crop"), 64, 64).picture
        padded = canvas(Edit(given(wide), fit="pad"), 64, 64).picture
        assert values(cropped).min() == 255
        assert values(padded)[:, 24:40].min() > 250
        assert values(padded)[:, :12].max() < 5


class TestMasked:
    @pytest.mark.parametrize("name", SAMPLERS)
    def test_what_is_left_out_keeps_its_bits(self, bundle: Bundle, name: str) -> None:
        edit = Edit(PHOTO, mask=MASK, blur=0.0, strength=1.0)
        result = values(painted(bundle, edit, sampler=name, steps=3).image)
        outside = values(square()) == 0
        assert (result[outside] == values(noisy())[outside]).all()
        assert (result[~outside] != values(noisy())[~outside]).any()

    def test_without_keep_only_the_latents_are_held(self, bundle: Bundle) -> None:
        edit = Edit(PHOTO, mask=MASK, blur=0.0, strength=1.0, keep=False)
        result = values(painted(bundle, edit).image)
        (plain,) = bundle.decode(bundle.encode(noisy()))
        far = slice(0, 8)  # rows beyond the decoder's reach of the mask, from which its attention still looks around
        assert (
            np.abs(result[far] - values(plain)[far]).mean()
            < np.abs(result[24:48, 16:40] - values(plain)[24:48, 16:40]).mean()
        )

    def test_soft_edges_mix(self) -> None:
        over = canvas(Edit(PHOTO, mask=MASK, blur=3.0), SIDE, SIDE)
        red = Image.new("RGB", (SIDE, SIDE), "red")
        result = values(over.finished(red))
        assert (result[36, 28] == (255, 0, 0)).all()
        assert (result[0, 0] == values(noisy())[0, 0]).all()
        edge = values(over.mask)[36, 16]
        assert 0 < edge < 255

    def test_grow_and_invert(self) -> None:
        def area(**options: object) -> float:
            return values(canvas(Edit(PHOTO, mask=MASK, blur=0.0, **options), SIDE, SIDE).mask).mean() / 255

        assert area() == 24 * 24 / SIDE**2
        assert area(grow=4) == 32 * 32 / SIDE**2
        assert area(grow=-4) == 16 * 16 / SIDE**2
        assert area(invert=True) == 1 - area()

    def test_a_black_mask_has_nothing_to_paint(self, bundle: Bundle) -> None:
        black, white = (given(Image.new("L", (SIDE, SIDE), value)) for value in (0, 255))
        for edit in (Edit(PHOTO, mask=black), Edit(PHOTO, mask=white, invert=True)):
            with pytest.raises(UserError, match="nothing to paint"):
                generate(bundle, Request("a cat", edit=edit))

    def test_a_white_mask_of_full_strength_forgets_the_picture(self, bundle: Bundle) -> None:
        white = given(Image.new("L", (SIDE, SIDE), 255))
        edits = [Edit(photo, mask=white, strength=1.0) for photo in (PHOTO, given(noisy(seed=3)))]
        pictures = [painted(bundle, edit).image.tobytes() for edit in edits]
        assert pictures[0] == pictures[1] == painted(bundle, None).image.tobytes()

    def test_fills_begin_elsewhere(self, bundle: Bundle) -> None:
        made = {
            fill: painted(bundle, Edit(PHOTO, mask=MASK, fill=fill, strength=0.5)).image.tobytes()  # type: ignore[arg-type]
            for fill in ("original", "blur", "noise", "nothing")
        }
        assert len(set(made.values())) == 4

    def test_the_blur_fill_comes_from_around(self) -> None:
        half = Image.new("RGB", (SIDE, SIDE), (200, 40, 40))
        half.paste((255, 255, 255), (16, 24, 40, 48))
        filled = values(canvas(Edit(given(half), mask=MASK, fill="blur", blur=0.0), SIDE, SIDE).picture)
        assert np.abs(filled - (200, 40, 40)).max() <= 3

    def test_nets_for_inpainting_are_shown_mask_and_picture(self) -> None:
        family = tiny_with(unet=replace(TINY.unet, channels_in=9))
        inpainter = tiny_bundle(family)
        seen: list[torch.Tensor] = []
        inpainter.unet.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        painted(inpainter, Edit(PHOTO, mask=MASK, blur=0.0), guidance=1.0)
        mask, hidden = seen[0][0, 4], seen[0][:1, 5:]
        factor = family.autoencoder.factor
        assert torch.equal(mask, torch.from_numpy(np.asarray(square()) / 255.0)[::factor, ::factor].float())
        photo = images.to_tensor(noisy()) * (torch.from_numpy(np.asarray(square())) == 0)
        torch.testing.assert_close(hidden, inpainter.autoencoder.encode(photo).detach())


class TestClose:
    def test_the_part_is_painted_large_and_set_back(self, bundle: Bundle) -> None:
        photo, mask = given(noisy(256, 192)), Image.new("L", (256, 192), 0)
        mask.paste(255, (200, 20, 220, 40))
        edit = Edit(photo, mask=given(mask), masked=True, padding=16, blur=0.0)
        over = canvas(edit, 64, 64)
        assert over.picture.size == (64, 64)
        assert over.place == (184, 4, 236, 56)
        result = painted(bundle, edit).image
        assert result.size == (256, 192)
        outside = np.asarray(mask) == 0
        assert (values(result)[outside] == values(noisy(256, 192))[outside]).all()
        assert (values(result)[~outside] != values(noisy(256, 192))[~outside]).any()

    @pytest.mark.parametrize("box", [(0, 0, 8, 8), (248, 184, 256, 192), (0, 90, 256, 100), (100, 0, 110, 192)])
    @pytest.mark.parametrize("size", [(64, 64), (96, 32), (32, 96)])
    def test_it_stays_inside_and_covers_the_mask(self, box: tuple[int, ...], size: tuple[int, int]) -> None:
        mask = Image.new("L", (256, 192), 0)
        mask.paste(255, box)
        edit = Edit(given(noisy(256, 192)), mask=given(mask), masked=True, blur=0.0)
        left, top, right, bottom = canvas(edit, *size).place
        assert 0 <= left <= box[0] < box[2] <= right <= 256
        assert 0 <= top <= box[1] < box[3] <= bottom <= 192


class TestOutpaint:
    def test_new_canvas_at_the_sides(self, bundle: Bundle) -> None:
        edit = Edit(PHOTO, strength=1.0, blur=2.0, outpaint=Outpaint(left=16, bottom=32))
        result = painted(bundle, edit).image
        assert result.size == (80, 96)
        inner = values(result)[: SIDE - 16, 16 + 16 :]
        assert (inner == values(noisy())[: SIDE - 16, 16:]).all()
        assert (values(result)[:48, :12] != values(canvas(edit, 80, 96).picture)[:48, :12]).any()

    @pytest.mark.parametrize("sides", [{"left": 4}, {"top": -8}, {"right": 4096}])
    def test_sides_have_bounds(self, sides: dict[str, int]) -> None:
        with pytest.raises(UserError, match="outpaint"):
            Outpaint(**sides)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"strength": 0.0}, "strength"),
        ({"strength": 1.5}, "strength"),
        ({"strength": float("nan")}, "strength"),
        ({"blur": -1.0}, "blur"),
        ({"grow": 1000}, "grow"),
        ({"padding": -1}, "padding"),
        ({"mask": None, "invert": True}, "invert without a mask"),
        ({"mask": None, "grow": 3}, "grow without a mask"),
        ({"mask": None, "masked": True}, "masked without a mask"),
        ({"mask": None, "fill": "noise"}, "fill without a mask"),
        ({"mask": given(noisy(32, 32))}, "mask is 32 x 32"),
        ({"outpaint": Outpaint(left=8)}, "outpaint together with a mask"),
        ({"mask": None, "outpaint": Outpaint(left=8), "fit": "crop"}, "outpaint together with fit"),
    ],
)
def test_what_contradicts_itself_is_refused(options: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=told):
        Edit(**({"image": PHOTO, "mask": MASK} | options))  # type: ignore[arg-type]


def test_too_little_to_do_is_refused(bundle: Bundle) -> None:
    with pytest.raises(UserError, match="not one step"):
        generate(bundle, Request("a cat", steps=4, edit=Edit(PHOTO, strength=0.2)))


def test_the_record_repeats_the_edit_once_its_pictures_are_there(bundle: Bundle) -> None:
    edit = Edit(PHOTO, mask=MASK, strength=0.5, fill="blur")
    first = painted(bundle, edit)
    found = metadata.find(images.decode(first.encode("png")))
    assert "Denoising strength: 0.5" in (found.infotext or "")
    assert metadata.MARK_OF_EDITS.encode() in first.encode("png")
    assert found.marked
    back = config.from_json(type(first.record), found.record or "").request
    assert back.edit == edit
    with pytest.raises(UserError, match="not at hand"):
        generate(bundle, back)
    whole = replace(edit, image=supplied(PHOTO, noisy()), mask=supplied(MASK, square()))
    (*_, last) = generate(bundle, replace(back, edit=whole))
    assert last.picture is not None
    assert last.picture.encode("png") == first.encode("png")
